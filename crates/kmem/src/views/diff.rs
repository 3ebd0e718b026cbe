//! Compares two recordings: which caches and call sites grew or shrank, and by how much.
//!
//! Rows are sorted by how much their live memory at the end changed, and then by the change at the
//! moment of the peak.

use std::collections::BTreeMap;
use std::io::{self, Write};

use crate::picture::style::{Ink, Style};
use crate::picture::text::{shortened, size, thousands};
use crate::replay::caller::{Caller, Source};
use crate::replay::outcome::Outcome;
use crate::trace::losses::Losses;

/// Width of the names in a row.
const NAME_COLUMNS: usize = 26;
const FROM_COLUMNS: usize = 14;
/// Bytes of a page of the recorded kernel.
const PAGE_BYTES: u64 = 4096;

/// A number in the first recording and in the second.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// In the first.
    pub before: u64,
    /// In the second.
    pub after: u64,
}

impl Pair {
    /// Returns by how much it changed, without the sign.
    pub fn change(self) -> u64 {
        self.before.abs_diff(self.after)
    }
}

/// The live memory of a cache or of a call site in both recordings.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Row {
    /// The cache or the call site.
    pub name: String,
    /// The source of a call site; empty for a cache.
    pub from: String,
    /// Live bytes at the end.
    pub at_end: Pair,
    /// Live bytes at the moment of the peak.
    pub at_peak: Pair,
    /// Allocations.
    pub allocations: Pair,
}

/// The changes from one recording to another.
#[derive(Debug)]
pub struct Difference {
    /// The names of the recordings.
    pub traces: [String; 2],
    /// The events that each recording lost.
    pub losses: [Losses; 2],
    /// Totals with their names; bytes where the name ends in "bytes".
    pub totals: Vec<(&'static str, Pair)>,
    /// Caches and kmalloc, the largest change first.
    pub caches: Vec<Row>,
    /// Call sites of objects and of pages, the largest change first.
    pub callers: Vec<Row>,
}

/// Compares the outcomes of two replays.
pub fn diff(before: &Outcome, after: &Outcome) -> Difference {
    let mut caches = BTreeMap::new();
    let mut callers = BTreeMap::new();
    for (outcome, is_after) in [(before, false), (after, true)] {
        for used in outcome.caches_and_kmalloc() {
            let row = row(&mut caches, &used.name, "");
            set(&mut row.at_end, is_after, used.live_bytes);
            set(&mut row.at_peak, is_after, used.peak_bytes);
            set(&mut row.allocations, is_after, used.allocations);
        }
        // The cache itself stands for call sites that a trace does not name.
        let is_shown = |caller: &&Caller| caller.is_named || caller.source == Source::Pages;
        for caller in outcome.callers.iter().filter(is_shown) {
            let row = row(&mut callers, &caller.site, caller.source_name());
            set(&mut row.at_end, is_after, caller.live.bytes);
            set(&mut row.at_peak, is_after, caller.at_peak.bytes);
            set(&mut row.allocations, is_after, caller.allocations);
        }
    }
    Difference {
        traces: [before.trace.clone(), after.trace.clone()],
        losses: [before.losses, after.losses],
        totals: totals(before, after),
        caches: sorted(caches),
        callers: sorted(callers),
    }
}

fn row<'r>(rows: &'r mut BTreeMap<(String, String), Row>, name: &str, from: &str) -> &'r mut Row {
    let key = (name.to_owned(), from.to_owned());
    rows.entry(key).or_insert_with(|| Row {
        name: name.to_owned(),
        from: from.to_owned(),
        ..Row::default()
    })
}

fn set(pair: &mut Pair, is_after: bool, number: u64) {
    *(if is_after { &mut pair.after } else { &mut pair.before }) += number;
}

fn sorted(rows: BTreeMap<(String, String), Row>) -> Vec<Row> {
    let mut rows: Vec<Row> = rows.into_values().collect();
    rows.sort_by_key(|row| {
        std::cmp::Reverse((row.at_end.change(), row.at_peak.change(), row.allocations.change()))
    });
    rows
}

fn totals(before: &Outcome, after: &Outcome) -> Vec<(&'static str, Pair)> {
    let pair =
        |number: &dyn Fn(&Outcome) -> u64| Pair { before: number(before), after: number(after) };
    vec![
        ("events", pair(&|outcome| outcome.events)),
        ("lost events", pair(&|outcome| outcome.losses.events)),
        ("places of uncounted losses", pair(&|outcome| outcome.losses.uncounted)),
        ("objects, live at the peak, bytes", pair(&|outcome| outcome.objects.peak_live_bytes)),
        ("objects, live at the end, bytes", pair(&|outcome| outcome.objects.live_bytes)),
        (
            "pages, live at the peak, bytes",
            pair(&|outcome| outcome.pages.peak_live_pages * PAGE_BYTES),
        ),
        ("pages, live at the end, bytes", pair(&|outcome| outcome.pages.live_pages * PAGE_BYTES)),
        (
            "allocations that failed when recorded",
            pair(&|outcome| outcome.failed_in_recording.iter().sum()),
        ),
        ("requests that failed in the replay", pair(&|outcome| outcome.failed())),
    ]
}

impl Difference {
    /// Returns the row of the largest change: a call site, or a cache where it changed more.
    fn most(&self) -> Option<&Row> {
        let changed = |row: &&Row| row.at_end.change() > 0 || row.at_peak.change() > 0;
        let key = |row: &&Row| (row.at_end.change(), row.at_peak.change());
        // Of equals `max_by_key` returns the last one, so call sites come before caches.
        let first = self.caches.first().into_iter().chain(self.callers.first());
        first.filter(changed).max_by_key(key)
    }

