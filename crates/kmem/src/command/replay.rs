//! `kmem replay`: replays recorded kernel traces on the allocators.

use std::io::{BufRead, Write, stdout};
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use kmem::any_input;
use kmem::bundled;
use kmem::input_error::InputError;
use kmem::kernel_files::memory_map;
use kmem::kernel_files::slabinfo::{self, Slabinfo};
use kmem::replay::buddy_pages::Division;
use kmem::replay::json::json;
use kmem::replay::outcome::Outcome;
use kmem::replay::pipeline::Options;
use kmem::replay::screen;
use kmem::replay::timed::Timed;
use kmem::replay::timeline::Timeline;
use kmem::report::compare::Comparison;
use kmem::report::table::Table;
use kmem::report::{self, Report, tables};
use kmem::trace::source::Source;

use super::comparison::{self, Rivals};
use super::machine::{Machine, USUAL_BYTES, fitting_frames, play, reopen};
use super::outputs::Outputs;
use super::{Failure, OUTPUTS, Screen, file, folder, force, inputs, path, refuse, traces};
use crate::say;

/// Options that write one file and so take one trace.
const OF_ONE: [&str; 7] =
    ["slabinfo", "buddyinfo", "pagetypeinfo", "report", "csv", "svg", "kernel-slabinfo"];
/// Options that need a full report.
const OF_REPORT: [&str; 5] = ["report", "svg", "csv", "against", "kernel-slabinfo"];
/// Options whose outputs show how fragmentation develops.
const PICTURED: [&str; 3] = ["report", "svg", "csv"];
/// Call sites that a terminal shows.
const CALLERS: usize = 25;
/// Enough for a registry and a few caches.
const MIN_MEMORY_BYTES: usize = 1 << 20;
/// More memory than any recorded machine has.
const MAX_MEMORY_BYTES: usize = 1 << 40;
/// Maximum number of CPUs in a trace.
const MAX_CPUS: i64 = kmem::trace::event::MAX_CPUS as i64;

pub(super) fn command() -> Command {
    Command::new("replay")
        .about("Replay recorded kernel traces through the allocators")
        .after_help(format!(
            "Exit status: 0 fine, 1 memory ran out, an allocator did something wrong, or\n\
             the recording lost events, 2 the command line, a trace or an output is wrong.\n\
             {OUTPUTS}",
        ))
        .arg(inputs(
            "Compact traces, plain or zstd, - for standard input [default: the bundled one]",
        ))
        .arg(
            Arg::new("no-check")
                .long("no-check")
                .action(ArgAction::SetTrue)
                .help("Do not write a pattern into every object and check it when freed"),
        )
        .arg(
            Arg::new("times")
                .long("times")
                .action(ArgAction::SetTrue)
                .help("Take the time of every operation, as reports and --json without --no-check do"),
        )
        .arg(
            Arg::new("caller")
                .long("caller")
                .action(ArgAction::SetTrue)
                .help("Show who allocates: each call site with live\nbytes, waste and what it pins"),
        )
        .arg(memory())
        .arg(cpus())
        .arg(
            Arg::new("pressure")
                .long("pressure")
                .value_name("PERCENT")
                .value_parser(value_parser!(u8).range(0..=100))
                .default_value("0")
                .help("So much of the object side's memory is somebody else's, so that caches have to yield"),
        )
        .arg(file("map", "Boot memory map whose usable frames are the page side's ([mem 0xSTART-0xEND] KIND)"))
        .arg(
            Arg::new("zones")
                .long("zones")
                .action(ArgAction::SetTrue)
                .help("Page side in zones: DMA below 16 MiB, DMA32 below 4 GiB, Normal"),
        )
        .arg(
            Arg::new("nodes")
                .long("nodes")
                .value_name("N")
                .value_parser(value_parser!(u16).range(1..=64))
                .default_value("1")
                .help("Page side in so many nodes of the same size; CPU n is of node n modulo N"),
        )
        .arg(file("report", "Write one HTML page: memory and fragmentation over time, times, caches, maps of memory"))
        .arg(folder("csv", "Write the numbers of each chart and table as CSV"))
        .arg(folder("svg", "Write each chart and map as a picture"))
        .arg(file("kernel-slabinfo", "The recorded kernel's /proc/slabinfo, shown beside ours in the report"))
        .arg(
            file("json", "Write the totals as JSON, - for standard output in place of the report")
                .value_parser(value_parser!(PathBuf)),
        )
        .arg(file("slabinfo", "Write the caches at the end of the trace as /proc/slabinfo"))
        .arg(file("buddyinfo", "Write the free blocks at the end of the trace as /proc/buddyinfo"))
        .arg(file("pagetypeinfo", "Write the same by mobility, as /proc/pagetypeinfo"))
        .args(comparison::arguments())
        .arg(force())
}

