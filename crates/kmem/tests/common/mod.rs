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

/// Makes `command` begin with the default action of the signals that end a program. The
/// program that runs the tests may ignore some: `nohup` ignores SIGHUP, and a shell SIGINT and
/// SIGQUIT of commands in the background.
#[allow(dead_code, reason = "not every test program sends signals")]
pub fn with_default_signals(command: &mut std::process::Command) -> &mut std::process::Command {
    use std::os::unix::process::CommandExt;
    let reset = || {
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
            // SAFETY: sets the default action, in the child.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: `reset` calls only `signal`, which a child may call after `fork`.
    unsafe { command.pre_exec(reset) }
}
