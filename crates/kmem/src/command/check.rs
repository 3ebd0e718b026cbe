//! `kmem check`: finds allocation mistakes in a trace.

use std::io::{Write, stdout};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use kmem::picture::style::Style;
use kmem::views::check::check;

use super::{Failure, Screen, inputs, traces};

pub(super) fn command() -> Command {
    Command::new("check")
        .about("Find leaks, double frees and frees without an allocation in a trace")
        .after_help(
            "Exit status: 0 fine, 1 something was freed twice (with --whole: or is live, or\n\
             was never allocated) or events were lost, 2 an input is wrong.",
        )
        .arg(inputs(
            "Compact traces, plain or zstd, - for standard input [default: the bundled one]",
        ))
        .arg(
            Arg::new("whole")
                .long("whole")
                .action(ArgAction::SetTrue)
                .help("The trace has every event: what is live at its end is a leak"),
        )
        .arg(
            Arg::new("rows")
                .long("rows")
                .value_name("N")
                .value_parser(value_parser!(usize))
                .default_value("15")
                .help("Owners of live memory that are listed"),
        )
}

pub(super) fn run(matches: &ArgMatches, screen: Screen) -> Result<(), Failure> {
    let style = Style::still(screen.colour);
    let rows = *matches.get_one("rows").expect("the argument has a default");
    let whole = matches.get_flag("whole");
    let mut out = stdout().lock();
    let mut clean = true;
    for (index, source) in traces(matches).enumerate() {
        let checked = check(source?)?;
        if index > 0 {
            writeln!(out)?;
        }
        checked.write(&mut out, rows, &style)?;
        clean &= checked.is_clean(whole);
    }
    out.flush()?;
    if clean { Ok(()) } else { Err(Failure::Findings) }
}
