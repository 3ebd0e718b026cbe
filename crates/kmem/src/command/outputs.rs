//! The files that a replay writes. All are opened before the replay, and all of them are tried at
//! its end; the first failure is returned.

use std::path::Path;

use clap::ArgMatches;
use kmem::input_error::InputError;
use kmem::kernel_files::{buddyinfo, pagetypeinfo};
use kmem::output_file::{OutputFile, OutputFolder};
use kmem::picture::painted;
use kmem::replay::buddy_pages::BuddyPages;
use kmem::replay::json;
use kmem::replay::stack::Stack;
use kmem::report::{self, Report, html};

use super::{Failure, output, output_folder, path};

/// Width of charts in files, in pixels.
const SVG_WIDTH: f64 = 760.0;

/// The CSV file of the totals.
const TOTALS: &str = "totals";

/// The open outputs of a replay. An output is `None` if it is not asked for, or once it is written.
pub(super) struct Outputs {
    slabinfo: Option<OutputFile>,
    buddyinfo: Option<OutputFile>,
    pagetypeinfo: Option<OutputFile>,
    report: Option<OutputFile>,
    json: Option<OutputFile>,
    csv: Option<OutputFolder>,
    svg: Option<OutputFolder>,
    /// Whether JSON goes to standard output.
    pub(super) json_alone: bool,
}

impl Outputs {
    /// Opens all outputs that `matches` asks for.
    pub(super) fn open(matches: &ArgMatches) -> Result<Self, Failure> {
        let numbers = report::CHARTS.iter().chain(&report::TABLES).chain(&[TOTALS]).copied();
        let pictures = report::CHARTS.iter().chain(&report::MAPS).copied();
        Ok(Self {
            slabinfo: output(matches, "slabinfo")?,
            buddyinfo: output(matches, "buddyinfo")?,
            pagetypeinfo: output(matches, "pagetypeinfo")?,
            report: output(matches, "report")?,
            json: output(matches, "json")?,
            csv: output_folder(matches, "csv", numbers, "csv")?,
            svg: output_folder(matches, "svg", pictures, "svg")?,
            json_alone: path(matches, "json") == Some(Path::new("-")),
        })
    }

    /// Writes the requested states at the end of the trace.
    pub(super) fn write_state(
        &mut self,
        stack: &Stack,
        pages: &BuddyPages,
    ) -> Result<(), InputError> {
        let blocks = || {
            let zones = pages.zones().map(|(node, name, by_mobility)| {
                let sum = |order: usize| by_mobility.iter().map(|counts| counts[order]).sum();
                let counts: Vec<usize> = (0..by_mobility[0].len()).map(sum).collect();
                buddyinfo::line(node.into(), name, &counts)
            });
            zones.collect()
        };
        let written = write(self.slabinfo.take(), || stack.slabinfo());
        let written = written.and(write(self.buddyinfo.take(), blocks));
        written.and(write(self.pagetypeinfo.take(), || pagetypeinfo::text(pages.zones())))
    }

    /// Writes the requested parts of a report.
    pub(super) fn write_report(&mut self, report: &Report) -> Result<(), InputError> {
        let page = write(self.report.take(), || html::page(report));
        let numbers = self.csv.as_ref().map_or(Ok(()), |folder| numbers(folder, report));
        let pictures = self.svg.as_ref().map_or(Ok(()), |folder| pictures(folder, report));
        page.and(numbers).and(pictures)
    }

    /// Writes the totals as JSON, if they go into a file.
    pub(super) fn write_json(&mut self, text: impl FnOnce() -> String) -> Result<(), InputError> {
        write(self.json.take(), text)
    }
}

fn write(output: Option<OutputFile>, text: impl FnOnce() -> String) -> Result<(), InputError> {
    output.map_or(Ok(()), |output| output.write_and_commit(&text()))
}

fn numbers(folder: &OutputFolder, report: &Report) -> Result<(), InputError> {
    let charts = report.charts.iter().map(|chart| folder.write(chart.name, &chart.csv()));
    let tables = report.tables.iter().map(|table| folder.write(table.name, &table.csv()));
    let totals = std::iter::once_with(|| folder.write(TOTALS, &json::totals_csv(&report.outcome)));
    charts.chain(tables).chain(totals).fold(Ok(()), Result::and)
}

fn pictures(folder: &OutputFolder, report: &Report) -> Result<(), InputError> {
    let charts = report
        .charts
        .iter()
        .map(|chart| folder.write(chart.name, &chart.picture(SVG_WIDTH).standalone()));
    let maps = report
        .maps
        .iter()
        .map(|(name, map)| folder.write(name, &painted::svg(map, name).standalone()));
    charts.chain(maps).fold(Ok(()), Result::and)
}
