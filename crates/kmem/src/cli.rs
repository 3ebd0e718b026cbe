//! The command line.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

/// What the user wants.
#[derive(Debug)]
pub(crate) enum Request {
    /// No command: everything that there is to see.
    Tour,
    /// An allocator at work.
    Walkthrough {
        /// Which one.
        layer: Walkthrough,
        /// Only the states, one a line.
        plain: bool,
    },
    /// Traces to be replayed.
    Replay(ReplayRequest),
}

/// What there is to walk through.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Walkthrough {
    /// Blocks that split and merge.
    Buddy,
    /// Slabs that fill.
    Slab,
    /// Memory that runs short.
    Pressure,
}

/// What to replay, and what to write.
#[derive(Debug)]
pub(crate) struct ReplayRequest {
    /// Files; none is the bundled trace.
    pub(crate) traces: Vec<PathBuf>,
    pub(crate) checks: bool,
    pub(crate) memory_bytes: usize,
    pub(crate) json: Option<PathBuf>,
    pub(crate) slabinfo: Option<PathBuf>,
    pub(crate) buddyinfo: Option<PathBuf>,
}

/// Reads the command line; on a usage error, or when help was asked for, ends the program.
pub(crate) fn parse() -> Request {
    let mut command = command();
    let matches = command.get_matches_mut();
    match matches.subcommand() {
        Some(("walkthrough", walkthrough)) => {
            let (name, matches) = walkthrough.subcommand().expect("a walkthrough has a name");
            let layer = match name {
                "buddy" => Walkthrough::Buddy,
                "slab" => Walkthrough::Slab,
                _ => Walkthrough::Pressure,
            };
            Request::Walkthrough { layer, plain: matches.get_flag("plain") }
        }
        Some(("replay", replay)) => {
            let request = replay_request(replay);
            let of_one = request.slabinfo.is_some() || request.buddyinfo.is_some();
            if request.traces.len() > 1 && of_one {
                let kind = clap::error::ErrorKind::ArgumentConflict;
                command.error(kind, "--slabinfo and --buddyinfo go with one trace").exit();
            }
            Request::Replay(request)
        }
        _ => Request::Tour,
    }
}

fn replay_request(matches: &ArgMatches) -> ReplayRequest {
    let path = |name| matches.get_one::<PathBuf>(name).cloned();
    ReplayRequest {
        traces: matches.get_many::<PathBuf>("FILE").unwrap_or_default().cloned().collect(),
        checks: !matches.get_flag("no-check"),
        memory_bytes: *matches.get_one("memory").expect("the argument has a default"),
        json: path("json"),
        slabinfo: path("slabinfo"),
        buddyinfo: path("buddyinfo"),
    }
}

fn command() -> Command {
    let plain = Arg::new("plain")
        .long("plain")
        .action(ArgAction::SetTrue)
        .help("Print only the states, one a line");
    let layer = |name, about| Command::new(name).about(about).arg(plain.clone());
    let walkthrough = Command::new("walkthrough")
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
        ));
    let file = |name, help| {
        Arg::new(name).long(name).value_name("FILE").value_parser(value_parser!(PathBuf)).help(help)
    };
    let replay = Command::new("replay")
        .about("Replay recorded kernel traces through the allocators")
        .after_help(
            "Exit status: 0 fine, 1 an allocator did something wrong, 2 the command line or a trace is wrong.",
        )
        .arg(
            Arg::new("FILE")
                .num_args(0..)
                .value_parser(value_parser!(PathBuf))
                .help("Compact traces, plain or zstd, - for standard input [default: the bundled one]"),
        )
        .arg(
            Arg::new("no-check")
                .long("no-check")
                .action(ArgAction::SetTrue)
                .help("Do not write a pattern into every object and check it when freed"),
        )
        .arg(
            Arg::new("memory")
                .long("memory")
                .value_name("SIZE")
                .value_parser(size)
                .default_value("4G")
                .help("Memory for object events, and the same again for page events (K, M, G)"),
        )
        .arg(file("json", "Write the totals as JSON, - for standard output in place of the report"))
        .arg(file("slabinfo", "Write the caches at the end of the trace as /proc/slabinfo"))
        .arg(file("buddyinfo", "Write the free blocks at the end of the trace as /proc/buddyinfo"));
    Command::new("kmem")
        .about("Look at memory: pictures drawn from the live state of the allocators")
        .version(env!("CARGO_PKG_VERSION"))
        .after_help("Without a command: the tour.")
        .subcommand(walkthrough)
        .subcommand(replay)
}

/// Enough for a registry and a few caches.
const MIN_MEMORY_BYTES: usize = 1 << 20;
/// More than any recorded machine has.
const MAX_MEMORY_BYTES: usize = 1 << 40;

/// Reads `4G`, `512M`, `2048K` or a number of bytes.
fn size(text: &str) -> Result<usize, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let bytes = digits.parse::<usize>().ok().and_then(|number| number.checked_mul(1 << shift));
    bytes
        .filter(|bytes| (MIN_MEMORY_BYTES..=MAX_MEMORY_BYTES).contains(bytes))
        .ok_or_else(|| "a size from 1M to 1024G".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn sizes_have_units_and_limits() {
        assert_eq!(size("4G"), Ok(4 << 30));
        assert_eq!((size("1024K"), size("1024G")), (Ok(1 << 20), Ok(1 << 40)));
        for wrong in ["", "G", "1048575", "1025G", "-1", "4T", "99999999999999999999G", "ä"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
