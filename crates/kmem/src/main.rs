//! The command line of `kmem`.
//!
//! Exit status: 0 fine, 1 an allocator did something wrong or the output could not be written, 2 the command line or an
//! input is wrong.

mod cli;
mod commands;

use std::io::ErrorKind;
use std::process::ExitCode;

use commands::Failure;

fn main() -> ExitCode {
    let done = match cli::parse() {
        cli::Request::Tour => commands::tour(),
        cli::Request::Walkthrough { layer, plain } => commands::walkthrough(layer, plain),
        cli::Request::Replay(request) => commands::replay(&request),
    };
    match done {
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
            ExitCode::FAILURE
        }
    }
}
