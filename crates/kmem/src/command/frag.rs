//! `kmem frag`: shows which requests the free blocks of a buddyinfo file can still serve.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write, stdout};

use clap::{ArgMatches, Command};
use kmem::frag::describe;
use kmem::free_blocks::{Zone, read};
use kmem::input_error::Mismatch;
use kmem::picture::style::Style;
use kmem::picture::text::percent;
use page_frame::Order;

use super::{Failure, Screen, inputs, paths};

/// The file that is read when none is named.
const RUNNING_KERNEL: &str = "/proc/buddyinfo";
/// The order of 2 MiB, for which files are compared.
const HUGE: usize = 9;

pub(super) fn command() -> Command {
    Command::new("frag")
        .about("Say in plain words what order of memory can still be had, and why not more")
        .arg(
            inputs("Files like /proc/buddyinfo, the kernel's or ours, - for standard input")
                .default_value(RUNNING_KERNEL),
        )
}

pub(super) fn run(matches: &ArgMatches, screen: Screen) -> Result<(), Failure> {
    let style = Style::still(screen.colour);
    let mut out = stdout().lock();
    let mut before: Vec<Zone> = Vec::new();
    for (index, path) in paths(matches).into_iter().enumerate() {
        let name = path.to_string_lossy();
        let from: Box<dyn BufRead> = match &*name {
            "-" => Box::new(io::stdin().lock()),
            _ => Box::new(BufReader::new(File::open(path).map_err(|error| {
                Mismatch::new("a readable file", error.to_string()).in_file(&name)
            })?)),
        };
        let zones = read(&name, from)?;
        if index > 0 {
            writeln!(out)?;
        }
        writeln!(out, "{}", name.escape_debug())?;
        for zone in &zones {
            describe(&mut out, zone, &style)?;
            let same = |other: &&Zone| other.name == zone.name;
            if let Some(change) = before.iter().find(same).and_then(|before| change(before, zone)) {
                writeln!(out, "  {change}")?;
            }
        }
        before = zones;
    }
    Ok(out.flush()?)
}

/// Describes how the chance of a request of 2 MiB changed from one file to the next.
fn change(before: &Zone, after: &Zone) -> Option<String> {
    let huge = Order::all().nth(HUGE)?;
    let unusable = |zone: &Zone| percent(zone.fragmentation(huge).unusable() as u64, 1000);
    let (before, after) = (unusable(before), unusable(after));
    Some(format!("Out of reach of a 2 MiB request: {before} in the file before, {after} here."))
}
