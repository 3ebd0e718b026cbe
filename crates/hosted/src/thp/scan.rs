//! The scan that collapses dense areas into huge pages.
//!
//! # Concepts
//! A huge page saves look-ups in the CPU's translation caches. But it takes 2 MiB whatever is used
//! of them, and a part of it that is free cannot be purged. So:
//! - Sections are opened without huge pages, whatever the system's default is: a small heap has
//!   small pages.
//! - A scan collapses an area into a huge page when the area is **dense** (all of its frames are
//!   committed) and was dense at the scan before. Each of its pages must be resident, which is not
//!   so for a sparsely used array, and the heap must not be small. So collapsing adds no memory.
//! - Before parts of an area are purged, huge pages are forbidden there again, or the system would
//!   fill the area up in the background.
//!
//! A scan runs after every 32 MiB of pages that are allocated. `MADV_COLLAPSE` (Linux 6.1) copies
//! the area into the huge page at once; older systems leave that to a thread of their own. It takes
//! half a millisecond, and ten times that in a virtual machine whose host has taken the free memory
//! back. A scan ends with the first collapse that takes so long, and later scans are skipped: one,
//! and twice as many each time, until a scan finds no slow collapse.
//!
//! # Concurrency
//! [`Thp::scan`] and [`Thp::forbid`] run under the caller's maintenance lock. Threads that use the
//! memory notice nothing.

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;

use page_frame::{FrameRange, PAGE_SIZE};
use rustix::time::{ClockId, clock_gettime};

use crate::frame_set::FrameSet;
use crate::space::mapping::Mapped;
use crate::thp::areas::{AREA, areas, number_of};

/// Pages allocated from one scan to the next.
pub(crate) const SCAN_PAGES: usize = (32 << 20) / PAGE_SIZE;
/// A heap with fewer pages in use gets no huge pages: a guess.
const SMALL_HEAP_PAGES: usize = (64 << 20) / PAGE_SIZE;
/// Maximum collapses per scan: the calling thread pays for each of them.
const MOST_COLLAPSES: usize = 16;
/// Maximum residency queries per scan: a few microseconds each.
pub(crate) const MOST_QUERIES: usize = 64;
/// A collapse that takes longer is slow: a guess, three times the usual cost.
const SLOW: Duration = Duration::from_micros(1500);
/// Maximum scans that are skipped after a slow collapse: a huge page is then tried every 2 GiB.
const MOST_SKIPPED: usize = 64;

/// The state of areas, and the time of the next scan.
#[derive(Debug)]
pub(crate) struct Thp {
    /// Areas that were dense at the last scan, by number.
    pub(super) dense: FrameSet,
    /// Areas in which huge pages are allowed, by number.
    pub(super) huge: FrameSet,
    /// Pages allocated since the last scan.
    allocated: AtomicUsize,
    /// The number of the area from which on the next scan queries residency.
    pub(super) resume_at: AtomicUsize,
    /// How many scans are skipped after the last slow collapse.
    skipped: AtomicUsize,
    /// How many of those are still to come.
    to_skip: AtomicUsize,
    pub(super) slow: Duration,
}

impl Thp {
    /// Makes the state for areas whose two bits, all clear, are `dense` and `huge`.
    pub(crate) fn new(dense: FrameSet, huge: FrameSet) -> Self {
        let [allocated, resume_at, skipped, to_skip] = [const { AtomicUsize::new(0) }; 4];
        Self { dense, huge, allocated, resume_at, skipped, to_skip, slow: SLOW }
    }

    /// Counts `pages` allocated pages; whether a scan is due.
    #[inline]
    pub(crate) fn note_allocated(&self, pages: usize) -> bool {
        // Relaxed, and not in one step: a lost count only delays a scan.
        let allocated = self.allocated.load(Ordering::Relaxed) + pages;
        let is_due = allocated >= SCAN_PAGES;
        self.allocated.store(if is_due { 0 } else { allocated }, Ordering::Relaxed);
        is_due
    }

    /// Whether a scan that is due runs, in a heap with `in_use` pages in use. Counts the scans that
    /// are skipped.
    pub(crate) fn may_scan(&self, in_use: usize) -> bool {
        if in_use < SMALL_HEAP_PAGES {
            return false;
        }
        // Relaxed: a count that may be lost.
        let to_skip = self.to_skip.load(Ordering::Relaxed);
        self.to_skip.store(to_skip.saturating_sub(1), Ordering::Relaxed);
        to_skip == 0
    }

    /// Scans the frames in `open`, and collapses areas that are dense for the second time.
    pub(crate) fn scan(
        &self,
        open: impl Iterator<Item = FrameRange>,
        committed: &FrameSet,
        mapping: &Mapped,
    ) {
        // Relaxed: changed under the maintenance lock alone.
        let resume_at = self.resume_at.load(Ordering::Relaxed);
        let (mut queries, mut collapses, mut was_slow) = (0, 0, false);
        let mut ends_at = None;
        for area in open.flat_map(areas).filter(|area| committed.count(*area) == AREA) {
            let number = number_of(area);
            let was_dense = self.dense.insert(number) == 1;
            let is_ahead = ends_at.is_none() && number.start.get() >= resume_at;
            if !was_dense || !is_ahead || self.huge.count(number) == 1 {
                continue;
            }
            queries += 1;
            if mapping.is_resident(area) {
                self.huge.insert(number);
                was_slow = time_of(|| mapping.collapse(area)) > self.slow;
                collapses += 1;
            }
            if was_slow || collapses == MOST_COLLAPSES || queries == MOST_QUERIES {
                ends_at = Some(number.end.get());
            }
        }
        // The next scan resumes where this one ended, or at the start.
        self.resume_at.store(ends_at.unwrap_or(0), Ordering::Relaxed);
        if collapses > 0 {
            self.note_speed(was_slow);
        }
    }

    /// Skips more scans after one with a slow collapse, none after another.
    fn note_speed(&self, was_slow: bool) {
        // Relaxed: changed under the maintenance lock, or counts that may be lost.
        let last = self.skipped.load(Ordering::Relaxed);
        let next = if was_slow { (2 * last).clamp(1, MOST_SKIPPED) } else { 0 };
        self.skipped.store(next, Ordering::Relaxed);
        self.to_skip.store(next, Ordering::Relaxed);
    }

    /// Forbids huge pages in the areas of `block`, which is about to be purged.
    pub(crate) fn forbid(&self, block: FrameRange, mapping: &Mapped) {
        for area in areas(block) {
            let number = number_of(area);
            self.dense.remove(number);
            if self.huge.remove(number) == 1 {
                mapping.forbid_huge(area);
            }
        }
    }
}

/// Returns the CPU time that `call` takes: the system's work for it counts, other threads do not.
fn time_of(call: impl FnOnce()) -> Duration {
    let cpu_time = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let before = cpu_time();
    call();
    cpu_time().saturating_sub(before)
}
