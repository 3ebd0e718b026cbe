//! Safe code breaks no memory safety, and a panic of the user's code leaves nothing shut.
//!
//! Each test drives a safe function the way that once broke memory safety, or hung, and asserts
//! what is seen without a sanitizer.
#![cfg(not(loom))]

mod alignment;
mod constructed;
mod double_free;
mod owns;
mod panics;
mod pinned;
mod recursion;
mod source;
mod source_panics;
