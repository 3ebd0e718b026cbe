//! What safe code may not do to memory, and what a panic of the user's code may not leave behind.
#![cfg(not(loom))]

mod addresses;
mod global;
