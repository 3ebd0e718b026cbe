//! The allocators that users hold: frames by number, memory by address, and the parts of both.

#[cfg(any(feature = "ax-allocator", feature = "axallocator"))]
pub(crate) mod ax_allocator;
pub(crate) mod buddy;
mod cached_frames;
pub(crate) mod compact;
pub(crate) mod frame_allocator;
pub(crate) mod frame_pool;
pub(crate) mod growing;
mod growing_source;
mod inside;
pub(crate) mod pieces;
pub(crate) mod shrink;
pub(crate) mod source;
pub(crate) mod stats;
pub(crate) mod validate;
#[cfg(all(test, not(loom)))]
mod validate_tests;