    /// Returns whether neither recording lost an event, for certain.
    pub fn is_certain(&self) -> bool {
        self.losses.iter().all(|losses| losses.is_none())
    }

    /// Returns one sentence that says what changed most.
    pub fn sentence(&self) -> String {
        let Some(row) = self.most() else {
            return "Nothing changed: every cache and call site has the same live memory."
                .to_owned();
        };
        let what = match &*row.from {
            "" => format!("cache {}", row.name),
            "pages" => format!("pages of {}", row.name),
            from => format!("call site {} ({from})", row.name),
        };
        let (pair, when) = match row.at_end.change() {
            0 => (row.at_peak, "at the peak"),
            _ => (row.at_end, "at the end"),
        };
        let verb = if pair.after > pair.before { "grew" } else { "shrank" };
        format!(
            "Most changed: {what} {verb} from\n{} to {} live {when} ({}).",
            size(pair.before),
            size(pair.after),
            signed(pair)
        )
    }

    /// Writes the comparison with at most `rows` rows in each table, at most 80 columns wide.
    ///
    /// # Errors
    /// When writing to `out` fails.
    pub fn write(&self, out: &mut dyn Write, rows: usize, style: &Style) -> io::Result<()> {
        for (index, name) in ["first ", "second"].iter().enumerate() {
            writeln!(out, "{name}  {}", self.traces[index].escape_debug())?;
            if !self.losses[index].is_none() {
                let [first, second] = self.losses[index].sentence();
                let first = style.paint(Ink::Caption, &first);
                writeln!(out, "        {first}\n        {second}")?;
            }
        }
        writeln!(out, "\n{}\n", style.paint(Ink::Caption, &self.sentence()))?;
        writeln!(out, "  {:<38} {:>11} {:>11} {:>12}", "", "first", "second", "change")?;
        for (name, pair) in &self.totals {
            let (before, after, change) = match name.strip_suffix(", bytes") {
                Some(_) => (size(pair.before), size(pair.after), signed(*pair)),
                None => {
                    let sign = if pair.after < pair.before { '-' } else { '+' };
                    let change = format!("{sign}{}", thousands(pair.change()));
                    (thousands(pair.before), thousands(pair.after), change)
                }
            };
            let change = if pair.change() == 0 { "=".to_owned() } else { change };
            let name = name.strip_suffix(", bytes").unwrap_or(name);
            writeln!(out, "  {name:<38} {before:>11} {after:>11} {change:>12}")?;
        }
        table(out, "Call sites", &self.callers, rows, style)?;
        table(out, "Caches", &self.caches, rows, style)
    }

    /// Returns the comparison as JSON, with numbers in bytes.
    pub fn json(&self) -> String {
        let string = crate::replay::json::string;
        let pair = |pair: Pair| format!("[{}, {}]", pair.before, pair.after);
        let totals = self
            .totals
            .iter()
            .map(|(name, numbers)| format!("{}: {}", string(name), pair(*numbers)));
        let rows = |rows: &[Row]| {
            let lines: Vec<_> = rows
                .iter()
                .map(|row| {
                    format!(
                        "\n    {{\"name\": {}, \"from\": {}, \"bytes_at_end\": {}, \"bytes_at_peak\": {}, \"allocations\": {}}}",
                        string(&row.name),
                        string(&row.from),
                        pair(row.at_end),
                        pair(row.at_peak),
                        pair(row.allocations)
                    )
                })
                .collect();
            lines.join(",")
        };
        format!(
            "{{\n  \"traces\": [{}, {}],\n  \"losses_known\": [{}, {}],\n  \"most_changed\": {},\n  \"totals\": {{{}}},\n  \"callers\": [{}\n  ],\n  \"caches\": [{}\n  ]\n}}\n",
            string(&self.traces[0]),
            string(&self.traces[1]),
            !self.losses[0].are_hidden,
            !self.losses[1].are_hidden,
            string(&self.sentence().replace('\n', " ")),
            totals.collect::<Vec<_>>().join(", "),
            rows(&self.callers),
            rows(&self.caches)
        )
    }
}

/// Writes the rows that changed, the largest change first.
fn table(
    out: &mut dyn Write,
    title: &str,
    rows: &[Row],
    most: usize,
    style: &Style,
) -> io::Result<()> {
    let is_changed = |row: &&Row| row.at_end.change() > 0 || row.at_peak.change() > 0;
    let changed: Vec<_> = rows.iter().filter(is_changed).collect();
    if changed.is_empty() {
        return writeln!(out, "\n{title}: none changed");
    }
    let heading = format!("{title} that grew or shrank, by live bytes at the end");
    writeln!(out, "\n{}", style.paint(Ink::Caption, &heading))?;
    writeln!(
        out,
        "  {:<NAME_COLUMNS$} {:<FROM_COLUMNS$} {:>10} {:>10} {:>12}",
        "name", "from", "first", "second", "change"
    )?;
    for row in changed.iter().take(most) {
        writeln!(
            out,
            "  {:<NAME_COLUMNS$} {:<FROM_COLUMNS$} {:>10} {:>10} {:>12}",
            shortened(&row.name, NAME_COLUMNS),
            shortened(&row.from, FROM_COLUMNS),
            size(row.at_end.before),
            size(row.at_end.after),
            match row.at_end.change() {
                0 => format!("peak {}", signed(row.at_peak)),
                _ => signed(row.at_end),
            }
        )?;
    }
    match changed.len().saturating_sub(most) {
        0 => Ok(()),
        more => writeln!(out, "  and {} more", thousands(more as u64)),
    }
}

/// Returns the change of a number of bytes, with its sign.
fn signed(pair: Pair) -> String {
    let sign = if pair.after < pair.before { '-' } else { '+' };
    format!("{sign}{}", size(pair.change()))
}
