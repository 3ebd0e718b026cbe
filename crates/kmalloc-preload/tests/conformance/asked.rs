//! Options from environment variables: the statistics file, and the purging thread.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::End::Well;
use crate::calls::{fill, free, malloc};
use crate::{Check, errno, library, resident_bytes, set_errno};

pub(crate) const CHECKS: &[Check] = &[
    Check { name: "the_file_of_statistics_is_kept_current", run: current, ends: Well },
    Check { name: "statistics_that_cannot_be_written_are_told", run: unwritable, ends: Well },
    Check { name: "statistics_go_to_the_first_standard_error", run: at_the_end, ends: Well },
    Check { name: "a_thread_purges_if_asked_to", run: purged, ends: Well },
];

/// Runs this program again with `KMALLOC_STATS=FILE`; returns the file's name in that run.
fn again_with_file() -> String {
    if let Ok(file) = std::env::var("STATISTICS") {
        return file;
    }
    let file = std::env::temp_dir().join(format!("kmalloc-stats-{}", std::process::id()));
    let status = Command::new(std::env::current_exe().expect("a path"))
        .args(std::env::args().skip(1))
        .env("STATISTICS", &file)
        .env("KMALLOC_STATS", &file)
        .env("LD_PRELOAD", library())
        .status();
    let at_end = objects(&file.to_string_lossy(), "kmalloc-1k").expect("written at the end");
    assert!(at_end < 100, "{at_end} objects at the end");
    std::fs::remove_file(file).expect("ours");
    std::process::exit(if status.is_ok_and(|status| status.success()) { 0 } else { 1 });
}

