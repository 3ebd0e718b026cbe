//! Safe code breaks no memory safety, and a panic of the user's code leaves no lock held and no
//! slot closed.
//!
//! Each test makes calls after which a wrong implementation would break memory safety, or hang. It
//! asserts effects that show without a sanitizer.
#![cfg(not(loom))]

mod alignment;
mod constructed;
mod double_free;
mod grace;
mod owns;
mod panics;
mod pinned;
mod recursion;
mod source;
mod source_panics;
