//! Runs the check of the fuzz target on the inputs that the repository keeps, and on random inputs.
//! It needs no fuzzer.
#![cfg(not(loom))]

#[path = "../fuzz/allocations.rs"]
mod allocations;

use testkit::{Random, for_each_kept_input, steps};

/// Mutation that it catches: `reallocate` that copies one byte too few, and a size class that is
/// smaller than its requests.
#[test]
fn every_kept_history_is_consistent() {
    for_each_kept_input(env!("CARGO_MANIFEST_DIR"), "fuzz/corpus/allocations", allocations::check);
}

#[test]
fn random_inputs_are_consistent() {
    let mut random = Random::new(22);
    for _ in 0..steps(40) {
        let bytes: Vec<_> = (0..1 + random.below(1200)).map(|_| random.below(256) as u8).collect();
        allocations::check(&bytes);
    }
}
