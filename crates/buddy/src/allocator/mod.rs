//! The allocators that users hold: frames by number, memory by address, and the parts of both.

pub(crate) mod buddy;
mod buddy_pieces;
pub(crate) mod bulk;
pub(crate) mod frame_allocator;
pub(crate) mod frame_pool;
pub(crate) mod pieces;
pub(crate) mod shrink;
pub(crate) mod source;
pub(crate) mod stats;
pub(crate) mod validate;
