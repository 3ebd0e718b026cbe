//! Object caches: objects of one size and in constructed state, from any source of pages, without a
//! heap.
//!
//! ```
//! use core::{alloc::Layout, mem::MaybeUninit};
//! use page_frame::{Arena, SingleCpu};
//!
//! let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
//! let arena = Arena::new(&mut memory)?;
//! let registry = slab::Registry::new(&arena, SingleCpu::new())?;
//! let messages = registry.cache("message", Layout::new::<[u64; 80]>()).build()?;
//! let message = messages.allocate()?;
//! // SAFETY: allocated above, and not used any more.
//! unsafe { messages.free(message) };
//! # // A page holds 6 objects of 640 bytes, and can shift them by 0, 64, 128 or 192 bytes.
//! # assert_eq!((messages.geometry().capacity(), messages.geometry().colours()), (6, 4));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | purpose | use |
//! |---|---|
//! | the caches of a system, their statistics, and memory back when it is short | [`Registry`] |
//! | objects of any layout | [`Registry::cache`], [`Cache`] |
//! | values of a Rust type, reset and reused | [`Registry::objects`], [`ObjectCache`] |
//! | objects when memory has run out | [`Cache::mempool`], [`Cache::prefill`] |
//! | readers without locks (RCU): frees that wait | [`GracePeriods`], [`DeferredFrees`] |
//! | memory that keeps its type for them | [`CacheBuilder::type_stable`] |
//! | a cache on each memory node | [`NumaCache`] |
//! | double frees, overflows, writes after a free found | [`Hardened`], [`Hardening`] |
//! | the kernel's function names | [`linux`] |
//! | events, leaked objects | [`Trace`], [`Cache::for_each_live`] |
//!
//! # Theory
//! A **slab** is a block of pages cut into objects of one size. [`Geometry`] computes the cut, as
//! `const fn`: how many pages are best for a size, how many objects they hold, and the **colours**.
//! Colours shift the first object of successive slabs, so that objects at the same place of
//! different slabs do not compete for the same sets of the CPU's caches (Bonwick 1994, section 4).
//!
//! A [`Cache`] owns the slabs of one kind of object. Each CPU keeps free objects in **magazines**,
//! which it fills and empties without an atomic read-modify-write. CPUs exchange whole magazines at
//! the **depot** (Bonwick and Adams 2001). An allocation that finds no magazine takes objects from
//! the slabs, and slabs come from a [`PageSource`](page_frame::PageSource) with a page map.
//!
//! Every CPU may free objects of every slab. One atomic word per slab, the **free word**, takes
//! such frees without a lock. It decides exactly once which CPU makes a full slab known again, and
//! when its pages may be released.
//!
//! # Costs
//! Where a doc comment says "Longest path counted", the figure is the longest of many operations in
//! a kernel under QEMU, in x86-64 instructions, the page source included. The name in brackets is a
//! row in the book's chapter on longest paths, which describes the histories. The kernel fails when
//! an operation exceeds its figure by more than a tenth.
#![no_std]

mod cache;
mod cache_inner;
mod debug;
mod grace;
mod hardening;
pub mod linux;
mod own_memory;
mod patience;
mod percpu;
mod registry;
mod slabs;
mod system;
mod trace;

pub use cache::build_error::BuildError;
pub use cache::builder::CacheBuilder;
pub use cache::deferred::{DeferredFrees, GracePending};
pub use cache::destroy::Busy;
pub use cache::handle::Cache;
pub use cache::mempool::{Mempool, Prefilled};
pub use cache::numa::{NumaCache, NumaNodes};
pub use cache::pooled::{Pooled, Reset};
pub use cache::typed::ObjectCache;
pub use cache_inner::stats::{CacheStats, SlabView, Totals};
pub use debug::leaks::LiveObject;
pub use grace::GracePeriods;
pub use hardening::history::History;
pub use hardening::presets::{Debugging, Hardened, Hardening, Off};
pub use page_frame::CacheName;
pub use registry::frozen::FrozenSlots;
pub use registry::handle::Registry;
pub use slabs::layout::geometry::{Geometry, GeometryError, LARGEST_ORDER, LARGEST_SIZE};
pub use slabs::settings::ObjectHook;
pub use system::System;
pub use trace::{Event, Trace};

/// Parts that models, tests and sibling crates need. No part of the API: it changes in any version.
#[doc(hidden)]
pub mod internals {
    pub use crate::percpu::slot::PerCpuHandle;
    pub use crate::slabs::free_word::{FreeWord, Popped, PoppedChain, Pushed, Seen};
}
