//! The allocators that users hold: frames by number, memory by address, and the parts of both.

pub(crate) mod buddy;
mod cached_frames;
pub(crate) mod compact;
pub(crate) mod frame_allocator;
pub(crate) mod frame_pool;
pub(crate) mod growing;
mod growing_source;
pub(crate) mod hotplug;
mod hotplug_error;
mod inside;
pub(crate) mod pieces;
pub(crate) mod shrink;
pub(crate) mod source;
pub(crate) mod stats;
pub(crate) mod validate;
#[cfg(all(test, not(loom)))]
mod validate_tests;
