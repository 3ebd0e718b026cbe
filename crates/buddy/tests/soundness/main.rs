//! Misuse of an allocator by safe code: metadata that is too small or misaligned, frees of any
//! number, traces that panic or call back, zones with different maps. Misuse that does not compile
//! is shown in the documentation of the types.
#![cfg(not(loom))]

#[path = "../common/mod.rs"]
mod common;

mod hooks;
mod metadata;
mod misuse;
mod spans;
mod traces;
mod zones;
