//! Safe calls cannot break memory safety, also when a callback panics or re-enters, or when a guard
//! is forgotten.
//!
//! `compile_fail` examples beside the items show the code that the types reject.
#![cfg(not(loom))]

mod cpus;
mod maps;
mod per_cpu;
mod shrinkers;
mod stack;
