//! The judge in a terminal: what it prints, and its exit code.

use std::io::Write;
use std::process::{Command, Output, Stdio};

fn judge(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_buddy-judge"));
    let pipes = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = pipes.stderr(Stdio::piped()).spawn().expect("the judge starts");
    // The judge may end before it has read all.
    let _ = child.stdin.take().expect("it is piped").write_all(input.as_bytes());
    child.wait_with_output().expect("the judge ends")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn right_answers_end_with_code_0_and_wrong_ones_with_1() {
    let right = judge(&[], "alloc A 3 -> 0\n");
    assert_eq!(right.status.code(), Some(0));
    assert!(text(&right.stdout).starts_with("All is right"));
    let wrong = judge(&[], "alloc A 3 -> 0\r\nalloc B 2 -> 2\r\n");
    assert_eq!(wrong.status.code(), Some(1));
    let expected =
        "Line 2 is wrong (overlap): B is given 2K at 2K, but that is inside A, which has 0 to 4K.
  line:   alloc B 2 -> 2
  rule:   A unit of memory belongs to one block at a time.
  theirs: 4A 4- 8-
          with 2B at units 2 to 4
  right:  4A 2B 2- 8-
";
    assert_eq!(text(&wrong.stdout), expected);
}

#[test]
fn a_file_is_read_and_a_missing_one_is_named() {
    let file = std::env::temp_dir().join(format!("buddy-judge-{}.txt", std::process::id()));
    std::fs::write(&file, b"alloc A 1 -> 0\n\xff\n").expect("a file can be written");
    let path = file.to_string_lossy().into_owned();
    let odd = judge(&[&path], "");
    std::fs::remove_file(&file).expect("it is there");
    assert_eq!(odd.status.code(), Some(1));
    assert!(text(&odd.stdout).starts_with("Line 2 is wrong (not understood)"));
    let missing = judge(&[&path], "");
    assert_eq!(missing.status.code(), Some(2));
    assert!(text(&missing.stderr).contains(&path));
    assert_eq!(judge(&["a", "b"], "").status.code(), Some(2));
    assert!(text(&judge(&["--help"], "").stdout).starts_with("Usage"));
}
