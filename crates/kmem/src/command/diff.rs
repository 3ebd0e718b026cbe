//! `kmem diff`: compares two recordings.

use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Command, value_parser};
use kmem::picture::style::Style;
use kmem::replay::outcome::Outcome;
use kmem::replay::pipeline::Options;
use kmem::trace::source::Source;
use kmem::views::diff::diff;

use super::machine::{Machine, USUAL_BYTES, play};
use super::{Failure, OUTPUTS, Screen, file, force, output, path, replay};

pub(super) fn command() -> Command {
    let trace =
        |name, help| Arg::new(name).required(true).value_parser(value_parser!(PathBuf)).help(help);
    Command::new("diff")
        .about("Compare two recordings: caches and call sites that grew or shrank")
        .after_help(format!(
            "Exit status: 0 fine, 1 a recording lost events, 2 the command line or\n\
             a trace is wrong.\n\
             {OUTPUTS}",
        ))
        .arg(trace("FIRST", "A compact trace, plain or zstd"))
        .arg(trace("SECOND", "Another one, recorded later or with a change"))
        .arg(
            Arg::new("rows")
                .long("rows")
                .value_name("N")
                .value_parser(value_parser!(usize))
                .default_value("10")
                .help("Rows of each table"),
        )
        .arg(
            replay::memory().help(
                "Memory for object events, and the same again for\npage events [default: 4G]",
            ),
        )
        .arg(
            file(
                "json",
                "Write the comparison as JSON, - for standard output in place of the tables",
            )
            .value_parser(value_parser!(PathBuf)),
        )
        .arg(force())
}

pub(super) fn run(matches: &ArgMatches, screen: Screen) -> Result<(), Failure> {
    let json = output(matches, "json")?;
    let before = outcome(matches, "FIRST", screen)?;
    let after = outcome(matches, "SECOND", screen)?;
    let difference = diff(&before, &after);
    let mut out = stdout().lock();
    if path(matches, "json") == Some(Path::new("-")) {
        out.write_all(difference.json().as_bytes())?;
    } else {
        let rows = *matches.get_one("rows").expect("the argument has a default");
        difference.write(&mut out, rows, &Style::still(screen.colour))?;
        if let Some(json) = json {
            json.write_and_commit(&difference.json())?;
        }
    }
    out.flush()?;
    if difference.is_certain() { Ok(()) } else { Err(Failure::Findings) }
}

fn outcome(matches: &ArgMatches, name: &str, screen: Screen) -> Result<Outcome, Failure> {
    let source = Source::open(path(matches, name).expect("it is required"))?;
    let memory_bytes = matches.get_one("memory").copied().unwrap_or(USUAL_BYTES);
    let machine = Machine::new(memory_bytes, Options { checks: false, cpus: None });
    let replay = play(source, &machine, screen, |stack, pages| (stack, pages), |_| ())?;
    Ok(replay.finish())
}
