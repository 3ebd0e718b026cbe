//! The command line of `kmem`.
//!
//! Exit status: 0 fine, 1 something was found, 2 the command line or an input is wrong, the output could not be written, or the
//! system gave no memory.

mod command;

use std::io::ErrorKind;
use std::process::ExitCode;

use command::Failure;

fn main() -> ExitCode {
    match command::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Findings) => ExitCode::FAILURE,
        Err(Failure::Input(error)) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
        // Whoever read our output has seen enough.
        Err(Failure::System(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Failure::System(error)) => {
            eprintln!("kmem: {error}");
            ExitCode::from(2)
        }
    }
}
