//! The report at the end of a replay: one screen.

use std::io::{self, Write};

use super::outcome::Outcome;
use crate::picture::text::{size, thousands};

/// Maximum number of caches listed.
const LARGEST: usize = 10;
/// Width of the bars in columns.
const BAR_COLUMNS: u64 = 18;

/// Writes a report of `outcome`, at most 80 columns wide.
///
/// # Errors
/// When writing to `out` fails.
pub fn report(out: &mut dyn Write, outcome: &Outcome, colour: bool) -> io::Result<()> {
    let (bold, dim, off) = if colour { ("\x1b[1m", "\x1b[2m", "\x1b[0m") } else { ("", "", "") };
    let (objects, pages) = (&outcome.objects, &outcome.pages);
    let seconds = outcome.duration.as_secs_f64();
    writeln!(out, "{bold}{}{off}", outcome.trace.escape_debug())?;
    writeln!(
        out,
        "  {} events in {seconds:.2} s: {bold}{:.1} million events a second{off}",
        thousands(outcome.events),
        outcome.events_per_second() / 1e6,
    )?;
    if objects.failed + pages.failed > 0 {
        writeln!(
            out,
            "  {bold}Ran out of memory: {} of {} objects and {} of {} blocks of pages failed.{off}",
            thousands(objects.failed),
            thousands(objects.allocations),
            thousands(pages.failed),
            thousands(pages.allocations)
        )?;
        writeln!(out, "  Live and held memory are those of the requests that were served.")?;
    }
    if !outcome.losses.is_none() {
        writeln!(
            out,
            "  {bold}The recording lost {}:{off}\n  totals are too small, and some frees or allocations do not match.",
            outcome.losses
        )?;
    }
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
    let held = (stack.peak_pages * page_frame::PAGE_SIZE) as u64;
    let ratio = held as f64 / objects.peak_live_bytes.max(1) as f64;
    row(out, "held at the peak", held, &format!("bytes, {ratio:.2} times the live ones"))?;
    let given_back = thousands(stack.slabs_given_back as u64);
    row(out, "slabs grown", stack.slabs_grown as u64, &format!("({given_back} given back)"))?;
    splits(out, (stack.splits, stack.merges))?;
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
    row(out, "live at the peak", pages.peak_live_pages, "pages")?;
    splits(out, outcome.page_splits_and_merges)?;
    if !outcome.caches.is_empty() {
        let count = outcome.caches.len();
        writeln!(
            out,
            "\n{bold}The largest of {count} named caches{off}, by live bytes at the peak"
        )?;
        let (cache, live) = ("cache", "live");
        writeln!(out, "  {dim}{cache:<26} allocated     each {live:>9}{off}")?;
        let mut largest: Vec<_> = outcome.caches.iter().collect();
        largest.sort_by_key(|used| std::cmp::Reverse(used.peak_bytes));
        let most = largest[0].peak_bytes.max(1);
        for used in largest.into_iter().take(LARGEST) {
            let bar = "#".repeat((used.peak_bytes * BAR_COLUMNS).div_ceil(most) as usize);
            let name: String = used.name.chars().take(26).collect();
            let (count, bytes) = (thousands(used.allocations), used.requested_bytes);
            let peak = size(used.peak_bytes);
            writeln!(out, "  {name:<26} {count:>9} {bytes:>6} B {peak:>9}  {dim}{bar}{off}")?;
        }
    }
    writeln!(out)?;
    let pages = match stack.held_pages {
        0 => format!("all {} pages free", thousands(stack.peak_pages as u64)),
        held => format!("{} pages NOT free", thousands(held as u64)),
    };
    let same = if outcome.buddy_equals_initial { "the" } else { "NOT the" };
    writeln!(
        out,
        "{bold}Everything freed: {pages}; free blocks are {same} ones of the start.{off}"
    )?;
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

fn splits(out: &mut dyn Write, (splits, merges): (usize, usize)) -> io::Result<()> {
    let merges = thousands(merges as u64);
    row(out, "blocks split", splits as u64, &format!("times ({merges} merges)"))
}
