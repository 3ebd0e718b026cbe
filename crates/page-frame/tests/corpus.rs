//! Replays what the fuzzer has found worth keeping, without the fuzzer.

#[path = "../fuzz/memory_map.rs"]
mod memory_map;

use testkit::for_each_kept_input;

#[test]
fn every_kept_memory_map_is_consistent() {
    for_each_kept_input(env!("CARGO_MANIFEST_DIR"), "fuzz/corpus/memory_map", memory_map::check);
}
