//! Replays what the fuzzer has found worth keeping, without the fuzzer, and watches how much memory
//! that takes.

#[path = "../fuzz/trace.rs"]
mod trace;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use testkit::for_each_kept_input;

/// Memory that reading any one file may take: the largest zstd window, twice while it grows, and
/// room for the tables.
const MAX_BYTES: usize = 256 << 20;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, counted.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: memory comes from and goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Relaxed: only numbers.
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller's clauses are those of the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's clauses are those of the system's.
        unsafe { System.dealloc(start, layout) }
    }
}

#[test]
fn every_kept_trace_is_read_or_refused_in_bounded_memory() {
    for_each_kept_input(env!("CARGO_MANIFEST_DIR"), "fuzz/corpus/trace", |bytes| {
        PEAK.store(LIVE.load(Ordering::Relaxed), Ordering::Relaxed);
        trace::check(bytes);
        let peak = PEAK.load(Ordering::Relaxed);
        assert!(peak <= MAX_BYTES, "{peak} bytes were live at once");
    });
}
