//! Replays what the fuzzer has found worth keeping, without the fuzzer, and random inputs.
#![cfg(not(loom))]

#[path = "../fuzz/allocations.rs"]
mod allocations;

use std::fs;
use std::path::Path;

use testkit::{Random, steps};

/// Mutation that it catches: `reallocate` that copies one byte too few, and a size class that is
/// smaller than its requests.
#[test]
fn every_kept_history_is_consistent() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/allocations");
    let files = fs::read_dir(&folder).expect("the corpus is part of the repository");
    let mut replayed = 0;
    for file in files {
        let path = file.expect("a readable folder").path();
        println!("{}", path.display());
        allocations::check(&fs::read(path).expect("a readable file"));
        replayed += 1;
    }
    assert!(replayed >= 20, "only {replayed} files in {}", folder.display());
}

#[test]
fn random_inputs_are_consistent() {
    let mut random = Random::new(22);
    for _ in 0..steps(40) {
        let bytes: Vec<_> = (0..1 + random.below(1200)).map(|_| random.below(256) as u8).collect();
        allocations::check(&bytes);
    }
}
