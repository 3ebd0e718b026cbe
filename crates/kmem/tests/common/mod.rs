//! The program as a user runs it.

#![allow(unreachable_pub)]

use std::process::{Command, Stdio};

/// Runs `kmem` with `arguments` and nothing on its standard input; returns its status, and what it
/// said on both outputs.
pub fn kmem(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_kmem"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("the output is text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}
