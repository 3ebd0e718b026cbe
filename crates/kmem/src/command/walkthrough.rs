//! `kmem walkthrough`: an allocator at work, step by step.

use std::io::{IsTerminal, Write, stdout};
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use kmem::picture::style::{Rest, Style};
use kmem::walkthrough::{buddy, pressure, slab};

use super::{Failure, Screen};

/// How long a step stays on a terminal.
const PAUSE: Duration = Duration::from_millis(900);

/// What there is to walk through.
pub(super) const LAYERS: [&str; 3] = ["buddy", "slab", "pressure"];

pub(super) fn command() -> Command {
    let plain = Arg::new("plain")
        .long("plain")
        .action(ArgAction::SetTrue)
        .help("Print only the states, one a line");
    let layer = |name, about| Command::new(name).about(about).arg(plain.clone());
    Command::new("walkthrough")
        .about("Show an allocator at work, step by step")
        .subcommand_required(true)
        .subcommand(layer(
            "buddy",
            "The 16 KiB example: blocks split and merge, and two free neighbours that cannot join",
        ))
        .subcommand(layer(
            "slab",
            "A cache grows slab by slab, each with a colour, and keeps constructed state",
        ))
        .subcommand(layer(
            "pressure",
            "Memory runs short: empty slabs of one cache go home, and another one grows",
        ))
}

pub(super) fn run(matches: &ArgMatches, screen: Screen) -> Result<(), Failure> {
    let (layer, matches) = matches.subcommand().expect("a walkthrough has a name");
    play(layer, matches.get_flag("plain"), PAUSE, screen)
}

pub(super) fn play(
    layer: &str,
    plain: bool,
    pause: Duration,
    screen: Screen,
) -> Result<(), Failure> {
    let rest = if stdout().is_terminal() && !plain { Rest::Pause(pause) } else { Rest::None };
    let style = Style { plain, colour: screen.colour && !plain, rest };
    let mut out = stdout().lock();
    match layer {
        "buddy" => buddy::play(&mut out, &style)?,
        "slab" => slab::play(&mut out, &style)?,
        _ => pressure::play(&mut out, &style)?,
    }
    Ok(out.flush()?)
}
