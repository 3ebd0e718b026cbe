//! Inputs that are no traces: one line that says where and what, exit status 2, bounded memory, no
//! panic.

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// Address space that a replay may have, in KiB: far more than it uses, far less than the largest
/// inputs would take.
const ADDRESS_SPACE_KIB: u32 = 1 << 20;

/// Runs `kmem replay` with little address space, so that unbounded memory shows as a failure. Page
/// events alone need none but metadata.
fn replay(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(format!("ulimit -v {ADDRESS_SPACE_KIB}; exec \"$0\" replay --memory 256M \"$@\""))
        .arg(env!("CARGO_BIN_EXE_kmem"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut stdin = child.stdin.take().expect("it is piped");
    let feeding = {
        let input = input.to_vec();
        // A reader that gave up closes its end; the rest of the input is of no use then.
        std::thread::spawn(move || _ = stdin.write_all(&input))
    };
    let output = child.wait_with_output().expect("it ends");
    feeding.join().expect("feeding does not panic");
    output
}

/// Checks that `output` is one line, as expected, and status 2.
fn assert_refused(output: &Output, expected: &str) {
    assert_complains(output, expected);
    assert!(output.stdout.is_empty());
}

/// Checks the same, without regard to earlier output.
fn assert_complains(output: &Output, expected: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.starts_with(expected), "expected {expected}\n   found {error}");
    assert!(error.contains("expected ") && error.contains(", found "), "{error}");
}

fn refused(input: &[u8], expected: &str) {
    assert_refused(&replay(&["-"], input), expected);
}

#[test]
fn a_missing_file_and_a_folder_are_named() {
    assert_refused(&replay(&["/nowhere/at all"], b""), "/nowhere/at all: expected a readable file");
    assert_refused(&replay(&["/"], b""), "/: expected readable input");
}

#[test]
fn an_empty_input_is_no_trace() {
    refused(b"", "-: expected a trace, found an empty file");
}

#[test]
fn a_truncated_file_says_that_it_ends() {
    for bytes in [2, 4, 10, 1_000, 500_000, kmem::bundled::BYTES.len() - 1] {
        let cut = &kmem::bundled::BYTES[..bytes];
        refused(cut, "-: expected the rest of a zstd frame, found the end of the file");
    }
}

#[test]
fn a_corrupt_file_is_an_error_wherever_the_damage_is() {
    for at in [5, 20, 3_000, 100_000, 900_000, kmem::bundled::BYTES.len() - 1] {
        let mut corrupt = kmem::bundled::BYTES.to_vec();
        corrupt[at] ^= 0x55;
        refused(&corrupt, "-:");
    }
}

#[test]
fn a_program_is_not_a_trace() {
    let program = env!("CARGO_BIN_EXE_kmem");
    let output = replay(&[program], b"");
    assert_refused(&output, &format!("{program}:1: expected an event"));
}

#[test]
fn lines_that_are_wrong_are_named_with_their_number() {
    for (line, expected) in [
        ("q,0,0,0", "expected an event (a, A, f, F, p, P, x), !s, !g or #, as kmem import makes"),
        (
            "free,0,0,0",
            "expected an event (a, A, f, F, p, P, x), !s, !g or #, as kmem import makes",
        ),
        ("", "expected an event, a name or a comment, found nothing"),
        ("P,0,0,0,19", "expected ORDER, 0 to 18, found `19`"),
        ("p,0,0,0,99999999999999999999999,0,0", "expected ORDER, 0 to 18, found"),
        ("f,0,1024,0", "expected CPU, 0 to 1023, found `1024`"),
        ("f,0,0,ffffffffffffffff", "expected PTR, hexadecimal up to 777fffffffff"),
        ("a,0,0,0,8,4,0,0", "expected an ALLOC not less than REQ, found `4`"),
        ("a,0,0,777fffffffff,8,8,0,0", "expected a PTR whose object ends below 2^64"),
        ("a,0,0,0,8,8,0,7", "expected the number of a call site or cache named before"),
        ("a,0,0,0,8,8,7,0", "expected the number of a gfp mask named before"),
        ("!s,0,T", "expected `S` for number 0 again, found `T`"),
        ("f,0,0", "expected PTR, hexadecimal up to 777fffffffff, found nothing"),
        ("f,0,0,0\rf,0,0,8", "expected lines that end in a line break, found a carriage return"),
    ] {
        let input = format!("!g,0,G\n!s,0,S\nf,0,0,0\n{line}\nf,0,0,0\n");
        refused(input.as_bytes(), &format!("-:4: {expected}"));
    }
}

#[test]
fn an_endless_line_ends_early() {
    let endless = vec![b'#'; 10_000_000];
    refused(&endless, "-:1: expected a line of at most 4096 bytes, found a longer one");
}

#[test]
fn garbage_of_100_mb_fails_at_its_beginning() {
    let mut noise = 0x2545_f491_4f6c_dd1d_u64;
    let garbage: Vec<u8> = std::iter::repeat_with(|| {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        noise.to_ne_bytes()
    })
    .take(100_000_000 / 8)
    .flatten()
    .collect();
    let path: PathBuf = [env!("CARGO_TARGET_TMPDIR"), "garbage"].iter().collect();
    fs::write(&path, &garbage).expect("there is room for the file");
    let name = path.to_str().expect("the folder's name is text");
    assert_refused(&replay(&[name], b""), &format!("{name}:1: expected"));
    fs::remove_file(&path).expect("it was just written");
    refused(&garbage, "-:1: expected");
    // Short lines of it, behind a good one.
    let lines: Vec<u8> = b"f,0,0,0\n".iter().copied().chain(garbage).collect();
    refused(&lines, "-:2: expected");
}

#[test]
fn a_frame_that_wants_a_window_beyond_all_memory_is_refused() {
    // Magic, descriptor without single segment, window descriptor 0xf8: 2^41 bytes.
    refused(&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 0, 0, 0], "-: expected a zstd window");
}

