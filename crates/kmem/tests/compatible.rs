//! The real programs read our files, and say what ours say: `slabtop` and `vmstat` with our
//! slabinfo in the place of the kernel's, in a mount namespace of their own.

use std::path::PathBuf;
use std::process::{Command, Stdio};

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("the output is text")
}

fn kmem(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_kmem"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    text(output.stdout)
}

fn our_slabinfo(name: &str) -> String {
    let path: PathBuf = [env!("CARGO_TARGET_TMPDIR"), name].iter().collect();
    let path = path.to_str().expect("the folder's name is text").to_owned();
    kmem(&["replay", "--force", "--slabinfo", &path]);
    path
}

/// Runs `command` where `file` lies over `/proc/slabinfo`; `None`, and says why, where that cannot
/// be.
fn with_our_slabinfo(file: &str, command: &str) -> Option<String> {
    let script = format!("mount --bind \"$0\" /proc/slabinfo && {command}");
    let run = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script, file])
        .stdin(Stdio::null())
        .env("LC_ALL", "C")
        .output();
    match run {
        Ok(output) if output.status.success() => Some(text(output.stdout)),
        Ok(output) => {
            println!("not compared: {}", text(output.stderr).trim());
            None
        }
        Err(error) => {
            println!("not compared: unshare: {error}");
            None
        }
    }
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> =
        text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn slabtop_shows_the_screen_that_ours_shows() {
    let file = our_slabinfo("slabtop.txt");
    let Some(theirs) = with_our_slabinfo(&file, "slabtop -o") else { return };
    let ours = kmem(&["top", "--once", &file]);
    assert!(ours.lines().count() > 60 && ours.contains("buffer_head"), "{ours}");
    assert_eq!(sorted(&ours), sorted(&theirs));
}

#[test]
fn vmstat_reads_our_numbers() {
    let file = our_slabinfo("vmstat.txt");
    let Some(theirs) = with_our_slabinfo(&file, "vmstat -m") else { return };
    let ours = std::fs::read_to_string(&file).expect("it was written");
    let mut compared = 0;
    for line in ours.lines().skip(2) {
        let ours: Vec<_> = line.split_whitespace().collect();
        // It shows names cut, then objects in use, all, their size, and how many a slab holds.
        let row = theirs.lines().find_map(|row| {
            let row: Vec<_> = row.split_whitespace().collect();
            (row.len() == 5 && ours[0].starts_with(row[0]) && row[1..] == ours[1..5]).then_some(())
        });
        assert!(row.is_some(), "{line} in {theirs}");
        compared += 1;
    }
    assert!(compared > 60, "{compared} caches");
}

#[test]
fn ours_shows_a_replay_at_its_end() {
    let file = our_slabinfo("replay.txt");
    assert_eq!(sorted(&kmem(&["top", "--replay", "--once"])), sorted(&kmem(&["top", "-o", &file])));
    let by_name = kmem(&["top", "-o", "-s", "n", &file]);
    let names: Vec<_> =
        by_name.lines().skip(7).filter_map(|line| line.split_whitespace().last()).collect();
    assert!(names.is_sorted() && names.len() > 60, "{names:?}");
}

#[test]
fn every_shell_gets_its_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = kmem(&["completions", shell]);
        assert!(script.contains("walkthrough") && script.contains("pagetypeinfo"), "{shell}");
    }
}
