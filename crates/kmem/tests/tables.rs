//! `kmem plan`, `kmem frag` and `kmem check` as a user runs them.

mod common;

use std::path::PathBuf;

use common::kmem;

fn temporary(name: &str, contents: &str) -> String {
    let path: PathBuf = [env!("CARGO_TARGET_TMPDIR"), name].iter().collect();
    std::fs::write(&path, contents).expect("there is room for the file");
    path.to_str().expect("the folder's name is text").to_owned()
}

#[test]
fn plan_describes_a_cache_and_refuses_wrong_arguments() {
    let (status, out, error) = kmem(&["plan", "640"]);
    assert_eq!((status, error.as_str()), (Some(0), ""));
    assert!(out.contains("slabs of 1 page, 6 objects in each"), "{out}");
    assert_eq!(kmem(&["plan", "2K", "64"]).1, kmem(&["plan", "2048", "64"]).1);
    for wrong in
        [&["plan"][..], &["plan", "0"], &["plan", "8", "3"], &["plan", "5M"], &["plan", "x"]]
    {
        let (status, out, error) = kmem(wrong);
        assert_eq!((status, out.as_str()), (Some(2), ""), "{wrong:?}");
        assert!(!error.is_empty());
    }
}

#[test]
fn colours_appear_only_on_request() {
    assert!(!kmem(&["plan", "640"]).1.contains('\x1b'));
    assert!(kmem(&["--color", "always", "plan", "640"]).1.contains("\x1b[30;46m"));
    assert!(kmem(&["walkthrough", "buddy", "--color", "always"]).1.contains("\x1b[30;46m"));
}

#[test]
fn frag_compares_each_file_with_the_one_before() {
    let whole = temporary("whole.txt", "Node 0, zone Normal 0 0 0 0 0 0 0 0 0 0 8\n");
    let shattered = temporary("shattered.txt", "Node 0, zone Normal 8192 0 0 0 0 0 0 0 0 0 0\n");
    let (status, out, _) = kmem(&["frag", &whole, &shattered]);
    assert_eq!(status, Some(0));
    assert!(out.contains("0 % in the file before, 100 % here"), "{out}");
    assert!(out.contains("as much is free: it is in pieces"), "{out}");
    let (status, _, error) = kmem(&["frag", "/nowhere"]);
    assert_eq!(status, Some(2));
    assert!(error.starts_with("/nowhere: expected a readable file"), "{error}");
}

#[test]
fn our_own_buddyinfo_is_read_by_frag() {
    let written = temporary("ours.txt", "");
    assert_eq!(kmem(&["replay", "--buddyinfo", &written]).0, Some(0));
    let (status, out, error) = kmem(&["frag", &written]);
    assert_eq!(status, Some(0), "{error}");
    assert!(out.contains("Requests of every order up to 10 can be had"), "{out}");
}

#[test]
fn a_leak_is_found_by_its_call_site() {
    let mut trace = "!g,0,GFP\n!s,0,tidy+0x10\n!s,1,leaky+0x20\n".to_owned();
    for object in 0..100 {
        trace.push_str(&format!("a,1000,0,{object:x}00,64,64,0,{}\n", object % 2));
        if object % 2 == 0 {
            trace.push_str(&format!("f,1000,0,{object:x}00\n"));
        }
    }
    let path = temporary("leak.csv", &trace);
    assert_eq!(kmem(&["check", &path]).0, Some(0), "live is no mistake in a part of a trace");
    let (status, out, _) = kmem(&["check", "--whole", &path]);
    assert_eq!(status, Some(1));
    assert!(out.contains("kmalloc in leaky+0x20") && !out.contains("tidy"), "{out}");
    let again = temporary("again.csv", &(trace + "f,1,0,000\n"));
    let (status, out, _) = kmem(&["check", &again]);
    assert_eq!(status, Some(1));
    assert!(out.contains("kmalloc in tidy+0x10, allocated in line 4, freed in line 5"), "{out}");
    assert_eq!(kmem(&["check", "/nowhere"]).0, Some(2));
}

#[test]
fn the_reason_why_an_order_fails_is_a_sentence_with_the_watermarks() {
    let (status, out, error) = kmem(&["frag", "tests/kernel_files/oom-report.txt"]);
    assert_eq!((status, error.as_str()), (Some(0), ""));
    assert!(out.contains("Order 9 (2 MiB) fails: enough memory is free, 4.16 MiB, but in pieces"));
    assert!(out.contains("Watermarks: min 4.20 MiB, low 5.25 MiB, high 6.29 MiB"), "{out}");
    assert!(out.contains("4.16 MiB free is below min"), "{out}");
    assert!(out.contains("Each # is up to a tenth of the free memory"), "{out}");
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
    let (_, out, _) = kmem(&["frag", "--order", "5", "tests/kernel_files/oom-report.txt"]);
    assert!(out.contains("Order 5 (128 KiB) fails although 1 block of that size"), "{out}");
    let blocks = temporary("marked.txt", "Node 0, zone Normal 0 0 0 0 0 0 0 0 0 1 0\n");
    let marks = "Node 0, zone Normal\n  pages free 512\n  min 100\n  low 600\n  high 700\n";
    let marks = temporary("marked.zoneinfo", marks);
    let (status, out, error) = kmem(&["frag", "--zoneinfo", &marks, &blocks]);
    assert_eq!(status, Some(0), "{error}");
    assert!(out.contains("2 MiB free is below low: kswapd reclaims"), "{out}");
    assert!(out.contains("it would leave less than the min watermark of 400 KiB"), "{out}");
}

#[test]
fn a_watch_ends_without_an_error_when_its_output_is_closed() {
    use std::io::{BufRead, BufReader};
    let blocks = temporary("watched.txt", "Node 0, zone Normal 1 0 0\n");
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_kmem"))
        .args(["frag", "--watch=0.05", &blocks])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("it runs");
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let zones = lines.map(|line| line.expect("text")).filter(|line| line.starts_with("Node 0"));
    for (round, line) in zones.take(3).enumerate() {
        let expected = ["in 1 block", "in 2 blocks", "in 2 blocks"][round];
        // `kmem` may have read the file for the second line before the test changed it.
        assert!(line.ends_with(expected) || round == 1, "{line}");
        temporary("watched.txt", "Node 0, zone Normal 2 0 0\n");
    }
    // The loop has closed the pipe, which is no error.
    assert_eq!(child.wait().expect("it is our child").code(), Some(0));
}
