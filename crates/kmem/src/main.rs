//! The command line of `kmem`.
//!
//! Exit status: 0 success; 1 something was found; 2 a usage error, bad input, an output that could
//! not be written, or no memory.

mod command;

use std::io::{ErrorKind, Write, stderr};
use std::process::ExitCode;

use command::Failure;

fn main() -> ExitCode {
    if let Err(error) = command::signals::watch() {
        say(format_args!("kmem: {error}"));
        return ExitCode::from(2);
    }
    match command::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Findings) => ExitCode::FAILURE,
        Err(Failure::Input(error)) => {
            say(&error);
            ExitCode::from(2)
        }
        // The reader of our output closed it: that is not an error.
        Err(Failure::System(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Failure::System(error)) => {
            say(format_args!("kmem: {error}"));
            ExitCode::from(2)
        }
    }
}

/// Prints `why` on standard error. A failure to print is ignored, because a panic would change the
/// exit status.
fn say(why: impl std::fmt::Display) {
    let _ = writeln!(stderr(), "{why}");
}
