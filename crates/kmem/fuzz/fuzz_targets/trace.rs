//! Fuzzes the trace reader: `cargo +nightly fuzz run trace` in `crates/kmem`.
//!
//! `../trace.rs`, which `tests/corpus.rs` shares, says how the bytes are used and which properties
//! must hold.
#![no_main]

#[path = "../trace.rs"]
mod trace;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| trace::check(bytes));
