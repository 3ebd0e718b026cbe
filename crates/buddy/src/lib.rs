//! A buddy allocator of page frames: split and merge without lists, without locks, without touching free memory.
//!
//! # Theory
//! Memory is frames of 4 KiB. A request is rounded up to a power of two, its **order**; larger blocks are split until one
//! fits, and freed blocks merge with the block they were split from (Knowlton 1965; Knuth, TAOCP 1, section 2.5).
//!
//! Classical buddies keep a list of free blocks per order, and do list surgery at every split and merge. Here a bit per
//! frame says "taken", and nothing else is stored: a block is free exactly when its aligned run of bits is clear. Freeing
//! clears bits, and with that every merge has happened; taking sets bits, and with that every split has. The free blocks
//! that a list-based buddy would have (the canonical blocks) are derived from the bits whenever somebody wants to see
//! them. Two neighbours that are both free but not buddies stay two blocks, since no aligned run covers both.
//!
//! - An **area** is 512 frames: one cache line of bits. Searching one costs a few loads; whole areas are claimed through a
//!   word of their own, their **entry**.
//! - A **section** is 1 GiB of areas, with **hints** that lead to the fullest area that has room.
//! - A **zone** is a table of sections, with holes; sections can be added and removed, areas taken offline. A [`ZoneList`]
//!   is several of them, each with [`Watermarks`], that stand in for one another.
//! - A **CPU slot** keeps free blocks at hand for its CPU, on a stack for each order up to the area's. Hits contain no atomic
//!   read-modify-write.
//! - What is freed where the slot has no use for it is **left** where it is: the free writes a byte. An area in which much was
//!   left is **gathered**: all of it goes home together.
//! - Areas have a **kind**, so that blocks of one size and mobility stay together, and may be **owned** by a slot, which then
//!   refills from them. Ownership is affinity, not a right: anybody may take from any area.
//!
//! # Types
//! - [`FrameAllocator`] gives and takes frames by number. It makes no pointer, and all of it is safe.
//! - [`Buddy`] adds where the machine sees the frames, and lends them as blocks and runs by address. Its frees are `unsafe`.
//! - [`FramePool`] is what both dereference to: safe methods, none of which frees what somebody holds.
//!
//! # Invariants
//! - I1: a frame belongs to at most one block, run or slot; its bit is set, or its area is whole, while it does.
//! - I2: the bits of an area that is allocated whole are clear, but for strays about to be undone.
//! - I3: an open area with a free frame has a hint, or somebody is about to set it.
//! - I4: no claim outlives the call that made it.
//! - I5: in the page map the head of an allocated block carries its order; free frames carry nothing.
//! - I6: blocks cover every frame exactly once.
//! - I7: an area in which blocks were left says so, or somebody is about to write it there, or is gathering.
//!
//! # Concurrency
//! Every take believes only the old value of its own read-modify-write. The two pairs of locations that need one order are
//! described in `section.rs`. Nothing waits: a block above the area's order tries its section's lock,
//! and every retry has a bound.
//!
//! # Panics of others
//! Observers and fault hooks are safe code of somebody else, which may panic and may call the allocator again. A call from an
//! observer is like one from an interrupt: it finds the slot entered and takes bits instead. What a panic leaves is described in
//! `unwind.rs`: no frame is lost, none has two owners, and no area stays claimed.
//!
//! # Sources
//! The bits of areas and their separate entries follow LLFree (Wrenger et al., USENIX ATC 2023). Taking a whole word at
//! once, and hints in place of trees, are ours.
#![no_std]

mod bitmap;
mod bits;
mod blocks;
mod buddy;
mod build;
mod bulk;
mod checked_free;
mod deferred_free;
mod frame_allocator;
mod frame_pool;
mod percpu;
mod shrink;
mod source;
mod stats;
mod trace;
mod unwind;
mod validate;
mod zeroed_memory;
mod zones;

pub use crate::buddy::Buddy;
pub use bitmap::placement::Mobility;
pub use blocks::{Block, BlockState};
pub use build::BuildError;
pub use checked_free::Exact;
pub use frame_allocator::FrameAllocator;
pub use frame_pool::{FramePool, Mode};
/// The crate below, so that this one can be used alone.
pub use page_frame;
pub use stats::Fragmentation;
pub use trace::{EventCounts, Observe};
pub use validate::Violation;
pub use zeroed_memory::ZeroedMemory;
pub use zones::hotplug::HotplugError;
pub use zones::watermark::{Gate, Marks, Pressure, Watermarks};
pub use zones::zone_list::{NodeZone, Request, ZoneKind, ZoneList, ZoneListError, ZoneSource};

use page_frame::FrameNumber;
