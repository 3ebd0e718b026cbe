//! Outcomes as JSON.
//!
//! Written by hand: an object of numbers, booleans and one string needs no library, only the
//! escapes of RFC 8259 §7.

use std::fmt::Write;

use super::caller::{Caller, Source};
use super::outcome::{CacheUse, OperationTimes, Outcome};
use super::times::Times;

/// Returns one outcome as an object, several as an array of objects. Ends in a line break.
pub fn json(outcomes: &[Outcome]) -> String {
    let objects: Vec<String> = outcomes.iter().map(object).collect();
    match &objects[..] {
        [one] => format!("{one}\n"),
        several => format!("[\n{}\n]\n", several.join(",\n")),
    }
}

fn object(outcome: &Outcome) -> String {
    let mut fields = vec![("trace", string(&outcome.trace))];
    fields.extend(totals(outcome));
    if let Some(times) = &outcome.times {
        fields.push(("times_ns", operations(times)));
    }
    fields.push(("caches", list(outcome.caches_and_kmalloc().map(cache))));
    fields.push(("callers", list(outcome.callers.iter().map(caller))));
    let lines: Vec<_> =
        fields.iter().map(|(name, value)| format!("  \"{name}\": {value}")).collect();
    format!("{{\n{}\n}}", lines.join(",\n"))
}

/// Returns the totals as CSV, one a line. What is true is 1, and what is false 0.
pub fn totals_csv(outcome: &Outcome) -> String {
    let lines = totals(outcome).into_iter().map(|(name, value)| {
        let value = match &*value {
            "true" => "1",
            "false" => "0",
            number => number,
        };
        format!("{name},{value}\r\n")
    });
    "total,value\r\n".to_owned() + &lines.collect::<String>()
}

/// Returns the names of the totals and their values, which are numbers or booleans.
fn totals(outcome: &Outcome) -> Vec<(&'static str, String)> {
    let (objects, pages, stack) = (&outcome.objects, &outcome.pages, &outcome.stack);
    let mut fields = Vec::new();
    let mut number = |name, value: u64| fields.push((name, value.to_string()));
    number("events", outcome.events);
    number("lost_events", outcome.losses.events);
    number("uncounted_losses", outcome.losses.uncounted);
    fields.push(("losses_known", (!outcome.losses.are_hidden).to_string()));
    let mut number = |name, value: u64| fields.push((name, value.to_string()));
    number("events_per_second", outcome.events_per_second() as u64);
    number("bytes_requested", objects.bytes_requested);
    number("bytes_allocated_traced", objects.bytes_allocated_traced);
    number("matched_frees", objects.matched_frees);
    number("unmatched_frees", objects.unmatched_frees);
    number("implied_frees", objects.implied_frees);
    number("failed_allocations", objects.failed);
    number("peak_live_bytes", objects.peak_live_bytes);
    number("peak_pages_held", stack.peak_pages as u64);
    number("page_matched_frees", pages.matched_frees);
    number("page_unmatched_frees", pages.unmatched_frees);
    number("page_implied_frees", pages.implied_frees);
    number("page_other_orders", pages.other_orders);
    number("page_failed_allocations", pages.failed);
    number("peak_live_pages", pages.peak_live_pages);
    number("pages_held_after_shrink", stack.held_pages as u64);
    number("slabs_grown", stack.slabs_grown as u64);
    number("slabs_given_back", stack.slabs_given_back as u64);
    number("splits", stack.splits as u64);
    number("merges", stack.merges as u64);
    number("reclaims", stack.reclaims as u64);
    number("reclaimed_pages", stack.reclaimed_pages as u64);
    let (page_splits, page_merges) = outcome.page_splits_and_merges;
    number("page_splits", page_splits as u64);
    number("page_merges", page_merges as u64);
    number("findings", outcome.findings.count());
    number("peak_micros", outcome.peak_micros[0]);
    number("page_peak_micros", outcome.peak_micros[1]);
    number("failed_too_little_free", objects.shortages.too_little_free);
    number("failed_in_pieces", objects.shortages.in_pieces);
    number("failed_too_large", objects.shortages.too_large);
    number("page_failed_too_little_free", pages.shortages.too_little_free);
    number("page_failed_in_pieces", pages.shortages.in_pieces);
    number("page_failed_too_large", pages.shortages.too_large);
    number("recorded_page_failures", outcome.failed_in_recording.iter().sum());
    fields.push(("out_of_memory", (outcome.failed() > 0).to_string()));
    fields.push(("buddy_equals_initial", outcome.buddy_equals_initial.to_string()));
    fields
}