/// Returns the option for the amount of memory.
pub(super) fn memory() -> Arg {
    Arg::new("memory")
        .long("memory")
        .visible_alias("mem")
        .value_name("SIZE")
        .value_parser(size)
        .help(
            "Memory for object events, and the same again for \
             page events (K, M, G) [default: 4G; but in \
             pictures and reports page events have a quarter \
             more than their peak, so that fragmentation can \
             be seen. The trace, if it is a file, is read once \
             more before, to find the peak.]",
        )
}

/// Returns the option for the number of CPUs.
pub(super) fn cpus() -> Arg {
    Arg::new("cpus")
        .long("cpus")
        .value_name("N")
        .value_parser(value_parser!(u16).range(1..=MAX_CPUS))
        .help("CPU slots; events of higher CPUs share them [default: as many as the trace has]")
}

fn size(text: &str) -> Result<usize, String> {
    super::bytes(text)
        .filter(|bytes| (MIN_MEMORY_BYTES..=MAX_MEMORY_BYTES).contains(bytes))
        .ok_or_else(|| "a size from 1M to 1024G".to_owned())
}

/// Replays each trace and writes the requested outputs.
pub(super) fn run(matches: &ArgMatches, screen: Screen) -> Result<(), Failure> {
    let options =
        Options { checks: !matches.get_flag("no-check"), cpus: matches.get_one("cpus").copied() };
    let memory_bytes = matches.get_one("memory").copied().unwrap_or(USUAL_BYTES);
    let pressure = *matches.get_one("pressure").expect("the argument has a default");
    let many = matches.get_many::<PathBuf>("FILE").is_some_and(|files| files.len() > 1);
    if let Some(name) = OF_ONE.iter().find(|name| many && path(matches, name).is_some()) {
        refuse(command(), ErrorKind::ArgumentConflict, format!("--{name} goes with one trace"));
    }
    let map = read(path(matches, "map"), memory_map::read)?;
    if let Some(complaint) = map.as_ref().and_then(|map| map.complaint.as_ref()) {
        say(format_args!("kmem: {complaint}"));
    }
    let frames = map.map(|map| map.runs);
    let kernel = read(path(matches, "kernel-slabinfo"), slabinfo::read)?;
    if let Some(complaint) = kernel.as_ref().and_then(Slabinfo::complaint) {
        say(format_args!("kmem: {complaint}"));
    }
    let kernel = kernel.map(|read| read.lines);
    let nodes = *matches.get_one("nodes").expect("the argument has a default");
    let division = Division { in_zones: matches.get_flag("zones"), nodes };
    let machine = Machine { frames, division, memory_bytes, pressure, options };
    let mut outputs = Outputs::open(matches)?;
    let mut played = Vec::new();
    let mut tables = Vec::new();
    let mut written = Ok(());
    for source in traces(matches) {
        let source = source.map_err(Failure::from);
        let kernel = kernel.as_deref();
        match source.and_then(|source| one(source, &machine, matches, kernel, &mut outputs, screen))
        {
            Ok(one) => {
                tables.extend(one.tables);
                written = written.and(one.written);
                played.push(one.outcome);
            }
            // The traces that were replayed before are reported all the same. They are not written
            // as JSON, which would then describe other traces than those requested.
            Err(failure) => {
                if !outputs.json_alone {
                    let _ = conclude(&played, &tables, None, screen);
                }
                return Err(failure);
            }
        }
    }
    let concluded = conclude(&played, &tables, Some(&mut outputs), screen);
    written.and(concluded)
}

/// The result of one trace.
struct Played {
    outcome: Outcome,
    /// Tables that the terminal shows too.
    tables: Vec<Table>,
    /// Whether all requested files were written. The outcome is reported even if not.
    written: Result<(), Failure>,
}

