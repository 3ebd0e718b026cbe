//! Questions of a reader who has nothing but the output. Each takes one command, and the answer is
//! one sentence in the first lines.

mod common;

use std::path::PathBuf;

use common::kmem;

fn temporary(name: &str, contents: &str) -> String {
    let path: PathBuf = [env!("CARGO_TARGET_TMPDIR"), name].iter().collect();
    std::fs::write(&path, contents).expect("there is room for the file");
    path.to_str().expect("the folder's name is text").to_owned()
}

/// A recording in which `lookup` keeps all dentries that it allocates, and `open` frees its files.
fn recording(lookups: usize) -> String {
    let mut text =
        "# kmem-compact 2\n!g,0,G\n!s,0,dentry\n!s,1,lookup+0x1\n!s,2,filp\n!s,3,open+0x2\n"
            .to_owned();
    for n in 0..lookups {
        text.push_str(&format!("A,1000000,0,{:x},192,192,0,0,1\n", 0x10_0000 + n * 256));
        text.push_str(&format!("A,1000,1,{:x},184,192,0,2,3\n", 0x90_0000 + n * 256));
        text.push_str(&format!("F,1000,1,{:x}\n", 0x90_0000 + n * 256));
    }
    text
}

/// Returns the first `lines` lines of the output of a command.
fn first(arguments: &[&str], lines: usize) -> String {
    let (status, out, error) = kmem(arguments);
    assert!(matches!(status, Some(0 | 1)), "{arguments:?}: {error}");
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
    out.lines().take(lines).collect::<Vec<_>>().join("\n")
}

#[test]
fn which_cache_and_which_call_site_hold_most_at_the_peak() {
    let trace = temporary("task-most.csv", &recording(1000));
    let out = first(&["replay", &trace], 5);
    assert!(out.contains("dentry holds most: 100 % of 188 KiB of objects."), "{out}");
    assert!(out.contains("Of the call sites lookup+0x1 holds most: 100 %."), "{out}");
}

#[test]
fn is_anything_lost() {
    let whole = temporary("task-whole.csv", &recording(10));
    let lossy = temporary("task-lossy.csv", &(recording(10) + "# lost 12 events\n"));
    for command in ["replay", "check"] {
        assert!(first(&[command, &whole], 3).contains("Nothing is lost"));
        assert!(first(&[command, &lossy], 3).contains("The recording lost 12 events:"));
        assert_eq!(kmem(&[command, &lossy]).0, Some(1));
    }
}

#[test]
fn why_does_order_9_fail() {
    let pieces = temporary("task-pieces.txt", "Node 0, zone Normal 90000 80 0 0 0 0 0 0 0 0 0\n");
    let out = first(&["frag", &pieces], 99);
    assert!(out.contains("Order 9 (2 MiB) fails: enough memory is free, 352 MiB, but in pieces"));
    let little = temporary("task-little.txt", "Node 0, zone Normal 90 8 0 0 0 0 0 0 0 0 0\n");
    let out = first(&["frag", &little], 99);
    assert!(out.contains("Order 9 (2 MiB) fails: too little memory is free, 424 KiB"), "{out}");
}

#[test]
fn what_changed_between_two_recordings() {
    let before = temporary("task-before.csv", &recording(100));
    let after = temporary("task-after.csv", &recording(400));
    let out = first(&["diff", &before, &after], 5);
    assert!(out.contains("Most changed: call site lookup+0x1 (dentry) grew"), "{out}");
}

#[test]
fn is_this_a_leak() {
    let leak = temporary("task-leak.csv", &recording(400));
    let out = first(&["check", &leak], 12);
    assert!(out.contains("Leak? It looks like one: cache dentry in lookup+0x1"), "{out}");
    let none = temporary("task-none.csv", "!g,0,G\n!s,0,filp\nA,1,0,40,184,192,0,0\nF,1,0,40\n");
    let out = first(&["check", &none], 11);
    assert!(out.contains("Leak? None in sight"), "{out}");
}
