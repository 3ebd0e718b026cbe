//! Walkthroughs: an allocator at work step by step, drawn from its live state.

pub mod buddy;
mod script;
