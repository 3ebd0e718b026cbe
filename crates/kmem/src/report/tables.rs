//! The tables of a report: times of operations, caches, and callers.

use page_frame::PAGE_SIZE;

use super::TimedReplay;
use super::cell::{Cell, Column, Unit};
use super::table::{Table, column};
use crate::kernel_files::slabinfo;
use crate::picture::text::{size, thousands};
use crate::replay::caches::CacheState;
use crate::replay::caller::Caller;
use crate::replay::outcome::{OperationTimes, Outcome};
use crate::replay::times::Times;

/// Maximum number of rows of the tables of caches and of callers; one more sums up the rest.
pub(super) const ROWS: usize = 60;

/// Returns the times of operations. A quantile that is not above that of reading the clock is shown
/// as such.
pub fn times(times: &OperationTimes) -> Table {
    let clock_ns = times.read_clock.value_at_quantile(0.5);
    let row = |what, times| times_row(what, times, clock_ns);
    let ns = |name| column(name, Unit::Nanoseconds);
    Table {
        name: "times",
        title: "Time per operation",
        note: "Each time has one reading of the clock in it; the last row is that alone. A time that is not above it is shown \
               as below the clock's. The maximum is often an interruption of the whole program."
            .to_owned(),
        columns: vec![
            column("operation", Unit::Text),
            column("count", Unit::Count),
            ns("mean"),
            ns("p50"),
            ns("p99"),
            ns("p99.9"),
            ns("maximum"),
        ],
        rows: vec![
            row("allocate an object", &times.allocate_object),
            row("free an object", &times.free_object),
            row("allocate pages", &times.allocate_pages),
            row("free pages", &times.free_pages),
            times_row("read the clock", &times.read_clock, 0),
        ],
    }
}

/// Returns a row of the table of times. `clock_ns` is the cost of reading the clock, which each
/// time includes.
fn times_row(what: &str, times: &Times, clock_ns: u64) -> Vec<Cell> {
    let quantile = |quantile: f64| match times.value_at_quantile(quantile) {
        ns if ns <= clock_ns && !times.is_empty() => Cell::BelowClock(ns as f64, clock_ns as f64),
        ns => Cell::number(ns),
    };
    vec![
        Cell::text(what),
        Cell::number(times.len()),
        Cell::Number(times.mean().round()),
        quantile(0.5),
        quantile(0.99),
        quantile(0.999),
        Cell::number(times.max()),
    ]
}

/// Returns the caches by their live bytes at the peak, our geometry beside the kernel's.
pub(super) fn caches(replay: &TimedReplay, kernel: Option<&[slabinfo::Line]>) -> Table {
    let ours = slabinfo::read("", replay.objects.target().inner().slabinfo().as_bytes());
    let ours = ours.unwrap_or_default().lines;
    let mut states = replay.objects.caches();
    states.push(replay.objects.kmalloc());
    states.sort_by(|one, other| {
        other.at_peak.bytes.cmp(&one.at_peak.bytes).then_with(|| one.name.cmp(&other.name))
    });
    let bytes = |name| column(name, Unit::Bytes);
    let count = |name| column(name, Unit::Count);
    let mut columns = vec![
        column("cache", Unit::Text),
        bytes("object"),
        count("allocations"),
        bytes("live at peak"),
        bytes("live at end"),
        count("objects at end"),
        bytes("slab"),
        count("per slab"),
        count("slabs at end"),
        column("used", Unit::Percent),
    ];
    if kernel.is_some() {
        columns.extend([bytes("kernel: object"), bytes("kernel: slab"), count("kernel: per slab")]);
    }
    let row = |state: &CacheState| {
        let mut row = cache_row(state, &ours);
        if let Some(kernel) = kernel {
            let line = kernel.iter().find(|line| line.name == state.name);
            row.extend(line.map_or([Cell::Empty, Cell::Empty, Cell::Empty], |line| {
                [line.object_bytes, line.pages_per_slab.map(to_bytes), line.objects_per_slab]
                    .map(|number| number.map_or(Cell::text("?"), Cell::number))
            }));
        }
        row
    };
    let mut rows: Vec<_> = states.iter().take(ROWS).map(row).collect();
    if states.len() > ROWS {
        let rest = states[ROWS..].iter().fold(CacheState::default(), |mut rest, state| {
            rest.allocations += state.allocations;
            rest.live.add(state.live);
            rest.at_peak.add(state.at_peak);
            rest
        });
        let mut row = vec![
            Cell::text(format!("({} smaller ones)", states.len() - ROWS)),
            Cell::Empty,
            Cell::number(rest.allocations),
            Cell::number(rest.at_peak.bytes),
            Cell::number(rest.live.bytes),
            Cell::number(rest.live.objects),
        ];
        row.resize(columns.len(), Cell::Empty);
        rows.push(row);
    }
    Table {
        name: "caches",
        title: "Caches",
        note: format!(
            "Live at peak is at the one moment when most bytes of all objects were live, after {:.2} s: the column adds up to {}. \
             Used is what lives of what its slabs take at the end.",
            replay.objects.peak_micros() as f64 / 1e6,
            size(replay.objects.totals().peak_live_bytes)
        ),
        columns,
        rows,
    }
}

