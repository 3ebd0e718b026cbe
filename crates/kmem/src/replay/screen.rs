//! The report at the end of a replay: one screen.

use std::io::{self, Write};

use super::caller::{Caller, Source};
use super::largest::{self, Largest};
use super::outcome::{Outcome, Shortages};
use crate::picture::text::{shortened, size, thousands};

/// Maximum number of caches listed.
const LARGEST: usize = 5;
/// Maximum numbers of callers listed, of objects and of pages.
const CALLERS: [usize; 2] = [3, 1];
/// Width of the bars in columns.
const BAR_COLUMNS: u64 = 18;
/// Width of the names of call sites in columns.
const SITE_COLUMNS: usize = 34;
const FROM_COLUMNS: usize = 18;

/// How text stands out.
struct Marks {
    bold: &'static str,
    bad: &'static str,
    good: &'static str,
    dim: &'static str,
    off: &'static str,
}

const COLOURED: Marks = Marks {
    bold: "\x1b[1m",
    bad: "\x1b[1;31m",
    good: "\x1b[1;32m",
    dim: "\x1b[2m",
    off: "\x1b[0m",
};
const PLAIN: Marks = Marks { bold: "", bad: "", good: "", dim: "", off: "" };

/// Writes a report of `outcome`, at most 80 columns wide.
///
/// # Errors
/// When writing to `out` fails.
pub fn report(out: &mut dyn Write, outcome: &Outcome, colour: bool) -> io::Result<()> {
    let marks = if colour { COLOURED } else { PLAIN };
    let Marks { bold, off, .. } = marks;
    writeln!(out, "{bold}{}{off}", outcome.trace.escape_debug())?;
    writeln!(
        out,
        "  {} events in {:.2} s: {bold}{:.1} million events a second{off}",
        thousands(outcome.events),
        outcome.duration.as_secs_f64(),
        outcome.events_per_second() / 1e6,
    )?;
    shortage(out, outcome, &marks)?;
    losses(out, outcome, &marks)?;
    largest(out, outcome, &marks)?;
    totals(out, outcome, &marks)?;
    caches(out, outcome, &marks)?;
    callers(out, outcome, &marks)?;
    end(out, outcome, &marks)
}

/// Says that memory ran out, and why.
fn shortage(out: &mut dyn Write, outcome: &Outcome, marks: &Marks) -> io::Result<()> {
    if outcome.failed() == 0 {
        return Ok(());
    }
    let (objects, pages) = (&outcome.objects, &outcome.pages);
    writeln!(
        out,
        "  {}Ran out of memory: {} of {} objects and {} of {} blocks of pages failed.{}",
        marks.bad,
        thousands(objects.failed),
        thousands(objects.allocations),
        thousands(pages.failed),
        thousands(pages.allocations),
        marks.off
    )?;
    let sides: [(&str, &Shortages); 2] =
        [("objects", &objects.shortages), ("blocks", &pages.shortages)];
    for (what, shortages) in sides {
        for (number, reason) in shortages.named() {
            writeln!(out, "    {:>13} {what}: {reason}", thousands(number))?;
        }
    }
    writeln!(out, "  Live and held memory are those of the requests that were served.")
}

/// Says whether the recording lost events.
fn losses(out: &mut dyn Write, outcome: &Outcome, marks: &Marks) -> io::Result<()> {
    let failed: u64 = outcome.failed_in_recording.iter().sum();
    if failed > 0 {
        let failed = thousands(failed);
        writeln!(out, "  In the recorded kernel {failed} allocations of pages failed.")?;
    }
    let [first, second] = outcome.losses.sentence();
    match outcome.losses.is_none() {
        true => writeln!(out, "  {first}"),
        false => writeln!(out, "  {}{first}{}\n  {second}", marks.bad, marks.off),
    }
}

/// Names what holds most at the peak.
fn largest(out: &mut dyn Write, outcome: &Outcome, marks: &Marks) -> io::Result<()> {
    for Largest { before, name, after } in largest::sentences(outcome) {
        let name = shortened(&name, SITE_COLUMNS);
        writeln!(out, "  {before}{}{name}{}{after}", marks.bold, marks.off)?;
    }
    Ok(())
}

