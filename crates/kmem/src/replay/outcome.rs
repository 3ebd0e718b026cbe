//! The result of a replay: totals, findings, and times.

use std::fmt;
use std::time::Duration;

use super::caller::Caller;
use super::times::Times;
use crate::trace::losses::Losses;
use crate::trace::reader::ORDERS;

/// Maximum number of findings kept with their text. All are counted.
const SHOWN_FINDINGS: usize = 10;

/// Totals of the object events.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ObjectTotals {
    /// Events `a` and `A`.
    pub allocations: u64,
    /// Frees of live objects.
    pub matched_frees: u64,
    /// Frees of nothing that was allocated in the trace.
    pub unmatched_frees: u64,
    /// Allocations at an address that was live.
    pub implied_frees: u64,
    /// Sum of REQ.
    pub bytes_requested: u64,
    /// Sum of ALLOC.
    pub bytes_allocated_traced: u64,
    /// Allocations that found no memory.
    pub failed: u64,
    /// The reasons of `failed`.
    pub shortages: Shortages,
    /// Requested bytes (REQ) of all live objects.
    pub live_bytes: u64,
    /// The maximum of `live_bytes`.
    pub peak_live_bytes: u64,
}

/// Totals of the page events.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct PageTotals {
    /// Events `p`.
    pub allocations: u64,
    /// Frees of live blocks.
    pub matched_frees: u64,
    /// Frees of nothing that was allocated in the trace.
    pub unmatched_frees: u64,
    /// Allocations at a first frame that was live.
    pub implied_frees: u64,
    /// Frees with another order than the allocation's.
    pub other_orders: u64,
    /// Allocations that found no memory.
    pub failed: u64,
    /// The reasons of `failed`.
    pub shortages: Shortages,
    /// Pages that are live.
    pub live_pages: u64,
    /// The maximum of `live_pages`.
    pub peak_live_pages: u64,
}

/// Why a request found no memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// It is larger than all memory.
    TooLarge,
    /// Less memory is free than it needs.
    TooLittleFree,
    /// Enough memory is free, but in pieces that are too small.
    InPieces,
    /// The target does not say.
    Unknown,
}

/// Numbers of failed requests by reason.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Shortages {
    /// Larger than all memory.
    pub too_large: u64,
    /// Less memory was free than requested.
    pub too_little_free: u64,
    /// Enough memory was free, but in pieces that were too small.
    pub in_pieces: u64,
}

impl Shortages {
    /// Counts a failed request.
    pub fn count(&mut self, reason: Shortage) {
        match reason {
            Shortage::TooLarge => self.too_large += 1,
            Shortage::TooLittleFree => self.too_little_free += 1,
            Shortage::InPieces => self.in_pieces += 1,
            Shortage::Unknown => {}
        }
    }

    /// Returns the reasons in words, with their numbers; those that occurred.
    pub fn named(&self) -> Vec<(u64, &'static str)> {
        let all = [
            (self.too_little_free, "too little memory free"),
            (self.in_pieces, "enough memory free, but in pieces"),
            (self.too_large, "larger than all memory"),
        ];
        all.into_iter().filter(|(number, _)| *number > 0).collect()
    }
}

/// Counters of the allocators that served the object events.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct StackTotals {
    /// Pages held now.
    pub held_pages: usize,
    /// The maximum of `held_pages`.
    pub peak_pages: usize,
    /// Slabs taken from the page source.
    pub slabs_grown: usize,
    /// Slabs returned to the page source.
    pub slabs_given_back: usize,
    /// Blocks split in two.
    pub splits: usize,
    /// Pairs of buddies that became one block.
    pub merges: usize,
    /// Requests that found no memory and triggered reclaim.
    pub reclaims: usize,
    /// Pages that reclaim returned.
    pub reclaimed_pages: usize,
}

/// Mistakes of our allocators during a replay. None of these is the trace's fault.
#[derive(Debug, Clone)]
pub struct Findings {
    trace: String,
    count: u64,
    shown: Vec<String>,
    /// For each [`Side`], whether a request has found no memory: only the first keeps its text.
    is_short: [bool; 2],
}

/// The side of a replay that ran out of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Object events.
    Objects,
    /// Page events.
    Pages,
}

/// A cache that the trace used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheUse {
    /// `NAME` or `NAME-REQ`.
    pub name: String,
    /// Requested bytes of each object.
    pub requested_bytes: u32,
    /// Objects allocated.
    pub allocations: u64,
    /// Requested bytes that were live at the moment of the peak of all objects.
    pub peak_bytes: u64,
    /// Requested bytes that are live at the end of the trace.
    pub live_bytes: u64,
}

/// Times of both sides' operations in nanoseconds. Each includes one reading of the clock.
#[derive(Debug, Clone)]
pub struct OperationTimes {
    /// Allocations of objects.
    pub allocate_object: Times,
    /// Frees of objects.
    pub free_object: Times,
    /// Allocations of page blocks.
    pub allocate_pages: Times,
    /// Frees of page blocks.
    pub free_pages: Times,
    /// Readings of the clock without an operation.
    pub read_clock: Times,
}

