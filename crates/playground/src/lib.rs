//! The playground: the real allocators behind one static page, compiled to WebAssembly.
//!
//! # Concepts
//! - A **script** is a list of steps in plain text, one or more requests each. The page keeps the
//!   script, and nothing else: undo drops the last step, sharing puts the script into the address.
//! - A **scene** performs the steps of a script on the real allocators, and returns their state as
//!   JSON. There is a scene for the buddy, for a slab cache, and for memory pressure; the page only
//!   draws. The allocators of a scene are fresh, but for a buddy whose script only got more steps.
//! - The **judge** reads a script with the answers of another buddy allocator, lets the real one
//!   follow them, and returns the first state that is wrong beside the right one.
//!
//! Everything but drawing is tested natively by `cargo test -p playground`. The page calls
//! an [`Engine`] through the few exports of `wasm.rs`.
//!
//! # Limits
//! Scripts come from the user or from an address, so every size has a limit (`input/limits.rs`).
//! Input beyond it gets an answer that says so.
#![cfg_attr(target_family = "wasm", no_std)]
#![deny(unsafe_op_in_unsafe_fn)]

extern crate alloc;

mod buddy_scene;
mod command;
mod input;
mod json;
pub mod judge;
mod page_memory;
mod pressure_scene;
mod slab_scene;
#[cfg(target_family = "wasm")]
mod wasm;

pub use command::{Engine, answer};
