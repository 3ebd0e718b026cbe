//! `kmem frag`: shows which requests the free blocks of a buddyinfo file can still serve.

use std::io::{IsTerminal, Write, stdout};
use std::path::Path;
use std::time::Duration;

use clap::{Arg, ArgMatches, Command, value_parser};
use kmem::any_input;
use kmem::kernel_files::free_blocks::{Zone, read};
use kmem::kernel_files::watermarks;
use kmem::picture::style::{Ink, Style};
use kmem::picture::text::percent;
use kmem::views::frag::{HUGE, describe, describe_briefly, legend, summary};
use page_frame::Order;

use super::terminal::{Key, Terminal};
use super::{Failure, Screen, file, inputs, path, paths};

/// Minimum pause between two looks: without one, a program would only read and draw.
const MIN_PAUSE: Duration = Duration::from_millis(100);

/// The file that is read when none is named, and the file with its watermarks.
const RUNNING_KERNEL: &str = "/proc/buddyinfo";
const ZONEINFO: &str = "/proc/zoneinfo";

pub(super) fn command() -> Command {
    Command::new("frag")
        .about("Say in plain words what order of memory can still be had, and why not more")
        .arg(
            inputs("Files like /proc/buddyinfo, the kernel's or ours, - for standard input")
                .default_value(RUNNING_KERNEL),
        )
        .arg(
            Arg::new("order")
                .long("order")
                .value_name("N")
                .value_parser(value_parser!(u8).range(..Order::COUNT as i64))
                .default_value("9")
                .help("Say why requests of this order fail; 9 is a huge page"),
        )
        .arg(file(
            "zoneinfo",
            "Watermarks of the zones [default: /proc/zoneinfo with /proc/buddyinfo]",
        ))
        .arg(
            Arg::new("watch")
                .long("watch")
                .value_name("SECONDS")
                .num_args(0..=1)
                .require_equals(true)
                .value_parser(super::seconds)
                .default_missing_value("1")
                .help("Look again and again until q is pressed\n[without a number: each second]"),
        )
}

pub(super) fn run(matches: &ArgMatches, screen: Screen) -> Result<(), Failure> {
    let Some(pause) = matches.get_one::<Duration>("watch") else {
        stdout().lock().write_all(&look(matches, &Style::still(screen.colour), Extent::Full)?)?;
        return Ok(stdout().lock().flush()?);
    };
    let pause = (*pause).max(MIN_PAUSE);
    // Reads once before the screen is taken, so that an error stays visible.
    let mut text = look(matches, &Style::still(false), Extent::Full)?;
    if !stdout().is_terminal() {
        loop {
            stdout().lock().write_all(&text)?;
            writeln!(stdout().lock())?;
            stdout().lock().flush()?;
            std::thread::sleep(pause);
            text = look_again(matches, text, Extent::Full)?;
        }
    }
    // What does not fit on the screen cannot be seen.
    let full_rows = text.iter().filter(|byte| **byte == b'\n').count();
    let extent = || if full_rows > Terminal::size().0 { Extent::Brief } else { Extent::Full };
    text = look_again(matches, text, extent())?;
    let mut terminal = Terminal::enter(screen.colour)?;
    loop {
        let lines: Vec<String> =
            String::from_utf8_lossy(&text).lines().map(str::to_owned).collect();
        terminal.draw(&lines, "out of reach")?;
        if terminal.key(pause)? == Some(Key::Quit) {
            return Ok(());
        }
        text = look_again(matches, text, extent())?;
    }
}

/// Reads the files once more. When one has disappeared or is incomplete, `before` stays, with a
/// note in place of the file's name.
fn look_again(matches: &ArgMatches, before: Vec<u8>, extent: Extent) -> Result<Vec<u8>, Failure> {
    match look(matches, &Style::still(false), extent) {
        Err(Failure::Input(error)) => {
            let rest = before.iter().position(|byte| *byte == b'\n').unwrap_or(0);
            let note = format!("waiting for the file; found now: {}", error.found());
            Ok([note.as_bytes(), &before[rest..]].concat())
        }
        looked => looked,
    }
}

/// How much is said of a zone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// A table of all orders, and sentences.
    Full,
    /// Sentences only.
    Brief,
}

/// Reads all files and describes them.
fn look(matches: &ArgMatches, style: &Style, extent: Extent) -> Result<Vec<u8>, Failure> {
    let order = *matches.get_one::<u8>("order").expect("the argument has a default");
    let order = Order::new(order).expect("the argument is in range");
    let mut out = Vec::new();
    let mut before: Vec<Zone> = Vec::new();
    for (index, path) in paths(matches).into_iter().enumerate() {
        let name = path.to_string_lossy();
        let mut zones = read(&name, any_input::open(path)?)?;
        add_watermarks(matches, path, &mut zones)?;
        if index > 0 {
            writeln!(out)?;
        }
        writeln!(out, "{}", name.escape_debug())?;
        if zones.len() > 1 {
            writeln!(out, "{}", style.paint(Ink::Caption, &summary(&zones, order)))?;
        }
        for zone in &zones {
            match extent {
                Extent::Full => describe(&mut out, zone, order, style)?,
                Extent::Brief => describe_briefly(&mut out, zone, order, style)?,
            }
            let same = |other: &&Zone| other.name == zone.name;
            if let Some(change) = before.iter().find(same).and_then(|before| change(before, zone)) {
                writeln!(out, "  {change}")?;
            }
        }
        before = zones;
    }
    if extent == Extent::Full {
        writeln!(out)?;
        legend(&mut out)?;
    }
    Ok(out)
}

/// Adds the watermarks of the file that `--zoneinfo` names, or of the running kernel to its own
/// free blocks.
fn add_watermarks(matches: &ArgMatches, blocks: &Path, zones: &mut [Zone]) -> Result<(), Failure> {
    let marks = match path(matches, "zoneinfo") {
        Some(named) => watermarks::read(&named.to_string_lossy(), any_input::open(named)?)?,
        // Some systems hide it.
        None if blocks == Path::new(RUNNING_KERNEL) => any_input::open(Path::new(ZONEINFO))
            .and_then(|file| watermarks::read(ZONEINFO, file))
            .unwrap_or_default(),
        None => return Ok(()),
    };
    for zone in zones {
        if let Some((_, marks)) = marks.iter().find(|(name, _)| *name == zone.name) {
            zone.watermarks = Some(*marks);
        }
    }
    Ok(())
}

/// Describes how the chance of a request of 2 MiB changed from one file to the next.
fn change(before: &Zone, after: &Zone) -> Option<String> {
    let huge = Order::new(HUGE)?;
    let unusable = |zone: &Zone| percent(zone.fragmentation(huge).unusable() as u64, 1000);
    let (before, after) = (unusable(before), unusable(after));
    Some(format!("Out of reach of a 2 MiB request: {before} in the file before, {after} here."))
}
