//! The report of a replay: charts over its time, tables, maps of memory at its end, as one page or
//! as files.

pub mod cell;
pub mod charts;
pub mod compare;
pub mod html;
pub mod table;
pub mod tables;
mod timed_run;

use crate::kernel_files::slabinfo;
use crate::picture::chart::Chart;
use crate::picture::style::Style;
use crate::replay::buddy_pages::BuddyPages;
use crate::replay::outcome::{OperationTimes, Outcome};
use crate::replay::pipeline::Replay;
use crate::replay::stack::Stack;
use crate::replay::timed::Timed;
use crate::replay::timeline::Timeline;
use crate::replay::times::clock_cost;
use crate::views::map;
use table::Table;

/// A replay whose operations are timed.
pub type TimedReplay = Replay<Timed<Stack>, Timed<BuddyPages>>;

/// Names of the charts that a report may have, which are stems of file names.
pub const CHARTS: [&str; 7] =
    ["memory", "held", "pages", "fragmentation", "orders", "free-blocks", "lifetimes"];
/// Names of the tables that a report may have.
pub const TABLES: [&str; 5] = ["callers", "caches", "times", "comparison", "comparison-pages"];
/// Names of the maps of a report.
pub const MAPS: [&str; 3] = ["map-owner", "map-mobility", "map-order"];

/// All that a report shows.
#[derive(Debug)]
pub struct Report {
    /// The outcome of the replay, known at its end.
    pub outcome: Outcome,
    /// Drawn from the samples.
    pub charts: Vec<Chart>,
    /// Times, caches, and whatever else is added.
    pub tables: Vec<Table>,
    /// Maps with their names, as a terminal shows them.
    pub maps: Vec<(&'static str, String)>,
}

/// Looks at a replay at the end of its trace, when everything is still live, and then finishes it.
/// `kernel` is the recorded kernel's own slabinfo.
pub fn gather(
    mut replay: TimedReplay,
    timeline: &Timeline,
    kernel: Option<&[slabinfo::Line]>,
) -> Report {
    let charts = charts::all(&replay, timeline);
    let times = operation_times(replay.objects.target(), replay.pages.target());
    let caches = tables::caches(&replay, kernel);
    let draw = |map: map::Map| {
        let mut text = Vec::new();
        map.draw(&mut text, &Style::still(true)).expect("a vector takes all");
        String::from_utf8(text).expect("a map is text")
    };
    let maps = vec![
        ("map-owner", draw(map::by_owner(replay.objects.target().inner()))),
        ("map-mobility", draw(map::by_mobility(replay.pages.target().inner()))),
        ("map-order", draw(map::by_order(replay.pages.target().inner()))),
    ];
    replay.count_pinned();
    let mut outcome = replay.finish();
    let tables = vec![tables::callers(&outcome, tables::ROWS), caches, tables::times(&times)];
    outcome.times = Some(times);
    Report { outcome, charts, tables, maps }
}

/// Returns the times that both sides took so far.
pub fn operation_times<T, P>(objects: &Timed<T>, pages: &Timed<P>) -> OperationTimes {
    OperationTimes {
        allocate_object: objects.allocations().clone(),
        free_object: objects.frees().clone(),
        allocate_pages: pages.allocations().clone(),
        free_pages: pages.frees().clone(),
        read_clock: clock_cost(),
    }
}
