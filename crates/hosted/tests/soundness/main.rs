//! Safe calls cannot break memory safety, also when an owner is dropped in an unusual place or a
//! callback panics.
//!
//! `compile_fail` examples beside the items show the code that the types reject.

mod background;
mod fork;
mod pages;
mod threads;
