//! Fuzzes histories of allocations: `cargo +nightly fuzz run allocations` in `crates/kmalloc`.
//!
//! `../allocations.rs` interprets the bytes and checks the outcome; `tests/corpus.rs` shares it.
#![no_main]

#[path = "../allocations.rs"]
mod allocations;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| allocations::check(bytes));
