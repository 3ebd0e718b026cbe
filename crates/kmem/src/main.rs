//! The command line of `kmem`.
//!
//! Exit status: 0 fine, 1 something was found, 2 the command line or an input is wrong, the output could not be written, or the
//! system gave no memory.

mod command;

use std::io::{ErrorKind, Write, stderr};
use std::process::ExitCode;

use command::Failure;

fn main() -> ExitCode {
    match command::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Findings) => ExitCode::FAILURE,
        Err(Failure::Input(error)) => {
            say(&error);
            ExitCode::from(2)
        }
        // Whoever read our output has seen enough.
        Err(Failure::System(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Failure::System(error)) => {
            say(format_args!("kmem: {error}"));
            ExitCode::from(2)
        }
    }
}

/// Says why on standard error. Where that takes nothing, the exit status has to do: a panic would have another one.
fn say(why: impl std::fmt::Display) {
    let _ = writeln!(stderr(), "{why}");
}
