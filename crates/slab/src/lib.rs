//! Object caches: objects of one layout, kept in constructed state, from slabs that they take and give back by themselves.
//!
//! # Theory
//! A **slab** is a block of pages cut into objects of one size. [`Geometry`] computes the cut: how many pages are best for a
//! size, how many objects they hold, and by how many **colours** the first object of successive slabs can be shifted, so
//! that objects at the same place of different slabs do not compete for the same sets of the CPU's caches (Bonwick 1994,
//! section 4). It is `const fn`, so the slab of a known type is known at compile time.
//!
//! A [`Cache`] has the slabs of one kind. Each CPU keeps free objects of it in **magazines**, which it fills and empties without
//! an atomic read-modify-write; CPUs exchange whole magazines at the **depot** (Bonwick and Adams 2001). Only what these do not
//! have comes from the slabs, and only what the slabs do not have from the page source, any
//! [`PageSource`](page_frame::PageSource) with a page map.
//!
//! Objects of a slab are freed from every CPU. [`FreeWord`] is the one atomic word per slab through which that goes
//! without a lock, and which decides exactly once who brings a slab back into sight and when its pages may go home.
//!
//! The caches of a system are a [`Registry`]: when memory is short it asks the idle ones first. What a cache looks for in its
//! users' mistakes is a type: [`Off`], [`Hardened`], [`Debug`](struct@Debug), or one of your own ([`Checks`]). Rust types have
//! [`ObjectCache`], C code [`names`], and machines with several memory nodes [`NodeCache`].
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

mod builder;
mod cache;
mod checks;
mod columns;
mod core;
mod core_list;
mod cpu_slot;
mod depot;
mod ending;
mod exchange;
mod fill;
mod free_word;
mod freed_chain;
mod front;
mod frozen;
mod geometry;
mod going_home;
mod grow;
mod in_hand;
mod links;
mod live;
mod magazine;
mod many;
mod name;
pub mod names;
mod nodes;
mod observer;
mod pressure;
mod record;
mod registry;
mod reserve;
mod shrink;
mod slab_list;
mod slab_set;
mod stats;
mod stock;
mod system;
mod tuning;
mod typed;
mod validate;
mod walk;
mod working_set;

pub use self::core::ObjectHook;
pub use builder::{BuildError, CacheBuilder};
pub use cache::{Busy, Cache, Refused};
pub use checks::{Checks, Debug, Hardened, History, Off};
pub use free_word::{FreeWord, Popped, PoppedChain, Pushed, Seen};
pub use front::Front;
pub use frozen::FrozenSlots;
pub use geometry::{Geometry, GeometryError, LARGEST_ORDER, LARGEST_SIZE};
pub use live::LiveObject;
pub use name::Name;
pub use nodes::{NodeCache, Nodes};
pub use observer::{Event, Observer};
pub use registry::Registry;
pub use reserve::{Prefilled, Reserve};
pub use stats::{CacheStats, SlabView, Totals};
pub use system::System;
pub use typed::{ObjectCache, Pooled, Reset};
