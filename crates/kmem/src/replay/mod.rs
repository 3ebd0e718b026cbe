//! Replays a trace on allocators: the same requests, in the same order, on the same CPUs.
//!
//! Object events and page events go to two separate allocators, because the recorded page events
//! include the pages of the kernel's own slabs. [`target`] is the trait of an allocator that can be
//! replayed on. [`objects`] and [`pages`] keep the live allocations and count. [`pipeline`] runs
//! reading and replaying in parallel. The result is an [`outcome`].

pub mod buddy_pages;
pub mod caches;
pub mod caller;
pub mod hash;
pub mod heap;
pub mod json;
pub mod largest;
pub mod objects;
pub mod outcome;
mod owners;
mod page_owners;
pub mod pages;
pub mod pattern;
mod pinned;
pub mod pipeline;
#[cfg(feature = "rivals")]
mod published;
pub mod rivals;
pub mod screen;
pub mod stack;
mod table;
pub mod target;
pub mod timed;
pub mod timeline;
pub mod times;
pub mod usage;
