//! Replays a trace on allocators: the same requests, in the same order, on the same CPUs.
//!
//! Object events and page events go to two stacks of their own, as the recorded kernel's page events contain the pages
//! of its slabs. [`target`] is what an allocator has to implement to be replayed on; [`objects`] and [`pages`] keep what
//! is live and count; [`pipeline`] runs reading and replaying side by side. What comes out is an [`outcome`].

pub mod buddy_pages;
pub mod caches;
pub mod hash;
pub mod heap;
pub mod json;
pub mod objects;
pub mod outcome;
pub mod pages;
pub mod pattern;
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
