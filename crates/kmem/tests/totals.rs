//! Whole traces through the allocators; totals beside a second, naive count that shares nothing
//! with the reader.
//!
//! The bundled part is always replayed, the full recordings when `KTRACE_DIR` names their folder.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use kmem::bundled;
use kmem::replay::buddy_pages::BuddyPages;
use kmem::replay::heap::{HeapTarget, System};
use kmem::replay::outcome::{ObjectTotals, Outcome, PageTotals};
use kmem::replay::pipeline::{Options, replay};
use kmem::replay::stack::Stack;
use kmem::replay::target::CountOnly;
use kmem::trace::source::{Source, Text};

/// The totals of the naive count.
#[derive(Debug, Default, PartialEq, Eq)]
struct Totals {
    events: u64,
    objects: ObjectTotals,
    pages: PageTotals,
    /// Objects allocated by cache name and size.
    caches: Vec<(String, u64)>,
}

/// Counts line by line.
fn naive(text: &str) -> Totals {
    let mut totals = Totals::default();
    let mut names: HashMap<&str, &str> = HashMap::new();
    let mut live_objects: HashMap<&str, u64> = HashMap::new();
    let mut live_pages: HashMap<&str, u32> = HashMap::new();
    let mut first_size: HashMap<&str, &str> = HashMap::new();
    let mut caches: HashMap<String, u64> = HashMap::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split(',').collect();
        let number = |index: usize| fields[index].parse::<u64>().expect("a number");
        let (objects, pages) = (&mut totals.objects, &mut totals.pages);
        match fields[0] {
            "a" | "A" => {
                objects.allocations += 1;
                if let Some(before) = live_objects.insert(fields[3], number(4)) {
                    objects.implied_frees += 1;
                    objects.live_bytes -= before;
                }
                objects.bytes_requested += number(4);
                objects.bytes_allocated_traced += number(5);
                objects.live_bytes += number(4);
                objects.peak_live_bytes = objects.peak_live_bytes.max(objects.live_bytes);
                if fields[0] == "A" {
                    let name = names[fields[7]];
                    let first = *first_size.entry(name).or_insert(fields[4]);
                    let suffix =
                        if first == fields[4] { String::new() } else { format!("-{}", fields[4]) };
                    *caches.entry(format!("{name}{suffix}")).or_default() += 1;
                }
            }
            "f" | "F" => match live_objects.remove(fields[3]) {
                Some(bytes) => {
                    objects.matched_frees += 1;
                    objects.live_bytes -= bytes;
                }
                None => objects.unmatched_frees += 1,
            },
            "p" => {
                pages.allocations += 1;
                let order = number(4) as u32;
                if let Some(before) = live_pages.insert(fields[3], order) {
                    pages.implied_frees += 1;
                    pages.live_pages -= 1 << before;
                }
                pages.live_pages += 1 << order;
                pages.peak_live_pages = pages.peak_live_pages.max(pages.live_pages);
            }
            "P" => match live_pages.remove(fields[3]) {
                Some(order) => {
                    pages.matched_frees += 1;
                    pages.other_orders += u64::from(u64::from(order) != number(4));
                    pages.live_pages -= 1 << order;
                }
                None => pages.unmatched_frees += 1,
            },
            "!s" => _ = names.insert(fields[1], fields[2]),
            _ => continue,
        }
        totals.events += u64::from(!fields[0].starts_with('!'));
    }
    totals.caches = caches.into_iter().collect();
    totals.caches.sort();
    totals
}

fn totals(outcome: &Outcome) -> Totals {
    let mut caches: Vec<_> =
        outcome.caches.iter().map(|used| (used.name.clone(), used.allocations)).collect();
    caches.sort();
    Totals {
        events: outcome.events,
        objects: outcome.objects.clone(),
        pages: outcome.pages.clone(),
        caches,
    }
}

/// Decodes a whole recording into memory, for the naive count.
fn text(mut source: Source) -> String {
    let (mut all, mut part) = (Vec::new(), vec![0; 1 << 20]);
    loop {
        match source.read(&mut part).expect("the recording can be decoded") {
            0 => return String::from_utf8(all).expect("a trace is text"),
            read => all.extend_from_slice(&part[..read]),
        }
    }
}

/// Pages held at the peak over the peak of live bytes, at most.
const MAX_HELD: f64 = 1.20;

const OPTIONS: Options = Options { checks: true, cpus: None };

/// Replays through the whole stack and compares with the naive count; returns the pages held at the
/// peak over the peak of live bytes too.
fn compare(open: impl Fn() -> Source) -> (Totals, f64) {
    let played = replay(
        open(),
        OPTIONS,
        |cpus| Ok((Stack::new(4 << 30, cpus)?, BuddyPages::new(1 << 20, cpus)?)),
        |_, _| ControlFlow::Continue(()),
    );
    let outcome = played.expect("the recording is well formed").finish();
    assert_eq!(outcome.findings.shown(), [""; 0]);
    assert_eq!(outcome.stack.held_pages, 0, "everything freed and shrunk: no page is held");
    assert!(outcome.buddy_equals_initial, "everything freed: the initial state");
    assert_eq!(outcome.stack.splits, outcome.stack.merges, "what was split is joined again");
    assert_eq!(outcome.stack.slabs_grown, outcome.stack.slabs_given_back);
    let (splits, merges) = outcome.page_splits_and_merges;
    assert!(splits > 0 && splits == merges, "{splits} splits, {merges} merges");
    let expected = naive(&text(open()));
    assert_eq!(totals(&outcome), expected, "{}", outcome.trace);
    let held_bytes = (outcome.stack.peak_pages * page_frame::PAGE_SIZE) as f64;
    let ratio = held_bytes / outcome.objects.peak_live_bytes as f64;
    println!("{}: held at the peak {ratio:.3} times the live bytes", outcome.trace);
    (expected, ratio)
}

#[test]
fn the_bundled_trace_replays_with_its_own_totals() {
    let (expected, ratio) = compare(|| bundled::source().expect("it is there"));
    assert!(expected.events >= 500_000, "{} events", expected.events);
    assert!(bundled::BYTES.len() <= 3_000_000);
    assert!((1.0..=MAX_HELD).contains(&ratio), "{ratio:.3}");
}

#[test]
fn the_full_recordings_replay_with_their_own_totals() {
    let Some(folder) = std::env::var_os("KTRACE_DIR").map(PathBuf::from) else {
        println!("KTRACE_DIR is not set: the full recordings are not replayed");
        return;
    };
    let open = |name: &str| {
        let path = folder.join(name);
        move || Source::open(Path::new(&path)).expect("the recording is there")
    };
    let (compiled, ratio) = compare(open("compile.ktrace.csv.zst"));
    assert!((1.0..=MAX_HELD).contains(&ratio), "{ratio:.3}");
    assert_eq!((compiled.events, compiled.pages.peak_live_pages), (1_685_410, 266_079));
    let (processes, ratio) = compare(open("procs.ktrace.csv.zst"));
    assert!((1.0..=MAX_HELD).contains(&ratio), "{ratio:.3}");
    assert_eq!((processes.events, processes.pages.peak_live_pages), (1_539_785, 96_312));
}

#[test]
fn objects_of_another_allocator_keep_their_pattern() {
    let source = bundled::source().expect("it is there");
    let played = replay(
        source,
        OPTIONS,
        |_| Ok((HeapTarget(System), CountOnly)),
        |_, _| ControlFlow::Continue(()),
    );
    let outcome = played.expect("the recording is well formed").finish();
    assert_eq!(outcome.findings.count(), 0);
    assert!(outcome.objects.matched_frees > 100_000);
}
