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

mod arch;
mod block;
mod boot;
mod error;
mod fault;
mod frame;
mod order;
mod page_map;
mod percpu;
mod source;
#[doc(hidden)]
pub mod sync;
mod violation;

pub use block::PageBlock;
pub use boot::memory_map::{MapError, MemoryMap};
pub use boot::phys_map::{DirectMap, PhysMap};
pub use boot::region::{Region, RegionKind};
pub use boot::usable::{Loss, LossReason};
pub use error::OutOfMemory;
pub use fault::{Fault, FaultHook, FaultKind, FaultPlace, panic_on_fault};
pub use frame::{FrameNumber, FrameRange};
pub use order::{Fit, Order, PAGE_SHIFT, PAGE_SIZE};
pub use page_map::array::PageMapArray;
pub use page_map::forward::ForwardPageMap;
pub use page_map::map::{PageMap, TagRange};
pub use page_map::tag::Tag;
pub use percpu::cpu::{Cpu, InterruptState};
pub use percpu::freeze::Frozen;
pub use percpu::guard::{EnterError, PerCpuGuard};
pub use percpu::id::CpuId;
pub use percpu::irq_lock::{IrqLock, IrqLockGuard, IrqLockToken};
pub use percpu::machines::{Fenced, SingleCpu, SwitchedCpu};
pub use percpu::per_cpu::{PerCpu, StridedPerCpu};
pub use percpu::slot::PerCpuSlot;
pub use percpu::slot_stride::WithSlotStride;
pub use percpu::take_over::TakeOver;
pub use source::arena::{Arena, TooSmall};
pub use source::counted::Counted;
pub use source::limited::Limited;
pub use source::page_source::{NoPages, PageSource};
pub use source::reclaiming::Reclaiming;
pub use source::run::{PageResize, PageRun};
pub use source::shrink::Shrink;
pub use source::shrink_list::{ListFull, ShrinkList, StillInUse};
pub use violation::Violation;

/// What only the crates of this workspace use: no promise is made about it.
#[doc(hidden)]
pub mod internals {
    pub use crate::page_map::array::TagPlace;
    pub use crate::page_map::deferred_heads::DeferredHeads;
}
