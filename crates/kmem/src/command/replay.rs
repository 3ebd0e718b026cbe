//! `kmem replay`: recorded kernel traces through the allocators.

use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kmem::replay::buddy_pages::BuddyPages;
use kmem::replay::json::json;
use kmem::replay::outcome::Outcome;
use kmem::replay::pipeline::{self, Options, Replay};
use kmem::replay::report::report;
use kmem::replay::stack::Stack;
use kmem::trace::source::Source;
use kmem::{buddyinfo, bundled};

use super::{Failure, Screen, file, inputs, path, traces, write_file};

/// Progress bars are drawn at most once in so many events.
const EVENTS_PER_TICK: u64 = 1 << 16;
/// Enough for a registry and a few caches.
const MIN_MEMORY_BYTES: usize = 1 << 20;
/// More than any recorded machine has.
const MAX_MEMORY_BYTES: usize = 1 << 40;

pub(super) fn command() -> Command {
    Command::new("replay")
        .about("Replay recorded kernel traces through the allocators")
        .after_help(
            "Exit status: 0 fine, 1 an allocator did something wrong, 2 the command line or a trace is wrong.",
        )
        .arg(inputs(
            "Compact traces, plain or zstd, - for standard input [default: the bundled one]",
        ))
        .arg(
            Arg::new("no-check")
                .long("no-check")
                .action(ArgAction::SetTrue)
                .help("Do not write a pattern into every object and check it when freed"),
        )
        .arg(memory())
        .arg(file("json", "Write the totals as JSON, - for standard output in place of the report"))
        .arg(file("slabinfo", "Write the caches at the end of the trace as /proc/slabinfo"))
        .arg(file("buddyinfo", "Write the free blocks at the end of the trace as /proc/buddyinfo"))
}

/// The option that says how much memory there is.
pub(super) fn memory() -> Arg {
    Arg::new("memory")
        .long("memory")
        .visible_alias("mem")
        .value_name("SIZE")
        .value_parser(size)
        .default_value("4G")
        .help("Memory for object events, and the same again for page events (K, M, G)")
}

fn size(text: &str) -> Result<usize, String> {
    super::bytes(text)
        .filter(|bytes| (MIN_MEMORY_BYTES..=MAX_MEMORY_BYTES).contains(bytes))
        .ok_or_else(|| "a size from 1M to 1024G".to_owned())
}

/// Replays each trace and writes what was asked for.
pub(super) fn run(matches: &ArgMatches, screen: Screen) -> Result<(), Failure> {
    let options = Options { checks: !matches.get_flag("no-check"), cpus: None };
    let memory_bytes = *matches.get_one("memory").expect("the argument has a default");
    let of_one = ["slabinfo", "buddyinfo"].iter().any(|name| path(matches, name).is_some());
    if matches.get_many::<PathBuf>("FILE").is_some_and(|files| files.len() > 1) && of_one {
        let kind = clap::error::ErrorKind::ArgumentConflict;
        command().error(kind, "--slabinfo and --buddyinfo go with one trace").exit();
    }
    let mut outcomes = Vec::new();
    for source in traces(matches) {
        let replay = replay_one(source?, options, memory_bytes, screen)?;
        if let Some(path) = path(matches, "slabinfo") {
            write_file(path, &replay.objects.target().slabinfo())?;
        }
        if let Some(path) = path(matches, "buddyinfo") {
            let pages = replay.pages.target();
            write_file(path, &buddyinfo::line(0, "Normal", &pages.free_counts()))?;
        }
        outcomes.push(replay.finish());
    }
    conclude(&outcomes, path(matches, "json"), screen)
}

/// Replays the bundled trace.
pub(super) fn bundled(screen: Screen) -> Result<(), Failure> {
    let options = Options { checks: true, cpus: None };
    let outcome = replay_one(bundled::source()?, options, 4 << 30, screen)?.finish();
    conclude(&[outcome], None, screen)
}

fn replay_one(
    source: Source,
    options: Options,
    memory_bytes: usize,
    screen: Screen,
) -> Result<Replay<Stack, BuddyPages>, Failure> {
    let bar = progress_bar(source.size_bytes(), screen);
    let mut next_tick = 0;
    let frames = memory_bytes / page_frame::PAGE_SIZE;
    let played = pipeline::replay(
        source,
        options,
        |cpus| Ok((Stack::new(memory_bytes, cpus)?, BuddyPages::new(frames, cpus)?)),
        |replay, bytes| {
            if replay.events() >= next_tick {
                next_tick = replay.events() + EVENTS_PER_TICK;
                bar.set_position(bytes);
            }
        },
    );
    bar.finish_and_clear();
    Ok(played?)
}

/// Returns a bar on standard error, which draws nothing where that is no terminal.
fn progress_bar(size_bytes: Option<u64>, screen: Screen) -> ProgressBar {
    let target = match screen.quiet {
        true => ProgressDrawTarget::hidden(),
        false => ProgressDrawTarget::stderr(),
    };
    let bar = ProgressBar::with_draw_target(size_bytes, target);
    let template = match size_bytes {
        Some(_) => "  replaying {bar:50} {percent:>3} %",
        None => "  replaying {spinner} {bytes}",
    };
    let style = ProgressStyle::with_template(template);
    bar.set_style(style.expect("the template is well formed"));
    bar
}

/// Writes reports and JSON, and says whether everything was right.
fn conclude(outcomes: &[Outcome], json_path: Option<&Path>, screen: Screen) -> Result<(), Failure> {
    let json_alone = json_path.is_some_and(|path| path == Path::new("-"));
    let mut out = stdout().lock();
    if json_alone {
        out.write_all(json(outcomes).as_bytes())?;
    } else {
        for (index, outcome) in outcomes.iter().enumerate() {
            if index > 0 {
                writeln!(out)?;
            }
            report(&mut out, outcome, screen.colour)?;
        }
        if let Some(path) = json_path {
            write_file(path, &json(outcomes))?;
        }
    }
    out.flush()?;
    match outcomes.iter().all(Outcome::is_sound) {
        true => Ok(()),
        false => Err(Failure::Findings),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_limits() {
        assert_eq!((size("1024K"), size("1024G")), (Ok(1 << 20), Ok(1 << 40)));
        for wrong in ["1048575", "1025G", "x"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
