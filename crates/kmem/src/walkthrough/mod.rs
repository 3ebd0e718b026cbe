//! Walkthroughs: an allocator at work step by step, drawn from its live state.

pub mod buddy;
pub mod pressure;
mod script;
pub mod slab;
