//! A buddy allocator of page frames: split and merge without lists, without locks, and without
//! touching free memory.
//!
//! Frames by number, in safe code:
//!
//! ```
//! use buddy::{FrameAllocator, Mode, ZeroedMemory};
//! use page_frame::{FrameNumber, FrameRange, Order, SingleCpu};
//!
//! let ranges = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(1024))]; // 4 MiB
//! let layout = FrameAllocator::<SingleCpu>::metadata_layout(&ranges, 1)?;
//! let mut metadata = Box::new_uninit_slice(layout.size() + layout.align());
//! let metadata = ZeroedMemory::zero(&mut metadata);
//! let frames = FrameAllocator::new_in(metadata, &ranges, SingleCpu::new(), Mode::Cached)?;
//!
//! let block = frames.allocate_frames(Order::new(3).unwrap())?; // 8 frames
//! frames.free_frames(block, Order::new(3).unwrap())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Memory by address, as a [`PageSource`](page_frame::PageSource). The caller promises once that
//! the memory is there:
//!
//! ```
//! use buddy::{Buddy, Mode, ZeroedMemory};
//! use page_frame::{DirectMap, FrameNumber, FrameRange, Order, PAGE_SIZE, PageSource, SingleCpu};
//! # use std::alloc::{Layout, alloc};
//! # use std::ptr::NonNull;
//! # // SAFETY: the layout is not empty.
//! # let memory = unsafe { alloc(Layout::from_size_align(1024 * PAGE_SIZE, PAGE_SIZE)?) };
//! # let memory = NonNull::new(memory).unwrap();
//!
//! let ranges = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(1024))];
//! let layout = Buddy::<DirectMap, SingleCpu>::metadata_layout(&ranges, 1)?;
//! let mut metadata = Box::new_uninit_slice(layout.size() + layout.align());
//! let metadata = ZeroedMemory::zero(&mut metadata);
//! // SAFETY: `memory` points to the memory of all frames, from frame 0 on.
//! let map = unsafe { DirectMap::from_root(memory, FrameNumber::new(0)) };
//! // SAFETY: no other code uses the frames, and `map` covers them.
//! let buddy = unsafe { Buddy::new_in(metadata, &ranges, map, SingleCpu::new(), Mode::Cached) }?;
//!
//! let block = buddy.allocate(Order::ZERO)?;
//! // SAFETY: the block is this buddy's, and not used any more.
//! unsafe { buddy.free(block) };
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Theory
//! Memory is frames of 4 KiB. A request is rounded up to a power of two, its **order**. Larger
//! blocks are split until one fits, and freed blocks merge with the block they were split from
//! (Knowlton 1965; Knuth, TAOCP 1, section 2.5).
//!
//! Classical buddy allocators keep a list of free blocks per order, and change lists at every split
//! and merge. Here one bit per frame says "taken", and nothing else is stored. A block is free
//! exactly when its aligned run of bits is clear. Clearing the bits of a block completes all
//! merges, and setting bits completes all splits. The free blocks that a list-based buddy would
//! have (the canonical blocks) are computed from the bits on demand. Two free neighbours that are
//! not buddies stay two blocks, since no aligned run covers both.
//!
//! - An **area** is 512 frames: one cache line of bits. Searching it costs a few loads. Whole areas
//!   are claimed through a byte of their own, their **entry**.
//! - A **section** is 1 GiB of areas, with **hints** that lead to the fullest area that has room.
//! - A **zone** is one allocator: a table of sections, with holes. Sections can be added and
//!   removed, and areas taken offline. A [`ZoneList`] is several zones, each with [`Watermarks`],
//!   that stand in for one another.
//! - A **CPU slot** caches free blocks for its CPU, on a stack for each order up to the area's. A
//!   hit contains no atomic read-modify-write.
//! - A free that the slot does not cache is **deferred**: it writes one byte. When an area has many
//!   deferred frees, it is **reconciled**: the bits of all deferred blocks are cleared together.
//! - An area has a **placement**, so that blocks of one size and mobility stay together. It may be
//!   **owned** by a CPU slot, which then refills from it. Ownership is affinity, not a right: every
//!   CPU may take from every area. Where the memory has, or may grow to, fewer than 128 areas for
//!   each slot that was ever used, a slot owns an area only during a refill.
//!
//! # Costs
//! The doc comment of an operation says how its cost grows. Where it says "Longest path counted",
//! the figure is the longest of many operations in a kernel under QEMU, in x86-64 instructions. The
//! name in brackets is a row in the book's chapter on longest paths, which describes the histories.
//! The kernel fails when an operation exceeds its figure by more than a tenth.
//!
//! # Types
//! - [`FrameAllocator`] allocates and frees frames by number. It makes no pointer, and all of its
//!   methods are safe.
//! - [`Buddy`] adds the map from frames to addresses, and lends blocks and runs by address. Its
//!   frees are `unsafe`.
//! - [`GrowingBuddy`] is a constant that gets ranges at any time; each has a buddy in its own
//!   memory.
//! - [`FramePool`] is the type that both dereference to. Its methods free no block, and are safe in
//!   both.
//!
//! # Features
//! With the feature `x86_64`, references to all three allocators are `FrameAllocator` and
//! `FrameDeallocator` of the crate of that name. With `ax-allocator` or `axallocator`, the crates
//! of ArceOS of these names, `BuddyPageAllocator` is a `PageAllocator`.
//!
//! # Layers
//! From the top: `zones` and [`Buddy`], over [`FrameAllocator`], over `frame_pool`, over the caches
//! of `percpu`, over the shared `frames`, which join the `bitmap`, the `tags` and the deferred
//! frees. `metadata` carves the memory for all of them.
//!
//! # Invariants
//! - I1: a frame belongs to at most one block, run or slot. While it does, its bit is set, or its
//!   area is whole.
//! - I2: the bits of an area that is allocated whole are clear, except for strays about to be
//!   undone.
//! - I3: an open area with a free frame has a hint, or a call is about to set it.
//! - I4: no claim outlives the call that made it.
//! - I5: in the page map the head of an allocated block carries its order. Free frames have no tag.
//! - I6: blocks cover every frame exactly once.
//! - I7: the count of an area with deferred frees says so, or a call is about to count them, or is
//!   reconciling the area.
//!
//! # Concurrency
//! Every take trusts only the old value of its own read-modify-write. The two pairs of locations
//! that need one order are described in `section.rs`. No call waits: a block above the area's order
//! tries its section's lock, and every retry is bounded.
//!
//! # Panics of traces and hooks
//! Traces and fault hooks are safe code of the user, which may panic and may call the allocator
//! again. A call from a trace is like a call from an interrupt: it finds the slot entered and takes
//! bits instead. `unwind.rs` describes the state after a panic: no frame is lost, no frame has two
//! owners, and no area stays claimed.
//!
//! # Sources
//! The bits of areas and their separate entries follow LLFree (Wrenger et al., USENIX ATC 2023).
//! Taking a whole word at once, and hints in place of trees, are new here.
#![no_std]

