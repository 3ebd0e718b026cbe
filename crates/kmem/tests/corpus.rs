//! Replays what the fuzzer has found worth keeping, without the fuzzer, and watches how much memory
//! that takes.

#[path = "../fuzz/trace.rs"]
mod trace;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

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
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/trace");
    let files = fs::read_dir(&folder).expect("the corpus is part of the repository");
    let mut replayed = 0;
    for file in files {
        let path = file.expect("a readable folder").path();
        println!("{}", path.display());
        let bytes = fs::read(path).expect("a readable file");
        PEAK.store(LIVE.load(Ordering::Relaxed), Ordering::Relaxed);
        trace::check(&bytes);
        let peak = PEAK.load(Ordering::Relaxed);
        assert!(peak <= MAX_BYTES, "{peak} bytes were live at once");
        replayed += 1;
    }
    assert!(replayed >= 20, "only {replayed} files in {}", folder.display());
}
