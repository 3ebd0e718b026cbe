//! The foundation of a memory allocator: page sources, page maps, per-CPU slots, and the memory map
//! of a boot.
//!
//! ```
//! use page_frame::{Arena, Counted, Order, PageSource};
//!
//! # let mut memory = vec![core::mem::MaybeUninit::uninit(); 64 * 1024];
//! let source = Counted::new(Arena::new(&mut memory)?); // any memory will do
//! let block = source.allocate(Order::ZERO)?; // one page of 4 KiB
//! assert_eq!((block.bytes(), source.held_pages()), (4096, 1));
//! // SAFETY: the block came from this source, and nothing refers into it.
//! unsafe { source.free(block) };
//! assert_eq!((source.held_pages(), source.peak_pages()), (0, 1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Theory
//! A kernel's allocator is a stack. At the bottom is memory in **frames** of 4 KiB. A **page
//! source** allocates aligned runs of frames as **blocks**. Caches above it cut blocks into
//! objects. Each layer names only the trait of the layer below, and the traits are here:
//!
//! - [`PageSource`] allocates and frees blocks. [`PageResize`] adds runs of any number of pages.
//!   [`ByteSource`] adds memory of any size, for memories in which a page is much. Adapters around
//!   a page source are page sources themselves: [`Counted`], [`Limited`], [`Reclaiming`].
//! - [`PageMap`] maps an address to a tag and an owner, from a byte and a word for each page.
//!   [`ForwardPageMap`] implements it for an adapter in one method.
//! - [`Shrink`] releases pages when memory is short. [`ShrinkList`] calls several shrinkers.
//! - [`Cpu`] tells which CPU the caller runs on, keeps it there, and fences all other CPUs.
//!   [`PerCpu`] builds state per CPU on it that needs no atomic read-modify-write, and that other
//!   CPUs can take over.
//! - [`PhysMap`] maps frames to addresses. It is the only code that turns integers into pointers.
//!
//! The crate also has the memory map of a boot ([`MemoryMap`]), the smallest page source
//! ([`Arena`]), the one error of all allocations ([`OutOfMemory`]), the report of a misuse
//! ([`Fault`]), and the error of all `validate` methods ([`Violation`]).
//!
//! Requests and shrink orders travel down the stack; blocks and errors travel up. No layer holds a
//! lock while it calls another one. No layer reads or writes free memory.
//!
//! # Modules
//! `order`, `frame`, `block`, `error`, `fault` and `violation` define values. `source`, `page_map`,
//! `percpu` and `boot` are one folder for each concept above. `sync` has the atomics and locks,
//! real or modelled by loom; `arch` has the assembly.
#![no_std]

mod access;
mod arch;
pub(crate) mod atomic;
mod block;
mod boot;
mod cache_name;
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
pub use cache_name::CacheName;
pub use error::OutOfMemory;
pub use fault::{Fault, FaultHook, FaultKind, FaultPlace, panic_on_fault};
pub use frame::{FrameNumber, FrameRange};
pub use order::{Fit, Order, PAGE_SHIFT, PAGE_SIZE};
pub use page_map::array::PageMapArray;
pub use page_map::forward::ForwardPageMap;
pub use page_map::map::{PageMap, TagRange};
pub use page_map::tag::Tag;
pub use percpu::cpu::{Cpu, InterruptState};
#[cfg(feature = "critical-section")]
pub use percpu::critical_section::CriticalSectionCpu;
pub use percpu::freeze::Frozen;
pub use percpu::guard::{EnterError, PerCpuGuard};
pub use percpu::id::CpuId;
pub use percpu::irq_lock::{IrqLock, IrqLockGuard, IrqLockToken};
pub use percpu::machines::{Fenced, MaskedCpu, OneContext, SingleCpu, SwitchedCpu};
pub use percpu::per_cpu::{PerCpu, StridedPerCpu};
pub use percpu::pin_guards::PinGuards;
pub use percpu::slot::PerCpuSlot;
pub use percpu::slot_stride::WithSlotStride;
pub use percpu::take_over::TakeOver;
pub use source::arena::{Arena, TooSmall};
pub use source::byte_source::ByteSource;
pub use source::counted::Counted;
pub use source::limited::Limited;
pub use source::page_source::{NoPages, PageSource};
pub use source::reclaiming::Reclaiming;
pub use source::regions::Regions;
pub use source::run::{PageResize, PageRun};
pub use source::shrink::Shrink;
pub use source::shrink_list::{ListFull, ShrinkList, StillInUse};
pub use sync::once::Once;
pub use violation::Violation;

/// Items for the other crates of this workspace. They may change in any release.
#[doc(hidden)]
pub mod internals {
    pub use crate::page_map::array::{TagPlace, TagsByNumber};
    pub use crate::page_map::deferred_heads::DeferredHeads;
}