mod allocator;
mod bitmap;
mod frames;
mod interfaces;
mod metadata;
mod percpu;
mod trace;
mod zeroed_memory;
mod zones;

pub use crate::allocator::buddy::Buddy;
pub use crate::allocator::compact::{Relocated, Relocation};
pub use crate::allocator::frame_allocator::FrameAllocator;
pub use crate::allocator::frame_pool::{FramePool, Mode};
pub use crate::allocator::growing::GrowingBuddy;
pub use crate::allocator::hotplug::HotplugError;
pub use crate::allocator::pieces::SplitError;
pub use crate::allocator::stats::Fragmentation;
pub use crate::bitmap::placement::Mobility;
pub use crate::frames::blocks::{Block, BlockState};
#[cfg(any(feature = "ax-allocator", feature = "axallocator"))]
pub use crate::interfaces::ax_allocator::BuddyPageAllocator;
pub use crate::metadata::BuildError;
pub use crate::trace::{EventCounts, Pressure, Trace};
pub use crate::zeroed_memory::ZeroedMemory;
pub use crate::zones::request::{Request, ZoneKind};
pub use crate::zones::watermark::{Marks, Watermarks};
pub use crate::zones::zone::Zone;
pub use crate::zones::zone_list::{NodeZone, ZoneList, ZoneListError};
pub use crate::zones::zone_source::ZoneSource;
/// The crate below, so that this crate can be used without naming it as a dependency.
pub use page_frame;
pub use page_frame::Violation;
