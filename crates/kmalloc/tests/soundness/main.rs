//! Safe code breaks no memory safety, and a panic of the user's code leaves nothing shut.
#![cfg(not(loom))]

mod addresses;
mod global;