/// Replays one trace and writes its files.
fn one(
    source: Source,
    machine: &Machine,
    matches: &ArgMatches,
    kernel: Option<&[slabinfo::Line]>,
    outputs: &mut Outputs,
    screen: Screen,
) -> Result<Played, Failure> {
    let is_asked = |name: &&str| matches.contains_id(name);
    let mut machine = machine.clone();
    if PICTURED.iter().any(is_asked) && !["memory", "map"].iter().any(is_asked) {
        if let Some(reopen) = reopen(matches, &source) {
            machine.frames = Some(fitting_frames(&reopen, &machine)?);
        }
    }
    let machine = &machine;
    let with_callers = matches.get_flag("caller");
    // Timing is off with `--no-check`, which exists for speed.
    let is_timed =
        matches.get_flag("times") || machine.options.checks && matches.contains_id("json");
    if is_timed || OF_REPORT.iter().any(is_asked) {
        let (report, written) = reported(source, machine, matches, kernel, outputs, screen)?;
        // The table of caches beside the kernel's, unless a report or CSV shows it already.
        let caches = kernel.is_some() && !["report", "csv"].iter().any(is_asked);
        let named = |table: &Table| match table.name {
            "times" | "comparison" | "comparison-pages" => true,
            "caches" => caches,
            _ => false,
        };
        let callers = with_callers.then(|| tables::callers(&report.outcome, CALLERS));
        let tables = callers.into_iter().chain(report.tables.into_iter().filter(named)).collect();
        return Ok(Played { outcome: report.outcome, tables, written });
    }
    let mut replay = play(source, machine, screen, |stack, pages| (stack, pages), |_| ())?;
    if with_callers || matches.contains_id("json") {
        replay.count_pinned();
    }
    let written = outputs.write_state(replay.objects.target(), replay.pages.target());
    let written = written.map_err(Failure::from);
    let outcome = replay.finish();
    let tables = with_callers.then(|| tables::callers(&outcome, CALLERS)).into_iter().collect();
    Ok(Played { outcome, tables, written })
}

/// Reads the file at `path`, if there is one.
fn read<T>(
    path: Option<&Path>,
    read: impl FnOnce(&str, Box<dyn BufRead + Send>) -> Result<T, InputError>,
) -> Result<Option<T>, InputError> {
    let Some(path) = path else { return Ok(None) };
    read(&path.to_string_lossy(), any_input::open(path)?).map(Some)
}

/// Replays the bundled trace.
pub(super) fn bundled(screen: Screen) -> Result<(), Failure> {
    let options = Options { checks: true, cpus: None };
    let machine = Machine::new(USUAL_BYTES, options);
    let replay = play(bundled::source()?, &machine, screen, |stack, pages| (stack, pages), |_| ())?;
    conclude(&[replay.finish()], &[], None, screen)
}

/// Replays with every operation timed, compares with other allocators, and writes the report's
/// files. All files are tried, even after one has failed.
fn reported(
    source: Source,
    machine: &Machine,
    matches: &ArgMatches,
    kernel: Option<&[slabinfo::Line]>,
    outputs: &mut Outputs,
    screen: Screen,
) -> Result<(Report, Result<(), Failure>), Failure> {
    let rivals = Rivals::named(&source, command(), matches)?;
    let mut timeline = Timeline::default();
    let timed = |stack, pages| (Timed::new(stack), Timed::new(pages));
    let replay = play(source, machine, screen, timed, |replay| timeline.watch(replay))?;
    timeline.end(&replay);
    let (objects, pages) = (replay.objects.target(), replay.pages.target());
    let states = outputs.write_state(objects.inner(), pages.inner()).map_err(Failure::from);
    let mut report = report::gather(replay, &timeline, kernel);
    let compared = rivals.map_or(Ok(()), |rivals| {
        let Comparison { tables, findings } = rivals.compare(machine, &report.outcome, screen)?;
        report.tables.extend(tables);
        findings.iter().for_each(|text| report.outcome.findings.add_of_all(text));
        Ok(())
    });
    let written = outputs.write_report(&report).map_err(Failure::from);
    Ok((report, states.and(compared).and(written)))
}

/// Writes reports and JSON. Returns an error when an outcome has findings.
fn conclude(
    outcomes: &[Outcome],
    tables: &[Table],
    outputs: Option<&mut Outputs>,
    screen: Screen,
) -> Result<(), Failure> {
    let json_alone = outputs.as_ref().is_some_and(|outputs| outputs.json_alone);
    let mut out = stdout().lock();
    if json_alone {
        out.write_all(json(outcomes).as_bytes())?;
    } else {
        for (index, outcome) in outcomes.iter().enumerate() {
            if index > 0 {
                writeln!(out)?;
            }
            screen::report(&mut out, outcome, screen.colour)?;
        }
        for table in tables {
            write!(out, "\n{}", table.text())?;
        }
        if let Some(outputs) = outputs {
            outputs.write_json(|| json(outcomes))?;
        }
    }
    out.flush()?;
    match outcomes.iter().all(|outcome| outcome.is_sound() && outcome.losses.is_none()) {
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
