//! No safe call breaks memory safety or blocks other threads for ever, whenever a handle is
//! dropped, and also if a callback panics.
//!
//! The documentation of the items shows, in `compile_fail` examples, the code that the types
//! reject.

mod background;
mod fork;
mod pages;
mod threads;