/// Returns objects as an array, one a line.
fn list(objects: impl Iterator<Item = String>) -> String {
    let lines: Vec<_> = objects.map(|object| format!("\n    {object}")).collect();
    match lines.is_empty() {
        true => "[]".to_owned(),
        false => format!("[{}\n  ]", lines.join(",")),
    }
}

fn cache(used: &CacheUse) -> String {
    format!(
        "{{\"cache\": {}, \"object_bytes\": {}, \"allocations\": {}, \"bytes_at_peak\": {}, \"bytes_at_end\": {}}}",
        string(&used.name),
        used.requested_bytes,
        used.allocations,
        used.peak_bytes,
        used.live_bytes
    )
}

fn caller(caller: &Caller) -> String {
    // A call site that the trace does not name is null; of pages the gfp mask is known then.
    let site = match caller.is_named {
        true => format!("\"site\": {}", string(&caller.site)),
        false if caller.source == Source::Pages => {
            format!("\"site\": null, \"gfp\": {}", string(&caller.site))
        }
        false => "\"site\": null".to_owned(),
    };
    format!(
        "{{{site}, \"from\": {}, \"allocations\": {}, \"failed\": {}, \"requested\": {}, \"allocated\": {}, \
         \"bytes_at_peak\": {}, \"bytes_at_end\": {}, \"objects_at_end\": {}, \"pinned_bytes\": {}}}",
        string(caller.source_name()),
        caller.allocations,
        caller.failed,
        caller.requested_bytes,
        caller.allocated_bytes,
        caller.at_peak.bytes,
        caller.live.bytes,
        caller.live.objects,
        caller.pinned_bytes
    )
}

/// Returns the times of each operation as an object of objects.
fn operations(times: &OperationTimes) -> String {
    let times_read_clock = &times.read_clock;
    let operation = |name: &str, times: &Times| {
        let at = |quantile: f64| times.value_at_quantile(quantile);
        let clock = times_read_clock.value_at_quantile(0.5);
        let is_below = name != "read_clock" && at(0.5) <= clock && !times.is_empty();
        let below = if is_below { ", \"p50_below_clock\": true" } else { "" };
        format!(
            "    \"{name}\": {{\"count\": {}, \"mean\": {:.1}, \"p50\": {}, \"p99\": {}, \"p99.9\": {}, \"max\": {}{below}}}",
            times.len(),
            times.mean(),
            at(0.5),
            at(0.99),
            at(0.999),
            times.max()
        )
    };
    let operations = [
        operation("allocate_object", &times.allocate_object),
        operation("free_object", &times.free_object),
        operation("allocate_pages", &times.allocate_pages),
        operation("free_pages", &times.free_pages),
        operation("read_clock", &times.read_clock),
    ];
    format!("{{\n{}\n  }}", operations.join(",\n"))
}

/// Returns text as a JSON string.
pub(crate) fn string(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\0'..='\x1f' => {
                let written = write!(quoted, "\\u{:04x}", u32::from(character));
                written.expect("a String takes all text");
            }
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped() {
        assert_eq!(string("a\"\\\n\u{7f}ä"), "\"a\\\"\\\\\\u000a\u{7f}ä\"");
    }
}
