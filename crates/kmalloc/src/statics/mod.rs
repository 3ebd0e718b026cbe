//! The allocator as a static: set up by a function at the first request, or by memory regions.

pub(crate) mod global;
pub(crate) mod heap;
