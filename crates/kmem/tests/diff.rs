//! `kmem diff`: what changed between two recordings.

mod common;

use std::path::PathBuf;

use common::kmem;

fn temporary(name: &str, contents: &str) -> String {
    let path: PathBuf = [env!("CARGO_TARGET_TMPDIR"), name].iter().collect();
    std::fs::write(&path, contents).expect("there is room for the file");
    path.to_str().expect("the folder's name is text").to_owned()
}

/// A trace whose two call sites have so many live objects.
fn trace(names: &[(&str, usize)], failed: usize) -> String {
    let mut text = "# kmem-compact 2\n!g,0,GFP_KERNEL\n!s,0,dentry\n".to_owned();
    let mut address = 0x1000;
    for (index, (name, count)) in names.iter().enumerate() {
        let id = index + 1;
        text.push_str(&format!("!s,{id},{name}\n"));
        for _ in 0..*count {
            text.push_str(&format!("A,1,0,{address:x},192,192,0,0,{id}\n"));
            address += 0x100;
        }
    }
    (0..failed).for_each(|_| text.push_str("# failed order 9\n"));
    text
}

#[test]
fn what_changed_most_is_said_first() {
    let before = temporary("diff-before.csv", &trace(&[("lookup", 100), ("readdir", 50)], 0));
    let after = temporary("diff-after.csv", &trace(&[("readdir", 40), ("lookup", 5000)], 3));
    let (status, out, error) = kmem(&["diff", &before, &after]);
    assert_eq!((status, error.as_str()), (Some(0), ""));
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
    let sentence = "Most changed: call site lookup (dentry) grew from\n18.8 KiB to 938 KiB live at the end (+919 KiB).";
    assert!(out.contains(sentence), "{out}");
    let rows: Vec<_> = out.lines().filter(|line| line.contains(" dentry ")).collect();
    assert!(rows[0].starts_with("  lookup ") && rows[0].ends_with("+919 KiB"), "{out}");
    assert!(rows[1].starts_with("  readdir ") && rows[1].ends_with("-1.88 KiB"), "{out}");
    let failed = out.lines().find(|line| line.contains("failed when recorded")).expect("a total");
    assert!(failed.ends_with("+3"), "{failed}");
    let (_, back, _) = kmem(&["diff", &after, &before]);
    assert!(back.contains("lookup (dentry) shrank from\n938 KiB to 18.8 KiB"), "{back}");
}

#[test]
fn nothing_changes_between_a_recording_and_itself() {
    let one = temporary("diff-same.csv", &trace(&[("lookup", 100)], 0));
    let (status, out, _) = kmem(&["diff", &one, &one]);
    assert_eq!(status, Some(0));
    assert!(out.contains("Nothing changed") && out.contains("Call sites: none changed"), "{out}");
}

#[test]
fn json_has_both_numbers_of_each_row() {
    let before = temporary("diff-json-before.csv", &trace(&[("lookup", 1)], 0));
    let after = temporary("diff-json-after.csv", &trace(&[("lookup", 3)], 0));
    let (_, out, error) = kmem(&["diff", "--json", "-", &before, &after]);
    let row = "{\"name\": \"lookup\", \"from\": \"dentry\", \"bytes_at_end\": [192, 576], \"bytes_at_peak\": [192, 576], \"allocations\": [1, 3]}";
    assert!(out.contains(row), "{error}{out}");
    assert_eq!(kmem(&["diff", &before, "/nowhere"]).0, Some(2));
    assert_eq!(kmem(&["diff", &before]).0, Some(2));
}

#[test]
fn requests_without_memory_are_a_difference_too() {
    let before = temporary("diff-short-before.csv", &trace(&[("lookup", 100)], 0));
    let after = temporary("diff-short-after.csv", &trace(&[("lookup", 9000)], 0));
    let (status, out, _) = kmem(&["diff", "--memory", "1M", &before, &after]);
    assert_eq!(status, Some(0));
    let failed = out.lines().find(|line| line.contains("failed in the replay")).expect("a total");
    assert!(!failed.ends_with('='), "{failed}");
}