fn totals(out: &mut dyn Write, outcome: &Outcome, marks: &Marks) -> io::Result<()> {
    let Marks { bold, off, .. } = marks;
    let (objects, pages) = (&outcome.objects, &outcome.pages);
    writeln!(out, "\n{bold}Objects{off}, on kmalloc and slab caches over a buddy")?;
    row(out, "allocated", objects.allocations, "objects")?;
    row(out, "freed", objects.matched_frees, "objects")?;
    row(
        out,
        "freed by implication",
        objects.implied_frees,
        "objects, whose address was given out again",
    )?;
    row(out, "frees skipped", objects.unmatched_frees, "of objects older than the trace")?;
    row(out, "asked for", objects.bytes_requested, "bytes")?;
    row(out, "live at the peak", objects.peak_live_bytes, "bytes")?;
    let stack = &outcome.stack;
    let times = match outcome.held_per_live() {
        Some(ratio) => format!("bytes, {ratio:.2} times the live ones"),
        None => "bytes".to_owned(),
    };
    row(out, "held at the peak", outcome.held_bytes(), &times)?;
    let given_back = thousands(stack.slabs_given_back as u64);
    row(out, "slabs grown", stack.slabs_grown as u64, &format!("({given_back} given back)"))?;
    if stack.reclaims > 0 {
        let pages = thousands(stack.reclaimed_pages as u64);
        row(
            out,
            "short of memory",
            stack.reclaims as u64,
            &format!("times, {pages} pages reclaimed"),
        )?;
    }
    writeln!(out, "\n{bold}Pages{off}, on a buddy of their own")?;
    row(out, "allocated", pages.allocations, "blocks")?;
    row(out, "freed", pages.matched_frees, "blocks")?;
    row(
        out,
        "freed by implication",
        pages.implied_frees,
        "blocks, whose frame was given out again",
    )?;
    row(out, "frees skipped", pages.unmatched_frees, "of blocks older than the trace")?;
    row(out, "live at the peak", pages.peak_live_pages, "pages")
}

fn caches(out: &mut dyn Write, outcome: &Outcome, marks: &Marks) -> io::Result<()> {
    let Marks { bold, dim, off, .. } = marks;
    let count = outcome.caches.len();
    let mut largest: Vec<_> = outcome.caches_and_kmalloc().collect();
    if largest.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\n{bold}The largest of {count} named caches{off} and kmalloc, by live bytes at the peak"
    )?;
    let (cache, live) = ("cache", "live");
    writeln!(out, "  {dim}{cache:<26} allocated     each {live:>9}{off}")?;
    largest.sort_by_key(|used| std::cmp::Reverse(used.peak_bytes));
    let most = largest[0].peak_bytes.max(1);
    for used in largest.into_iter().take(LARGEST) {
        let bar = "#".repeat((used.peak_bytes * BAR_COLUMNS).div_ceil(most) as usize);
        let name = shortened(&used.name, 26);
        let each = match used.requested_bytes {
            0 => String::new(),
            bytes => format!("{bytes} B"),
        };
        let (count, peak) = (thousands(used.allocations), size(used.peak_bytes));
        let row = format!("  {name:<26} {count:>9} {each:>8} {peak:>9}  {dim}{bar}{off}");
        writeln!(out, "{}", row.trim_end())?;
    }
    Ok(())
}

fn callers(out: &mut dyn Write, outcome: &Outcome, marks: &Marks) -> io::Result<()> {
    let Marks { bold, dim, off, .. } = marks;
    let of_pages = |caller: &&Caller| caller.source == Source::Pages;
    // An unnamed caller of a cache is the cache, which the table above shows.
    let named = |caller: &&Caller| caller.is_named && !of_pages(caller);
    let objects = outcome.callers.iter().filter(named).take(CALLERS[0]);
    let pages = outcome.callers.iter().filter(of_pages).take(CALLERS[1]);
    let listed: Vec<&Caller> = objects.chain(pages).collect();
    if listed.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{bold}Who allocates{off}, by live bytes at the peak; --caller shows all")?;
    let (site, from) = ("call site", "from");
    writeln!(
        out,
        "  {dim}{site:<SITE_COLUMNS$} {from:<FROM_COLUMNS$} {:>9} {:>9}{off}",
        "at peak", "at end"
    )?;
    for caller in listed {
        let site = shortened(&caller.site, SITE_COLUMNS);
        let from = shortened(caller.source_name(), FROM_COLUMNS);
        let (peak, end) = (size(caller.at_peak.bytes), size(caller.live.bytes));
        writeln!(out, "  {site:<SITE_COLUMNS$} {from:<FROM_COLUMNS$} {peak:>9} {end:>9}")?;
    }
    Ok(())
}

fn end(out: &mut dyn Write, outcome: &Outcome, marks: &Marks) -> io::Result<()> {
    let stack = &outcome.stack;
    writeln!(out)?;
    let pages = match stack.held_pages {
        0 => format!("all {} pages free", thousands(stack.peak_pages as u64)),
        held => format!("{} pages NOT free", thousands(held as u64)),
    };
    let same = if outcome.buddy_equals_initial { "the" } else { "NOT the" };
    let (mark, what) = match (outcome.is_sound(), outcome.failed()) {
        (true, _) => (marks.good, "Everything freed"),
        (false, 0) => (marks.bold, "Everything freed"),
        // The main result stands above.
        (false, _) => ("", "Freed at the end"),
    };
    let off = if mark.is_empty() { "" } else { marks.off };
    writeln!(out, "{mark}{what}: {pages}; free blocks are {same} ones of the start.{off}")?;
    for finding in outcome.findings.shown() {
        writeln!(out, "  {finding}")?;
    }
    match outcome.findings.count() - outcome.findings.shown().len() as u64 {
        0 => Ok(()),
        more => writeln!(out, "  and {} more", thousands(more)),
    }
}

fn row(out: &mut dyn Write, what: &str, number: u64, unit: &str) -> io::Result<()> {
    writeln!(out, "  {what:<21}{:>13} {unit}", thousands(number))
}
