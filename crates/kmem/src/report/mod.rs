//! The report of a replay: charts over its time, tables, maps of memory at its end, as one page or
//! as files.

pub mod charts;
pub mod compare;
pub mod html;
pub mod table;
mod timed_run;

use page_frame::PAGE_SIZE;

use crate::map;
use crate::picture::chart::Chart;
use crate::picture::style::Style;
use crate::picture::text::{percent, size, thousands};
use crate::replay::buddy_pages::BuddyPages;
use crate::replay::outcome::{OperationTimes, Outcome};
use crate::replay::pipeline::Replay;
use crate::replay::stack::Stack;
use crate::replay::timed::Timed;
use crate::replay::timeline::Timeline;
use crate::replay::times::{Times, clock_cost};
use crate::slabinfo;
use table::Table;

/// A replay whose operations are timed.
pub type TimedReplay = Replay<Timed<Stack>, Timed<BuddyPages>>;

/// Rows of the table of caches.
const CACHES: usize = 40;

/// Names of the charts that a report may have, which are stems of file names.
pub const CHARTS: [&str; 7] =
    ["memory", "held", "pages", "fragmentation", "orders", "free-blocks", "lifetimes"];
/// Names of the tables that a report may have.
pub const TABLES: [&str; 4] = ["times", "caches", "comparison", "comparison-pages"];
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
    replay: TimedReplay,
    timeline: &Timeline,
    kernel: Option<&[slabinfo::Line]>,
) -> Report {
    let charts = charts::all(&replay, timeline);
    let times = operation_times(replay.objects.target(), replay.pages.target());
    let tables = vec![times_table(&times), caches(&replay, kernel)];
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
    let mut outcome = replay.finish();
    outcome.times = Some(times);
    Report { outcome, charts, tables, maps }
}

/// Returns a row of the table of times.
pub fn times_row(what: &str, times: &Times) -> Vec<String> {
    let ns = |ns: u64| match ns {
        100_000.. => format!("{} µs", thousands(ns / 1000)),
        _ => format!("{} ns", thousands(ns)),
    };
    let at = |quantile: f64| ns(times.value_at_quantile(quantile));
    vec![
        what.to_owned(),
        thousands(times.len()),
        ns(times.mean().round() as u64),
        at(0.5),
        at(0.99),
        at(0.999),
        ns(times.max()),
    ]
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

fn times_table(times: &OperationTimes) -> Table {
    Table {
        name: "times",
        title: "Time per operation",
        note: "Each time has one reading of the clock in it; the last row is that alone. The maximum is often an \
               interruption of the whole program."
            .to_owned(),
        columns: ["operation", "count", "mean", "p50", "p99", "p99.9", "maximum"].map(str::to_owned).into(),
        rows: vec![
            times_row("allocate an object", &times.allocate_object),
            times_row("free an object", &times.free_object),
            times_row("allocate pages", &times.allocate_pages),
            times_row("free pages", &times.free_pages),
            times_row("read the clock", &times.read_clock),
        ],
    }
}

/// Returns the caches by the most bytes they had live, our geometry beside the kernel's.
fn caches(replay: &TimedReplay, kernel: Option<&[slabinfo::Line]>) -> Table {
    let ours = slabinfo::read("", replay.objects.target().inner().slabinfo().as_bytes());
    let ours = ours.unwrap_or_default().lines;
    let mut opened: Vec<_> = replay.objects.caches().iter().collect();
    let peak = |peak: u64, bytes: u32| peak * u64::from(bytes);
    opened.sort_by(|one, other| {
        let of = |cache: &&crate::replay::caches::OpenCache<_>| {
            peak(cache.peak_objects, cache.requested_bytes())
        };
        of(other).cmp(&of(one)).then_with(|| one.name.cmp(&other.name))
    });
    let mut columns: Vec<String> = [
        "cache",
        "object",
        "allocations",
        "live at end",
        "live at peak",
        "slab",
        "per slab",
        "slabs at end",
        "used",
    ]
    .map(str::to_owned)
    .into();
    if kernel.is_some() {
        columns.extend(["kernel: object", "kernel: slab", "kernel: per slab"].map(str::to_owned));
    }
    let slab = |pages: u64| size(pages * PAGE_SIZE as u64);
    let shown = |number: Option<u64>, text: fn(u64) -> String| number.map_or("?".to_owned(), text);
    let rows = opened.iter().take(CACHES).map(|cache| {
        // Names longer than a cache's are cut there.
        let same = |line: &&slabinfo::Line| {
            cache.name.starts_with(&line.name) && line.name.len() >= cache.name.len().min(31)
        };
        let line = ours.iter().find(same);
        let of = |get: fn(&slabinfo::Line) -> Option<u64>| line.and_then(get).unwrap_or(0);
        let held = of(|line| Some(line.slabs? * line.pages_per_slab?)) * PAGE_SIZE as u64;
        let mut row = vec![
            cache.name.clone(),
            format!("{} B", thousands(cache.requested_bytes().into())),
            thousands(cache.allocations),
            thousands(cache.live_objects),
            size(peak(cache.peak_objects, cache.requested_bytes())),
            slab(of(|line| line.pages_per_slab)),
            thousands(of(|line| line.objects_per_slab)),
            thousands(of(|line| line.slabs)),
            percent(peak(cache.live_objects, cache.requested_bytes()), held),
        ];
        if let Some(kernel) = kernel {
            row.extend(match kernel.iter().find(|line| line.name == cache.name) {
                Some(line) => [
                    shown(line.object_bytes, |bytes| format!("{} B", thousands(bytes))),
                    shown(line.pages_per_slab, slab),
                    shown(line.objects_per_slab, thousands),
                ],
                None => ["", "", ""].map(str::to_owned),
            });
        }
        row
    });
    let rows: Vec<_> = rows.collect();
    let more = opened.len() - rows.len();
    let more = if more > 0 { format!(" {more} smaller ones are left out.") } else { String::new() };
    Table {
        name: "caches",
        title: "Caches",
        note: format!(
            "By the most bytes that were live. Used is what lives of what its slabs take.{more}"
        ),
        columns,
        rows,
    }
}
