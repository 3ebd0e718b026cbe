//! What safe code of others can do to an allocator: short or crooked metadata, frees of anything, observers that panic or call
//! back, zones that do not belong together. What the types refuse is shown beside them, as examples that do not compile.
#![cfg(not(loom))]

#[path = "../common/mod.rs"]
mod common;

mod metadata;
mod misuse;
mod traces;
mod zones;
