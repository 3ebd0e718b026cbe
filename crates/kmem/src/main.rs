//! `kmem`: look at memory. Every picture is drawn from the real crates' state.
//!
//! Exit status: 0 fine, 1 the output could not be written, 2 usage error.

mod cli;

use std::io::{ErrorKind, IsTerminal, Write, stdout};
use std::process::ExitCode;

use kmem::walkthrough::buddy;

fn main() -> ExitCode {
    let request = cli::parse();
    let terminal = stdout().is_terminal();
    let style = buddy::Style {
        plain: request.plain,
        colour: terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        pause: if terminal && !request.plain { buddy::PAUSE } else { std::time::Duration::ZERO },
    };
    let mut out = stdout().lock();
    match buddy::play(&mut out, &style).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kmem: {error}");
            ExitCode::FAILURE
        }
    }
}
