//! Fuzzes the trace reader: `cargo +nightly fuzz run trace` in `crates/kmem`.
//!
//! What is done with the bytes, and what must hold, is in `../trace.rs`, which `tests/corpus.rs` shares.
#![no_main]

#[path = "../trace.rs"]
mod trace;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| trace::check(bytes));
