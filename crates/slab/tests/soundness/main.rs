//! What safe code may not do to memory, and what a panic of the user's code may not leave behind.
//!
//! Each test drives a safe function the way that once broke memory safety, or hung, and asserts what is seen without a sanitizer.
#![cfg(not(loom))]

mod alignment;
mod constructed;
mod owns;
mod panics;
mod pinned;
mod source;
mod source_panics;
