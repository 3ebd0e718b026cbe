//! Safe calls cannot break memory safety: what panics, re-enters or outlives its scope leaves everything whole.
//!
//! What the types refuse is shown by `compile_fail` examples beside the items.
#![cfg(not(loom))]

mod cpus;
mod maps;
mod shrinkers;
mod slots;
mod stack;