/// Returns how many objects of a cache are in use, as the file says; none before it says anything
/// of it.
fn objects(file: &str, cache: &str) -> Option<usize> {
    let text = std::fs::read_to_string(file).ok()?;
    assert!(text.starts_with("slabinfo - version: 2.1\n"), "whole: {text}");
    let last = text.lines().last().expect("not empty");
    assert!(last.starts_with("# pages: ") && text.ends_with("failed\n"), "whole: {last}");
    let line = text.lines().find(|line| line.split(' ').next() == Some(cache))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn current() {
    let file = again_with_file();
    let start = Instant::now();
    let mut held = Vec::with_capacity(1 << 20);
    set_errno(7);
    // Grows slowly enough for the viewer to follow, and seldom enough for the file to fall behind.
    let mut seen = Vec::new();
    while start.elapsed() < Duration::from_millis(2500) {
        for _ in 0..64 {
            let object = malloc(1000);
            fill(object, 8, 1);
            held.push(object);
        }
        assert_eq!(errno(), 7, "the program's errno is its own");
        let said = objects(&file, "kmalloc-1k").unwrap_or(0);
        assert!(said <= held.len() + 100, "{said} of {}", held.len());
        if seen.last() != Some(&said) {
            seen.push(said);
        }
        std::thread::sleep(Duration::from_millis(5));
        set_errno(7);
    }
    assert!(seen.is_sorted() && (3..=7).contains(&seen.len()), "twice a second: {seen:?}");
    assert!(seen.last().is_some_and(|last| *last * 2 > held.len()), "{seen:?}, {}", held.len());
    // The file is current although the program is idle.
    let quiet = || std::thread::sleep(Duration::from_millis(1200));
    quiet();
    let said = objects(&file, "kmalloc-1k").expect("written");
    assert!((held.len()..held.len() + 100).contains(&said), "{said} of {}", held.len());
    held.drain(..).for_each(free);
    quiet();
    let said = objects(&file, "kmalloc-1k").expect("written");
    assert!(said < 100, "{said} after all were freed");
    // Nothing is left but the file itself.
    let folder = Path::new(&file).parent().expect("a folder").read_dir().expect("readable");
    let name = Path::new(&file).file_name().expect("a name").to_string_lossy().into_owned();
    let beside = folder.filter_map(Result::ok).filter(|entry| {
        let other = entry.file_name().to_string_lossy().into_owned();
        other.starts_with(&name) && other != name
    });
    assert_eq!(beside.count(), 0);
    kept_in_child(&file);
}

/// A child of `fork` keeps the file as its parent does, which does nothing meanwhile but wait and
/// write what is so of itself.
fn kept_in_child(file: &str) {
    // SAFETY: the child calls what children of processes with threads may: the allocator, files,
    // `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        std::fs::remove_file(file).expect("the parent's");
        let held: Vec<_> = (0..5000).map(|_| malloc(1500)).collect();
        let start = Instant::now();
        while objects(file, "kmalloc-1536").is_none_or(|said| said < held.len()) {
            if start.elapsed() > Duration::from_secs(20) {
                // SAFETY: ends this process.
                unsafe { libc::_exit(1) };
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // SAFETY: ends this process.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: waits for a child of ours.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(status, 0, "written by the child");
}

/// Makes an empty folder of this process's own.
fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("kmalloc-{name}-{}", std::process::id()));
    std::fs::create_dir(&folder).expect("a new folder");
    folder
}

/// Runs a shell with statistics to `file`, after `before` in one without; returns what it says on
/// standard error.
fn shell_with_file(before: &str, file: &Path) -> String {
    let run = format!("{before} KMALLOC_STATS=$0 LD_PRELOAD=$1 exec sh -c 'echo well'");
    let mut shell = Command::new("sh");
    shell.args(["-c", &run]).arg(file).arg(library()).env_remove("LD_PRELOAD");
    let output = shell.output().expect("a shell");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "well\n", "{file:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Something that is no regular file stays as it is, nothing else is left in the folder, and the
/// user gets a message.
///
/// Mutations that it catches: checking only whether the file can be created; not checking whether
/// all of it was written; keeping the temporary file when the rename fails.
fn unwritable() {
    let folder = folder("unwritable");
    let named = |name: &str| folder.join(name);
    std::os::unix::fs::symlink("/dev/null", named("link")).expect("a link");
    let pipe = CString::new(named("pipe").into_os_string().into_encoded_bytes()).expect("no zero");
    // SAFETY: the name ends with zero.
    assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
    std::fs::create_dir(named("folder")).expect("a folder");
    let long = "a".repeat(300);
    let longest = "b/".repeat(2100);
    let refusals = [
        ("link", "not a file"),
        ("pipe", "not a file"),
        ("folder", "not a file"),
        ("none/file", "error 2\n"),
        (&long, "error 36\n"),
        (&longest, "error 36\n"),
    ];
    for (name, why) in refusals {
        let said = shell_with_file("", &named(name));
        let is_told = said.starts_with("kmalloc: no statistics, KMALLOC_STATS=");
        assert!(is_told && said.contains(why) && said.lines().count() == 1, "{name}: {said}");
    }
    // As on a disk that is full: a part can be written.
    let said = shell_with_file("trap '' XFSZ; ulimit -f 1;", &named("full"));
    assert!(said.contains("/full: the system refused: error 27\n"), "{said}");
    let mut left: Vec<_> = folder
        .read_dir()
        .expect("ours")
        .map(|entry| entry.expect("readable").file_name().into_string().expect("as named"))
        .collect();
    left.sort_unstable();
    assert_eq!(left, ["folder", "link", "pipe"]);
    assert!(named("link").is_symlink(), "a link to a device is still one");
    // A regular file is replaced without a message.
    std::fs::write(named("file"), "old").expect("ours");
    assert_eq!(shell_with_file("", &named("file")), "");
    let text = std::fs::read_to_string(named("file")).expect("written");
    assert!(text.starts_with("slabinfo") && text.ends_with("failed\n"), "whole: {text}");
    std::fs::remove_dir_all(folder).expect("ours");
}

/// `KMALLOC_STATS=1` writes to what standard error was, and to nothing that has got its
/// descriptor's number since.
///
/// Mutations that it catches: no look at what the descriptor stands for at the end; descriptor 2
/// itself in place of a copy.
fn at_the_end() {
    if let Ok(file) = std::env::var("CLOSES") {
        let last = if file.is_empty() { 2 } else { 1023 };
        // SAFETY: none of them is used any more.
        (2..=last).for_each(|descriptor| _ = unsafe { libc::close(descriptor) });
        if !file.is_empty() {
            let file = CString::new(file).expect("no zero");
            // SAFETY: the name ends with zero. 150 descriptors, so that the number of the copy is
            // among them.
            (0..150).for_each(|_| _ = unsafe { libc::open(file.as_ptr(), libc::O_WRONLY) });
        }
        return;
    }
    let folder = folder("end");
    let file = folder.join("other");
    std::fs::write(&file, "").expect("ours");
    let says = |closes: &Path| {
        let mut again = Command::new(std::env::current_exe().expect("a path"));
        again.args(std::env::args().skip(1)).env("CLOSES", closes).stderr(Stdio::piped());
        let again = again.env("KMALLOC_STATS", "1").env("LD_PRELOAD", library());
        let output = again.output().expect("this program");
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = says(Path::new(""));
    assert!(said.starts_with("slabinfo") && said.ends_with("failed\n"), "{said}");
    assert_eq!(says(&file), "");
    assert_eq!(std::fs::read_to_string(&file).expect("ours"), "", "a file of the program's");
    std::fs::remove_dir_all(folder).expect("ours");
}

/// With a purging thread, memory that frees would keep is purged too: 3 MiB, less than the trim
/// threshold.
fn purged() {
    if std::env::var_os("KMALLOC_PURGE").is_none() {
        let again = |interval: &str| {
            let own = std::env::current_exe().expect("a path");
            let mut again = Command::new(own);
            let words = std::env::args().skip(1);
            again.args(words).env("KMALLOC_PURGE", interval).env("LD_PRELOAD", library());
            let output = again.stderr(Stdio::piped()).output().expect("this program");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{interval}: {said}");
            said
        };
        // With a thread, and without one. A value that is not a number is reported.
        for interval in ["20", "0", ""] {
            assert_eq!(again(interval), "");
        }
        for interval in ["often", "-1", "99999999999"] {
            let told = format!("kmalloc: KMALLOC_PURGE={interval} is ignored: not milliseconds\n");
            assert_eq!(again(interval), told);
        }
        return;
    }
    let is_asked = std::env::var("KMALLOC_PURGE").is_ok_and(|interval| interval == "20");
    let threads = std::fs::read_dir("/proc/self/task").expect("Linux").count();
    assert_eq!(threads, if is_asked { 2 } else { 1 });
    let before = resident_bytes();
    let blocks: Vec<_> = (0..300).map(|_| malloc(10_000)).collect();
    blocks.iter().for_each(|start| fill(*start, 10_000, 1));
    blocks.into_iter().for_each(free);
    std::thread::sleep(Duration::from_millis(if is_asked { 1000 } else { 100 }));
    let left = resident_bytes().saturating_sub(before);
    assert_eq!(left < 1 << 19, is_asked, "{left} bytes left");
}
