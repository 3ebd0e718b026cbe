//! Safe calls cannot break memory safety: owners that are dropped where nobody expects it, callbacks that panic.
//!
//! What the types refuse is shown by `compile_fail` examples beside the items.

mod background;
mod fork;
mod pages;
mod threads;
