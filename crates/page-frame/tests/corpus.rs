//! Replays what the fuzzer has found worth keeping, without the fuzzer.

#[path = "../fuzz/memory_map.rs"]
mod memory_map;

use std::fs;
use std::path::Path;

#[test]
fn every_kept_memory_map_is_consistent() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/memory_map");
    let files = fs::read_dir(&folder).expect("the corpus is part of the repository");
    let mut replayed = 0;
    for file in files {
        let path = file.expect("a readable folder").path();
        println!("{}", path.display());
        memory_map::check(&fs::read(path).expect("a readable file"));
        replayed += 1;
    }
    assert!(replayed >= 20, "only {replayed} files in {}", folder.display());
}
