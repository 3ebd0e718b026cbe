//! The two foundations of object caches: how a slab is laid out, and the word through which its objects are freed.
//!
//! # Theory
//! A **slab** is a block of pages cut into objects of one size. [`Geometry`] computes the cut: how many pages are best for a
//! size, how many objects they hold, and by how many **colours** the first object of successive slabs can be shifted, so
//! that objects at the same place of different slabs do not compete for the same sets of the CPU's caches (Bonwick 1994,
//! section 4). It is `const fn`, so the slab of a known type is known at compile time.
//!
//! Objects of a slab are freed from every CPU. [`FreeWord`] is the one atomic word per slab through which that goes
//! without a lock, and which decides exactly once who brings a slab back into sight and when its pages may go home.
//!
//! ```
//! use slab::Geometry;
//! // A page holds 6 objects of 640 bytes, and can shift them by 0, 64, 128 or 192 bytes.
//! const PLAN: Geometry = match Geometry::at_order(640, 8, 64, 0) {
//!     Some(plan) => plan,
//!     None => panic!("640 bytes fit in a page"),
//! };
//! assert_eq!((PLAN.capacity(), PLAN.colours()), (6, 4));
//! ```
#![no_std]

mod builder;
mod cache;
mod checks;
mod core;
mod core_list;
mod cpu_slot;
mod depot;
mod exchange;
mod fill;
mod free_word;
mod freed_chain;
mod front;
mod geometry;
mod grow;
mod links;
mod live;
mod magazine;
mod many;
mod name;
pub mod names;
mod pressure;
mod record;
mod registry;
mod reserve;
mod shrink;
mod slab_list;
mod slab_set;
mod stats;
mod stock;
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
pub use geometry::{Geometry, GeometryError, LARGEST_ORDER, LARGEST_SIZE};
pub use live::LiveObject;
pub use name::Name;
pub use registry::Registry;
pub use reserve::{Prefilled, Reserve};
pub use stats::{CacheStats, SlabView, Totals};
pub use typed::{ObjectCache, Pooled, Reset};
