//! Fuzzes boot memory maps: `cargo +nightly fuzz run memory_map` in `crates/page-frame`.
//!
//! What is done with the bytes, and what must hold, is in `../memory_map.rs`, which `tests/corpus.rs` shares.
#![no_main]

#[path = "../memory_map.rs"]
mod memory_map;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| memory_map::check(bytes));
