//! The machine below a memory allocator: frames, page sources, the page map, CPU slots.
//!
//! # Theory
//! An allocator for kernels is a stack. At the bottom is memory in **frames** of 4 KiB. A **page source** hands out
//! aligned runs of them as **blocks**. Above it caches cut blocks into objects. Each layer names only the trait of the
//! one below, and the traits are here:
//!
//! - [`PageSource`]: allocate a block, free a block. Adapters around one ([`Counted`], [`Limited`], [`Reclaiming`]) are
//!   page sources again. [`PageResize`] adds exact page counts.
//! - [`PageMap`]: what lies at an address, from a byte per page and a word per page.
//! - [`Shrink`]: pages that somebody could do without.
//! - [`Cpu`]: which CPU am I, keep me here, fence all the others. [`PerCpu`] builds state per CPU on it that needs no
//!   atomic read-modify-write, and that others can still take over.
//! - [`PhysMap`]: frame numbers to addresses, the only place where integers become pointers.
//!
//! Beside them stand what a boot needs ([`MemoryMap`]), the smallest real source ([`Arena`]), the one error
//! ([`OutOfMemory`]), the one report of misuse ([`Fault`]), and [`sync`], through which loom sees all of it.
//!
//! Requests and shrink orders travel down; blocks and errors travel up. No lock is held across a call into another
//! layer. Free memory is never read or written.
#![no_std]

mod adapt;
mod arena;
mod block;
mod cpu;
mod deferred_heads;
mod error;
mod fault;
mod forward_map;
mod frame;
mod freeze;
mod irq_lock;
mod memory_map;
mod order;
mod page_map;
mod phys_map;
mod shrink;
mod shrink_list;
mod slots;
mod source;
mod spacing;
pub mod sync;
mod tag;
mod tag_range;
mod take_over;

pub use adapt::{Counted, Limited};
pub use arena::{Arena, TooSmall};
pub use block::PageBlock;
pub use cpu::{Cpu, CpuId, Fenced, InterruptState, SingleCpu, SwitchedCpu};
pub use deferred_heads::DeferredHeads;
pub use error::OutOfMemory;
pub use fault::{Fault, FaultHook, FaultKind, panic_on_fault};
pub use forward_map::SameMap;
pub use frame::{FrameNumber, FrameRange};
pub use freeze::Frozen;
pub use irq_lock::{IrqLock, IrqLockGuard, IrqLockToken};
pub use memory_map::{Loss, LossReason, MapError, MemoryMap, Region, RegionKind};
pub use order::{Fit, Order};
pub use page_map::{PageMap, PageMapArray, TagPlace};
pub use phys_map::{DirectMap, PhysMap};
pub use shrink::{Reclaiming, Shrink};
pub use shrink_list::{ListFull, ShrinkList, StillInUse};
pub use slots::{EnterError, PerCpu, PerCpuGuard, PerCpuSlot};
pub use source::{NoPages, PageResize, PageRun, PageSource};
pub use spacing::{Packed, SideBySide, Spacing, Spread};
pub use tag::Tag;
pub use tag_range::TagRange;
pub use take_over::TakeOver;

/// The base-2 logarithm of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;
/// The size of a page and of a frame in bytes.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;