fn to_bytes(pages: u64) -> u64 {
    pages * PAGE_SIZE as u64
}

fn cache_row(state: &CacheState, ours: &[slabinfo::Line]) -> Vec<Cell> {
    // Names longer than a cache's are cut there.
    let same = |line: &&slabinfo::Line| {
        state.name.starts_with(&line.name) && line.name.len() >= state.name.len().min(31)
    };
    // The classes of kmalloc are many caches.
    let is_cache = state.requested_bytes > 0;
    let line = ours.iter().find(same).filter(|_| is_cache);
    let of = |get: fn(&slabinfo::Line) -> Option<u64>| line.and_then(get);
    let held = of(|line| Some(line.slabs? * line.pages_per_slab?)).map(to_bytes);
    let number = |number: Option<u64>| number.map_or(Cell::Empty, Cell::number);
    let used = held.filter(|held| *held > 0);
    vec![
        Cell::text(&state.name),
        number(Some(state.requested_bytes.into()).filter(|_| is_cache)),
        Cell::number(state.allocations),
        Cell::number(state.at_peak.bytes),
        Cell::number(state.live.bytes),
        Cell::number(state.live.objects),
        number(of(|line| line.pages_per_slab).map(to_bytes)),
        number(of(|line| line.objects_per_slab)),
        number(of(|line| line.slabs)),
        used.map_or(Cell::Empty, |held| {
            Cell::Number(state.live.bytes as f64 * 100.0 / held as f64)
        }),
    ]
}

/// Returns the callers: a row for each call site and source, at most `most` rows, and one row for
/// the rest.
pub fn callers(outcome: &Outcome, most: usize) -> Table {
    let bytes = |name| column(name, Unit::Bytes);
    let has_failures = outcome.callers.iter().any(|caller| caller.failed > 0);
    let mut columns: Vec<Column> = vec![
        column("call site", Unit::Text),
        column("from", Unit::Text),
        bytes("live at peak"),
        bytes("live at end"),
        bytes("pinned"),
        column("allocations", Unit::Count),
        bytes("requested"),
        bytes("allocated"),
        column("waste", Unit::Percent),
    ];
    if has_failures {
        columns.push(column("failed", Unit::Count));
    }
    let caller_row = |caller: &Caller| {
        let mut row = caller_row(caller);
        row.truncate(columns.len());
        row
    };
    let callers = &outcome.callers;
    let mut rows: Vec<_> = callers.iter().take(most).map(caller_row).collect();
    if let Some((first, rest)) = callers.get(most..).and_then(<[Caller]>::split_first) {
        let mut sum = first.clone();
        for other in rest {
            sum.allocations += other.allocations;
            sum.failed += other.failed;
            sum.requested_bytes += other.requested_bytes;
            sum.allocated_bytes += other.allocated_bytes;
            sum.live.add(other.live);
            sum.at_peak.add(other.at_peak);
            sum.pinned_bytes += other.pinned_bytes;
        }
        let mut row = caller_row(&sum);
        row[0] = Cell::text(format!("({} smaller ones)", thousands(rest.len() as u64 + 1)));
        row[1] = Cell::Empty;
        rows.push(row);
    }
    Table {
        name: "callers",
        title: "Who allocates",
        note: "Live at peak is at the moment when most bytes of all objects, or most pages, were live. Allocated is what the \
               recorded kernel set aside; waste is the share that was not requested. Pinned is free memory that cannot be used \
               otherwise because something of this call site lives in the same slab, or in the same 2 MiB of pages. Where the \
               trace does not name a call site, the cache or the gfp mask stands for it."
            .to_owned(),
        columns,
        rows,
    }
}

fn caller_row(caller: &Caller) -> Vec<Cell> {
    let waste = match caller.allocated_bytes {
        0 => Cell::Empty,
        all => Cell::Number(caller.wasted_bytes() as f64 * 100.0 / all as f64),
    };
    vec![
        Cell::text(&caller.site),
        Cell::text(caller.source_name()),
        Cell::number(caller.at_peak.bytes),
        Cell::number(caller.live.bytes),
        Cell::number(caller.pinned_bytes),
        Cell::number(caller.allocations),
        Cell::number(caller.requested_bytes),
        Cell::number(caller.allocated_bytes),
        waste,
        Cell::number(caller.failed),
    ]
}
