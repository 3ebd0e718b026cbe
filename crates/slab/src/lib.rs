//! Object caches: objects of one layout, kept in constructed state, from slabs that they take and
//! give back by themselves.
//!
//! # Theory
//! A **slab** is a block of pages cut into objects of one size. [`Geometry`] computes the cut: how
//! many pages are best for a size, how many objects they hold, and by how many **colours** the
//! first object of successive slabs can be shifted, so that objects at the same place of different
//! slabs do not compete for the same sets of the CPU's caches (Bonwick 1994, section 4). It is
//! `const fn`, so the slab of a known type is known at compile time.
//!
//! A [`Cache`] has the slabs of one kind. Each CPU keeps free objects of it in **magazines**, which
//! it fills and empties without an atomic read-modify-write; CPUs exchange whole magazines at the
//! **depot** (Bonwick and Adams 2001). Only what these do not have comes from the slabs, and only
//! what the slabs do not have from the page source, any [`PageSource`](page_frame::PageSource) with
//! a page map.
//!
//! Objects of a slab are freed from every CPU. The **free word** is the one atomic word per slab
//! through which that goes without a lock, and which decides exactly once who brings a slab back
//! into sight and when its pages may be released.
//!
//! The caches of a system are a [`Registry`]: when memory is short it asks the idle ones first.
//! What a cache looks for in its users' mistakes is a type: [`Off`], [`Hardened`], [`Debugging`],
//! or one of your own ([`Hardening`]). Rust types have [`ObjectCache`], C code [`linux`], and
//! machines with several memory nodes [`NumaCache`].
//!
//! ```
//! use core::{alloc::Layout, mem::MaybeUninit};
//! use page_frame::{Arena, SingleCpu};
//! let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
//! let arena = Arena::new(&mut memory)?;
//! let registry = slab::Registry::new(&arena, SingleCpu::new())?;
//! let messages = registry.cache("message", Layout::new::<[u64; 80]>()).build()?;
//! // A page holds 6 objects of 640 bytes, and can shift them by 0, 64, 128 or 192 bytes.
//! assert_eq!((messages.geometry().capacity(), messages.geometry().colours()), (6, 4));
//! let message = messages.allocate()?;
//! // SAFETY: allocated above, and not used any more.
//! unsafe { messages.free(message) };
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![no_std]

mod cache;
mod cache_name;
mod debug;
mod hardening;
pub mod linux;
mod patience;
mod percpu;
mod reclaim;
mod registry;
mod slabs;
mod system;

pub use cache::builder::{BuildError, CacheBuilder};
pub use cache::handle::{Busy, Cache};

pub use cache::mempool::{Mempool, Prefilled};
pub use cache::numa::{NumaCache, NumaNodes};
pub use cache::typed::{ObjectCache, Pooled, Reset};
pub use cache_name::CacheName;
pub use debug::leaks::LiveObject;
pub use debug::trace::{Event, Trace};
pub use hardening::history::History;
pub use hardening::presets::{Debugging, Hardened, Hardening, Off};
pub use registry::frozen::FrozenSlots;
pub use registry::handle::Registry;
pub use registry::stats::{CacheStats, SlabView, Totals};
pub use slabs::geometry::{Geometry, GeometryError, LARGEST_ORDER, LARGEST_SIZE};
pub use slabs::settings::ObjectHook;
pub use system::System;

/// Parts that models, tests and sibling crates need. No part of the API: it changes in any version.
#[doc(hidden)]
pub mod internals {
    pub use crate::percpu::slot::PerCpuHandle;
    pub use crate::slabs::free_word::{FreeWord, Popped, PoppedChain, Pushed, Seen};
}
