//! The program as a user runs it.

use std::process::{Command, Stdio};

fn kmem(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_kmem")).args(arguments).output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("the output is text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn plain_prints_the_states_of_the_example_file() {
    let example = include_str!("../../buddy/tests/buddy-16k.txt");
    let expected: String = example
        .lines()
        .filter_map(|line| line.strip_prefix('#').map_or_else(|| line.split_once("=>"), |_| None))
        .map(|(_, state)| format!("{}\n", state.trim()))
        .collect();
    let (status, out, error) = kmem(&["walkthrough", "buddy", "--plain"]);
    assert_eq!((status, out.as_str(), error.as_str()), (Some(0), expected.as_str(), ""));
}

#[test]
fn both_copies_of_the_example_are_equal() {
    assert_eq!(
        include_str!("../src/walkthrough/example-16k.txt"),
        include_str!("../../buddy/tests/buddy-16k.txt")
    );
}

#[test]
fn without_a_command_it_draws_and_explains_the_neighbours_that_do_not_join() {
    let (status, out, _) = kmem(&[]);
    assert_eq!(status, Some(0));
    assert_eq!(out.matches("free blocks:").count(), 13);
    assert!(out.contains("never join, and cannot serve 4K"), "{out}");
    assert!(!out.contains('\x1b'), "no colour when the output is not a terminal");
    assert!(out.lines().all(|line| line.chars().count() <= 80), "fits 80 columns");
}

#[test]
fn usage_errors_end_with_two_and_say_why() {
    for arguments in [&["walk"][..], &["walkthrough"], &["walkthrough", "buddy", "--fast"]] {
        let (status, out, error) = kmem(arguments);
        assert_eq!((status, out.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(!error.is_empty());
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kmem"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}
