//! `kmem completions`: prints shell completions.

use std::io::stdout;

use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::Shell;

use super::{Failure, Screen};

pub(super) fn command() -> Command {
    Command::new("completions")
        .about("Print completions for a shell")
        .arg(Arg::new("SHELL").required(true).value_parser(value_parser!(Shell)).help("Which one"))
}

pub(super) fn run(matches: &ArgMatches, _: Screen) -> Result<(), Failure> {
    let shell = *matches.get_one::<Shell>("SHELL").expect("it is required");
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut super::command(), "kmem", &mut text);
    Ok(std::io::Write::write_all(&mut stdout().lock(), &text)?)
}
