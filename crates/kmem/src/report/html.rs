//! The report as one page: no script, no network, light or dark as the reader's system is. Charts
//! exist twice, for wide and for narrow screens, and the style shows one of them.

use page_frame::PAGE_SIZE;

use super::Report;
use super::table::Table;
use crate::picture::chart::{Chart, Places};
use crate::picture::page::{END, begin};
use crate::picture::painted;
use crate::picture::svg::escaped;
use crate::picture::text::{size, thousands};
use crate::picture::tips;
use crate::replay::largest::{self, Largest};
use crate::replay::outcome::Outcome;

/// Widths of the two forms of a chart.
const WIDE: f64 = 640.0;
const NARROW: f64 = 340.0;
/// Width of a chart that is zoomed in.
const ZOOMED: f64 = 2000.0;
/// Places of a chart at which its values are shown.
const WIDE_SLICES: usize = 80;
const NARROW_SLICES: usize = 34;
const ZOOMED_SLICES: usize = 120;
/// Columns of a table that fits beside another one.
const HALF_COLUMNS: usize = 7;

/// Returns the page.
pub fn page(report: &Report) -> String {
    let title = escaped(&report.outcome.trace);
    let mut html = begin(&format!("{title}: replayed"));
    html.push_str(&head(report));
    html.push_str("<div class='grid'>\n");
    for chart in &report.charts {
        html.push_str(&section("", chart.title, &chart.note, &drawn(chart)));
    }
    // Narrow tables stand beside the last chart.
    let is_whole = |table: &&Table| table.columns.len() > HALF_COLUMNS;
    let (whole, half): (Vec<_>, Vec<_>) = report.tables.iter().partition(is_whole);
    for (class, tables) in [("", half), ("whole", whole)] {
        for table in tables {
            html.push_str(&section(class, table.title, &table.note, &table.html()));
        }
    }
    for (_, map) in &report.maps {
        let (title, rest) = map.split_once('\n').unwrap_or((map, ""));
        let title = title.replace("\x1b[1m", "").replace("\x1b[0m", "");
        let svg = painted::svg(rest, &title).inline();
        html.push_str(&section("whole", &title, "", &format!("<div class='scroll'>{svg}</div>")));
    }
    html.push_str("</div>\n");
    html + END
}

/// Returns a chart in both its forms, and one over time in a third one, which is as wide as a
/// reader needs to tell moments apart.
fn drawn(chart: &Chart) -> String {
    let mut html = format!(
        "<div class='wide'>{}</div><div class='narrow'>{}</div>",
        tips::svg(chart, WIDE, WIDE_SLICES).inline(),
        tips::svg(chart, NARROW, NARROW_SLICES).inline()
    );
    if let Places::Seconds(_) = chart.places {
        html.push_str(&format!(
            "<details><summary>Zoom in</summary><div class='scroll'>{}</div></details>",
            tips::svg(chart, ZOOMED, ZOOMED_SLICES).inline()
        ));
    }
    html
}

fn section(class: &str, title: &str, note: &str, body: &str) -> String {
    let note = if note.is_empty() { String::new() } else { format!("<p>{}</p>", escaped(note)) };
    format!("<section class='{class}'><h2>{}</h2>{note}{body}</section>\n", escaped(title))
}

/// Returns the verdict of a replay that ran out of memory.
fn out_of_memory(outcome: &Outcome) -> String {
    let (objects, pages) = (&outcome.objects, &outcome.pages);
    let reasons = outcome.shortages().named().into_iter();
    let reasons: Vec<_> =
        reasons.map(|(number, reason)| format!("{} {reason}", thousands(number))).collect();
    format!(
        "Ran out of memory: {} of {} objects and {} of {} blocks of pages failed ({}). Live and held memory are those of the \
         requests that were served.",
        thousands(objects.failed),
        thousands(objects.allocations),
        thousands(pages.failed),
        thousands(pages.allocations),
        reasons.join("; ")
    )
}

/// Returns the title, the verdict and the totals.
fn head(report: &Report) -> String {
    let outcome = &report.outcome;
    let (objects, pages, stack) = (&outcome.objects, &outcome.pages, &outcome.stack);
    let (class, verdict) = match outcome.is_sound() {
        true => (
            "good",
            "Everything freed: all pages are free again, and the free blocks are those of the start."
                .to_owned(),
        ),
        false if outcome.failed() > 0 => ("bad", out_of_memory(outcome)),
        false => ("bad", format!("{} findings.", thousands(outcome.findings.count()))),
    };
    let mut html = format!(
        "<h1>{}</h1>\n<p class='verdict {class}'>{}</p>\n",
        escaped(&outcome.trace),
        escaped(&verdict)
    );
    let class = if outcome.losses.is_none() { "" } else { " class='verdict bad'" };
    let losses = outcome.losses.sentence().join(" ");
    html.push_str(&format!("<p{class}>{}</p>\n", escaped(losses.trim_end())));
    if !outcome.findings.shown().is_empty() {
        html.push_str("<ul>");
        outcome
            .findings
            .shown()
            .iter()
            .for_each(|text| html.push_str(&format!("<li>{}</li>", escaped(text))));
        html.push_str("</ul>\n");
    }
    let named = |Largest { before, name, after }: &Largest| {
        // Long masks break between their flags.
        let name = escaped(name).replace('|', "|<wbr/>");
        format!("{}<b>{name}</b>{}", escaped(before), escaped(after))
    };
    let largest: Vec<_> = largest::sentences(outcome).iter().map(named).collect();
    if !largest.is_empty() {
        html.push_str(&format!("<p>{}</p>\n", largest.join("<br/>")));
    }
    html.push_str("<div class='tiles'>\n");
    let mut tile = |number: String, what: &str| {
        html.push_str(&format!(
            "<div class='tile'><b>{}</b><span>{}</span></div>\n",
            escaped(&number),
            escaped(what)
        ));
    };
    tile(thousands(outcome.events), "events");
    tile(thousands(objects.allocations), "objects allocated");
    tile(thousands(objects.matched_frees), "objects freed");
    tile(thousands(objects.implied_frees), "freed by implication: the address was given out again");
    tile(thousands(objects.unmatched_frees), "frees of objects older than the trace, skipped");
    tile(size(objects.bytes_requested), "asked for in all");
    tile(size(objects.peak_live_bytes), "live at the peak");
    let held = match outcome.held_per_live() {
        Some(ratio) => format!("held at the peak, {ratio:.2} times the live bytes"),
        None => "held at the peak".to_owned(),
    };
    tile(size(outcome.held_bytes()), &held);
    tile(thousands(stack.slabs_grown as u64), "slabs grown");
    tile(thousands(pages.allocations), "page blocks allocated");
    tile(size(pages.peak_live_pages * PAGE_SIZE as u64), "of pages live at the peak");
    let (splits, _) = outcome.page_splits_and_merges;
    tile(thousands((stack.splits + splits) as u64), "blocks split, and merged again");
    html + "</div>\n"
}