#[test]
fn a_trace_of_nothing_but_new_names_does_not_grow_without_bound() {
    let mut names = String::new();
    for id in 0..65_536 {
        names.push_str(&format!("!s,{id},{id:0>200}\n"));
    }
    names.push_str("!s,65536,x\n");
    refused(names.as_bytes(), "-:65537: expected ID, a number below 65536, found `65536`");
}

#[test]
fn a_trace_that_opens_caches_without_end_is_refused() {
    let mut trace = String::from("!g,0,G\n!s,0,S\n");
    for bytes in 1..=4097 {
        trace.push_str(&format!("A,0,0,{bytes:x}000,{bytes},8192,0,0\n"));
    }
    refused(trace.as_bytes(), "-:4099: expected at most 4096 caches, found one more");
}

#[test]
fn an_object_that_no_cache_can_have_is_named() {
    let trace = b"!g,0,G\n!s,0,S\nA,0,0,0,4194305,8388608,0,0\n";
    refused(trace, "-:3: expected an object size that a cache can have, found ");
    let largest = b"!g,0,G\n!s,0,S\nA,0,0,0,4194304,8388608,0,0\n";
    assert_eq!(replay(&["-"], largest).status.code(), Some(0));
}

#[test]
fn an_output_that_cannot_be_written_is_found_before_the_work() {
    for option in ["--json", "--slabinfo", "--buddyinfo", "--pagetypeinfo", "--report"] {
        for place in ["/nowhere/totals", "/"] {
            let output = replay(&[option, place, "-"], b"f,0,0,0\n");
            let expected = format!("{place}: expected a file that can be written, found ");
            assert_complains(&output, &expected);
            assert!(output.stdout.is_empty(), "{option}: {output:?}");
        }
    }
    let folder = env!("CARGO_TARGET_TMPDIR");
    let other: PathBuf = [folder, "other.buddyinfo"].iter().collect();
    let _ = fs::remove_file(&other);
    let name = other.to_str().expect("the folder's name is text");
    let output = replay(&["--slabinfo", "/", "--buddyinfo", name, "-"], b"f,0,0,0\n");
    assert_complains(&output, "/: expected a file that can be written, found ");
    assert!(!other.exists(), "nothing is written beside one that cannot be");
}

#[test]
fn no_file_is_called_as_standard_output_is() {
    for option in ["--report", "--buddyinfo", "--svg"] {
        let output = replay(&[option, "-", "-"], b"f,0,0,0\n");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{option}: {error}");
        assert!(error.contains("only --json takes - for standard output"), "{option}: {error}");
    }
}

/// With the feature `rivals` none is missing.
#[cfg(not(feature = "rivals"))]
#[test]
fn an_allocator_that_is_not_built_in_is_refused_and_those_that_are_there_are_named() {
    for name in kmem::replay::rivals::ALL {
        let output = replay(&["--against", &format!("system,{name}"), "-"], b"f,0,0,0\n");
        let error = String::from_utf8_lossy(&output.stderr);
        if kmem::replay::rivals::NAMES.contains(&name) {
            assert!(!error.contains("not built in"), "{error}");
            continue;
        }
        assert_eq!(output.status.code(), Some(2), "{name}: {error}");
        let expected = format!(
            "error: {name} is not built in: build with `--features rivals`; built in: system\n"
        );
        assert!(error.starts_with(&expected), "{error}");
        assert!(output.stdout.is_empty(), "nothing is replayed before");
    }
}

#[test]
fn an_error_in_the_second_of_two_traces_names_the_second() {
    let path: PathBuf = [env!("CARGO_TARGET_TMPDIR"), "good.csv"].iter().collect();
    fs::write(&path, "f,0,0,0\n").expect("there is room for the file");
    let good = path.to_str().expect("the folder's name is text");
    let first_then = |output: &Output, expected: &str| {
        assert_complains(output, expected);
        let out = String::from_utf8_lossy(&output.stdout);
        assert_eq!(out.matches("  1 events in ").count(), 1, "the first is said: {out}");
    };
    first_then(&replay(&[good, "-"], b"f,0,0,0\nf,0,0\n"), "-:2: expected PTR");
    let nowhere = "/nowhere/at all: expected a readable";
    first_then(&replay(&[good, "/nowhere/at all"], b""), nowhere);
    assert_refused(&replay(&["--json", "-", good, "/nowhere/at all"], b""), nowhere);
}

#[test]
fn an_error_does_not_wait_for_a_pipe_that_stays_open() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kmem"))
        .args(["replay", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(b"f,0,0,0\nq\n").expect("it reads");
    // `stdin` was taken, so waiting does not close it.
    let status = child.wait().expect("it ends");
    let mut error = String::new();
    child.stderr.take().expect("it is piped").read_to_string(&mut error).expect("it is text");
    assert_eq!(status.code(), Some(2), "{error}");
    assert!(error.starts_with("-:2: expected an event"), "{error}");
    drop(stdin);
}

#[test]
fn sizes_of_memory_have_limits() {
    for size in ["0", "1023K", "1025G", "-1", "4T", "x", ""] {
        let output = Command::new(env!("CARGO_BIN_EXE_kmem"))
            .args(["replay", "--memory", size])
            .output()
            .expect("it runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{size}: {error}");
    }
}

#[test]
fn a_closed_pipe_ends_a_report_quietly() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kmem"))
        .args(["replay", "--no-check"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}
