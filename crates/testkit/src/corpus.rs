//! Files that fuzz targets have found worth keeping.

use std::fs;
use std::path::Path;
use std::println;

/// Calls `check` with the content of each file of `folder`, a folder of the crate at `root`, and
/// prints its name first: a failure so names the file.
///
/// # Panics
/// When a file cannot be read, or there are fewer than 20: the folder is part of the repository.
pub fn for_each_kept_input(root: &str, folder: &str, mut check: impl FnMut(&[u8])) {
    let folder = Path::new(root).join(folder);
    let files = fs::read_dir(&folder).expect("the corpus is part of the repository");
    let mut replayed = 0;
    for file in files {
        let path = file.expect("a readable folder").path();
        println!("{}", path.display());
        check(&fs::read(path).expect("a readable file"));
        replayed += 1;
    }
    assert!(replayed >= 20, "only {replayed} files in {}", folder.display());
}
