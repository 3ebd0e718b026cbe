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

/// Mutation that it catches: the sentence leaves out how much of the memory has a known call site.
#[test]
fn a_call_site_that_holds_most_of_a_little_is_not_said_to_hold_most() {
    let mut text = recording(10);
    // A cache whose allocations name no call site.
    text.push_str("!s,4,inode\n");
    (0..100).for_each(|n| text.push_str(&format!("A,1,0,{:x},600,608,0,4\n", 0x100 + n * 0x400)));
    let trace = temporary("task-few-sites.csv", &text);
    let out = first(&["replay", &trace], 6);
    assert!(out.contains("inode holds most: 97 % of 60.5 KiB of objects."), "{out}");
    let sites = "Call sites are known for only 3.1 % of it; lookup+0x1 holds most: 3.1 %.";
    assert!(out.contains(sites), "{out}");
}

/// Mutation that it catches: a ratio to at least one byte.
#[test]
fn memory_is_no_multiple_of_nothing() {
    let nothing = "!g,0,G\n!s,0,filp\nF,1,0,40\nP,1,0,40,0\n";
    let trace = temporary("task-nothing.csv", nothing);
    let (_, out, _) = kmem(&["replay", &trace]);
    assert!(!out.contains("times"), "{out}");
    let page = temporary("task-nothing.html", "");
    let (status, _, error) = kmem(&["replay", &trace, "--report", &page]);
    assert_eq!((status, &*error), (Some(0), ""));
    let page = std::fs::read_to_string(page).expect("it was written");
    assert!(page.contains("held at the peak<") && !page.contains("times the live"), "{page}");
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
    // Of several zones the first lines say which ones fail.
    let zones =
        "Node 0, zone DMA 0 0 0 0 0 0 0 0 0 1\nNode 0, zone Normal 90000 80 0 0 0 0 0 0 0 0\n";
    let zones = temporary("task-zones.txt", zones);
    let out = first(&["frag", &zones], 3);
    assert!(
        out.contains("Order 9 (2 MiB) fails in 1 of 2 zones:\n  Node 0, zone Normal."),
        "{out}"
    );
    let out = first(&["frag", "--order", "3", &zones], 2);
    assert!(out.contains("Order 3 (32 KiB) fails in 1 of 2 zones:"), "{out}");
    let out = first(&["frag", "--order", "0", &zones], 2);
    assert!(out.contains("Order 0 (4 KiB) succeeds in each of 2 zones."), "{out}");
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
