//! The files that a replay writes. All of them are tried; the first failure is returned.

use std::path::Path;

use clap::ArgMatches;
use kmem::picture::painted;
use kmem::replay::buddy_pages::BuddyPages;
use kmem::replay::stack::Stack;
use kmem::report::{Report, html};
use kmem::{buddyinfo, pagetypeinfo};

use super::{Failure, path, write_file, write_into};

/// Width of charts in files, in pixels.
const SVG_WIDTH: f64 = 760.0;

/// Writes the requested states at the end of the trace.
pub(super) fn of_state(
    matches: &ArgMatches,
    stack: &Stack,
    pages: &BuddyPages,
) -> Result<(), Failure> {
    let write = |name, text: &dyn Fn() -> String| match path(matches, name) {
        Some(path) => write_file(path, &text()),
        None => Ok(()),
    };
    let blocks = || {
        let zones = pages.zones().map(|(node, name, by_mobility)| {
            let sum = |order: usize| by_mobility.iter().map(|counts| counts[order]).sum();
            let counts: Vec<usize> = (0..by_mobility[0].len()).map(sum).collect();
            buddyinfo::line(node.into(), name, &counts)
        });
        zones.collect()
    };
    let written = write("slabinfo", &|| stack.slabinfo());
    let written = written.and(write("buddyinfo", &blocks));
    written.and(write("pagetypeinfo", &|| pagetypeinfo::text(pages.zones())))
}

/// Writes the requested parts of a report.
pub(super) fn of_report(matches: &ArgMatches, report: &Report) -> Result<(), Failure> {
    let page = path(matches, "report").map_or(Ok(()), |to| write_file(to, &html::page(report)));
    let numbers = path(matches, "csv").map_or(Ok(()), |folder| numbers(folder, report));
    let pictures = path(matches, "svg").map_or(Ok(()), |folder| pictures(folder, report));
    page.and(numbers).and(pictures)
}

fn numbers(folder: &Path, report: &Report) -> Result<(), Failure> {
    for chart in &report.charts {
        write_into(folder, chart.name, "csv", &chart.csv())?;
    }
    for table in &report.tables {
        write_into(folder, table.name, "csv", &table.csv())?;
    }
    Ok(())
}

fn pictures(folder: &Path, report: &Report) -> Result<(), Failure> {
    for chart in &report.charts {
        write_into(folder, chart.name, "svg", &chart.svg(SVG_WIDTH).standalone())?;
    }
    for (name, map) in &report.maps {
        write_into(folder, name, "svg", &painted::svg(map, name).standalone())?;
    }
    Ok(())
}