/// The result of a replay.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The trace's file name.
    pub trace: String,
    /// Events of the six kinds.
    pub events: u64,
    /// Events that the recording lost: with any, totals are too small, and frees and allocations
    /// do not match.
    pub losses: Losses,
    /// Whether the trace was replayed to its end, and everything freed.
    pub is_complete: bool,
    /// From the first byte read to the last event replayed.
    pub duration: Duration,
    /// Totals of object events.
    pub objects: ObjectTotals,
    /// Totals of page events.
    pub pages: PageTotals,
    /// Counters of the object side, after everything was freed and shrunk.
    pub stack: StackTotals,
    /// Splits and merges of the page events' buddy.
    pub page_splits_and_merges: (usize, usize),
    /// Whether both sides' free blocks at the end equal those at the start.
    pub buddy_equals_initial: bool,
    /// Caches, the busiest first.
    pub caches: Vec<CacheUse>,
    /// kmalloc, if it was used.
    pub kmalloc: Option<CacheUse>,
    /// Call sites of objects and of pages, those with most live bytes at the peak first.
    pub callers: Vec<Caller>,
    /// When live bytes of objects, and live pages, were at their peak: microseconds of the trace.
    pub peak_micros: [u64; 2],
    /// Allocations of pages that failed in the recorded kernel, by order.
    pub failed_in_recording: [u64; ORDERS],
    /// Times of each operation, if the replay was timed.
    pub times: Option<OperationTimes>,
    /// What went wrong.
    pub findings: Findings,
}

impl ObjectTotals {
    /// Returns the totals except `failed`, with their names.
    pub fn named(&self) -> [(&'static str, u64); 8] {
        [
            ("objects allocated", self.allocations),
            ("objects freed", self.matched_frees),
            ("frees of older objects", self.unmatched_frees),
            ("objects freed by implication", self.implied_frees),
            ("bytes asked for", self.bytes_requested),
            ("bytes set aside in the trace", self.bytes_allocated_traced),
            ("live bytes", self.live_bytes),
            ("live bytes at the peak", self.peak_live_bytes),
        ]
    }
}

impl PageTotals {
    /// Returns the totals except `failed`, with their names.
    pub fn named(&self) -> [(&'static str, u64); 7] {
        [
            ("blocks allocated", self.allocations),
            ("blocks freed", self.matched_frees),
            ("frees of older blocks", self.unmatched_frees),
            ("blocks freed by implication", self.implied_frees),
            ("frees in another order", self.other_orders),
            ("live pages", self.live_pages),
            ("live pages at the peak", self.peak_live_pages),
        ]
    }
}

impl Outcome {
    /// Returns the outcome of a replay of `trace` that has not begun.
    pub(super) fn new(trace: &str) -> Self {
        Self {
            trace: trace.to_owned(),
            events: 0,
            losses: Losses::default(),
            is_complete: true,
            duration: Duration::ZERO,
            objects: ObjectTotals::default(),
            pages: PageTotals::default(),
            stack: StackTotals::default(),
            page_splits_and_merges: (0, 0),
            buddy_equals_initial: false,
            caches: Vec::new(),
            kmalloc: None,
            callers: Vec::new(),
            peak_micros: [0; 2],
            failed_in_recording: [0; ORDERS],
            times: None,
            findings: Findings::new(trace),
        }
    }

    /// Iterates over the caches and kmalloc.
    pub fn caches_and_kmalloc(&self) -> impl Iterator<Item = &CacheUse> {
        self.caches.iter().chain(&self.kmalloc)
    }

    /// Returns the maximum of the bytes that the object side held.
    pub fn held_bytes(&self) -> u64 {
        (self.stack.peak_pages * page_frame::PAGE_SIZE) as u64
    }

    /// Returns how many times the live bytes were held at the peak; `None` if nothing was live.
    pub fn held_per_live(&self) -> Option<f64> {
        let live = Some(self.objects.peak_live_bytes).filter(|live| *live > 0)?;
        Some(self.held_bytes() as f64 / live as f64)
    }

    /// Returns the number of requests that found no memory.
    pub fn failed(&self) -> u64 {
        self.objects.failed + self.pages.failed
    }

    /// Returns the reasons of failed requests of both sides.
    pub fn shortages(&self) -> Shortages {
        let (objects, pages) = (self.objects.shortages, self.pages.shortages);
        Shortages {
            too_large: objects.too_large + pages.too_large,
            too_little_free: objects.too_little_free + pages.too_little_free,
            in_pieces: objects.in_pieces + pages.in_pieces,
        }
    }

    /// Returns whether our allocators did everything right.
    pub fn is_sound(&self) -> bool {
        self.findings.count() == 0 && self.stack.held_pages == 0 && self.buddy_equals_initial
    }

    /// Returns events per second of the whole duration: reading, decoding and replaying.
    pub fn events_per_second(&self) -> f64 {
        self.events as f64 / self.duration.as_secs_f64().max(1e-9)
    }
}

impl Findings {
    /// Returns an empty list for `trace`.
    pub fn new(trace: &str) -> Self {
        Self { trace: trace.to_owned(), count: 0, shown: Vec::new(), is_short: [false; 2] }
    }

    /// Adds a finding at line `line`.
    #[cold]
    pub fn add(&mut self, line: u64, text: fmt::Arguments<'_>) {
        self.push(|trace| format!("{trace}:{line}: {text}"));
    }

    /// Counts a request that found no memory, and keeps the text of each side's first.
    #[cold]
    pub fn add_shortage(&mut self, side: Side, line: u64, text: fmt::Arguments<'_>) {
        if std::mem::replace(&mut self.is_short[side as usize], true) {
            self.count += 1;
        } else {
            self.add(line, text);
        }
    }

    /// Adds a finding about the trace as a whole.
    pub fn add_of_all(&mut self, text: &str) {
        self.push(|trace| format!("{trace}: {text}"));
    }

    fn push(&mut self, say: impl FnOnce(std::str::EscapeDebug<'_>) -> String) {
        self.count += 1;
        if self.shown.len() < SHOWN_FINDINGS {
            self.shown.push(say(self.trace.escape_debug()));
        }
    }

    /// Returns the number of findings.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the texts of the first findings, each with the trace's name and the line.
    pub fn shown(&self) -> &[String] {
        &self.shown
    }
}
