//! Fuzzes boot memory maps: `cargo +nightly fuzz run memory_map` in `crates/page-frame`.
//!
//! `../memory_map.rs` interprets the bytes and checks the outcome; `tests/corpus.rs` shares it.
#![no_main]

#[path = "../memory_map.rs"]
mod memory_map;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| memory_map::check(bytes));
