//! The scan that asks Linux to back fully used areas of 2 MiB with transparent huge pages (THP).
//!
//! # Concepts
//! A huge page saves TLB misses. But it occupies 2 MiB even if little of them is used, and a free
//! part of it cannot be purged. So:
//! - New parts of the address space start with huge pages disabled, whatever the system's default
//!   is, so a small heap has small pages. Only fresh areas of a large heap start with huge pages
//!   (`growth.rs`).
//! - A scan collapses an area of 2 MiB into a huge page when the area is **dense** (each of its
//!   frames was allocated since it was last purged) and was dense at an earlier scan too. Every
//!   page must be resident: pages that were allocated and never written are not. At least 64 MiB
//!   must be in use. So collapsing adds no memory.
//! - Before parts of an area are purged, huge pages are disabled there again. Otherwise the
//!   kernel's background thread could put a huge page back, and with it the purged memory.
//!
//! A scan is due after every 32 MiB of pages that are allocated, at most five times a second.
//! `MADV_COLLAPSE` (Linux 6.1) copies the area into the huge page at once; older systems leave that
//! to their background thread. A collapse takes about half a millisecond of CPU time, and ten times
//! that in a virtual machine whose host has taken the free memory back. After a collapse of more
//! than 1.5 ms the scan stops collapsing, and the next scan is skipped. Each further slow scan
//! doubles the number of scans that are skipped, up to 64. A scan whose collapses were all fast
//! resets it.
//!
//! # Concurrency
//! [`Thp::scan`] and [`Thp::forbid`] run under the caller's maintenance lock. Other
//! threads may use the memory meanwhile; its content does not change.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;

use page_frame::{FrameRange, PAGE_SIZE};

use crate::frame_set::FrameSet;
use crate::space::areas::{AREA, area_numbered, areas, number_of};
use crate::space::region::Region;
use crate::system::clock::cpu_time_of;
use crate::system::seccomp;
use crate::thp::backoff::Backoff;
use crate::thp::growth::{FULL, Growth};

/// A scan is due after this many pages were allocated.
pub(crate) const SCAN_PAGES: usize = (32 << 20) / PAGE_SIZE;
/// A heap with fewer pages in use gets no huge pages: a guess.
const SMALL_HEAP_PAGES: usize = (64 << 20) / PAGE_SIZE;
/// Maximum collapses per scan: the calling thread pays for each of them.
const MAX_COLLAPSES: usize = 16;
/// Maximum residency queries per scan: a few microseconds each.
pub(crate) const MAX_QUERIES: usize = 64;
/// The minimum time between two scans in nanoseconds, so that a program which allocates and frees
/// gigabytes each second makes at most some hundred queries in it: a guess.
const PAUSE: u64 = 200_000_000;
/// A collapse that takes more CPU time is slow: a guess, three times the usual cost.
const SLOW: Duration = Duration::from_micros(1500);
/// The state of areas, and the time of the next scan.
#[derive(Debug)]
pub(crate) struct Thp {
    /// Areas found dense by an earlier scan and not purged since, by number.
    pub(super) dense: FrameSet,
    /// Areas in which huge pages are allowed, by number.
    pub(super) huge: FrameSet,
    /// Pages allocated since the last scan.
    allocated: AtomicUsize,
    /// The next scan queries residency from this area number on.
    pub(super) resume_at: AtomicUsize,
    /// Skips scans after one with a slow collapse.
    backoff: Backoff,
    /// Fresh areas that got a huge page when they were opened.
    pub(super) growth: Growth,
    /// A collapse that takes longer is slow; tests change it.
    pub(super) slow: Duration,
    /// The time of the last scan.
    scanned_at: AtomicU64,
    /// The minimum time between two scans in nanoseconds; tests change it.
    pub(super) pause: u64,
}

impl Thp {
    /// Makes the state; `dense` and `huge` are empty sets with room for each area's number.
    pub(crate) fn new(dense: FrameSet, huge: FrameSet) -> Self {
        let [allocated, resume_at] = [const { AtomicUsize::new(0) }; 2];
        let (backoff, growth, scanned_at) = (Backoff::new(), Growth::new(), AtomicU64::new(0));
        let (slow, pause) = (SLOW, PAUSE);
        Self { dense, huge, allocated, resume_at, backoff, growth, slow, scanned_at, pause }
    }

    /// Makes no scan ever due, and backs no fresh area.
    pub(crate) fn disabled(self) -> Self {
        Self { pause: u64::MAX, ..self }.with_growth(usize::MAX)
    }

    /// Lets one fresh area have a huge page that is not full for each `pages` pages in use.
    pub(crate) fn with_growth(mut self, pages: usize) -> Self {
        self.growth.set_pages_per_area(pages);
        self
    }

    /// Counts `pages` allocated pages; returns whether a scan is due.
    #[inline]
    pub(crate) fn note_allocated(&self, pages: usize) -> bool {
        // Relaxed, and not in one step: a lost count only delays a scan.
        let allocated = self.allocated.load(Ordering::Relaxed) + pages;
        let is_due = allocated >= SCAN_PAGES;
        self.allocated.store(if is_due { 0 } else { allocated }, Ordering::Relaxed);
        is_due
    }

    /// Notes that a block of `before` pages has `after` pages now; zero before it is allocated, and
    /// after it is freed.
    #[inline]
    pub(crate) fn note_block(&self, before: usize, after: usize) {
        self.growth.note_block(before, after);
    }

    /// Returns whether a due scan may run, in a heap with `in_use` pages in use and at the time
    /// `now`. Counts it as skipped where the last scan was slow. A process that has installed a
    /// filter of system calls scans nothing.
    pub(crate) fn may_scan(&self, in_use: usize, now: u64) -> bool {
        // Relaxed: a time that may be lost.
        let waited = now.saturating_sub(self.scanned_at.load(Ordering::Relaxed));
        if in_use < SMALL_HEAP_PAGES || waited < self.pause || seccomp::has_own_filter() {
            return false;
        }
        self.scanned_at.store(now, Ordering::Relaxed);
        self.backoff.may_try()
    }

    /// Scans the frames in `open`. Collapses areas that were dense before too, are resident and not
    /// huge yet, up to the limits of one scan.
    pub(crate) fn scan(
        &self,
        open: impl Iterator<Item = FrameRange>,
        committed: &FrameSet,
        mapping: &Region,
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
                was_slow = cpu_time_of(|| mapping.collapse(area)) > self.slow;
                collapses += 1;
            }
            if was_slow || collapses == MAX_COLLAPSES || queries == MAX_QUERIES {
                ends_at = Some(number.end.get());
            }
        }
        // The next scan queries after the area where this one reached a limit, or from the start.
        self.resume_at.store(ends_at.unwrap_or(0), Ordering::Relaxed);
        if collapses > 0 {
            self.backoff.note(was_slow);
        }
    }

    /// Returns whether the next fresh area of a heap with `in_use` pages in use may get a huge
    /// page. It must then be opened and given to [`back_fresh`](Self::back_fresh).
    pub(crate) fn may_back_fresh(&self, in_use: usize, committed: &FrameSet) -> bool {
        let is_filling = |number: FrameRange| {
            self.huge.count(number) == 1 && committed.count(area_numbered(number)) < FULL
        };
        self.growth.may_add(in_use, is_filling) && !seccomp::has_own_filter()
    }

    /// Asks the system for a huge page behind `area`, which was just opened with huge pages
    /// allowed. The page comes with the first fault, which is caused here, at `frame` of the area,
    /// to see what it takes.
    pub(crate) fn back_fresh(&self, area: FrameRange, frame: FrameRange, mapping: &Region) {
        self.huge.insert(number_of(area));
        let was_slow = cpu_time_of(|| mapping.populate(frame)) > self.slow;
        let is_huge = mapping.is_resident(area);
        self.growth.add(number_of(area), was_slow || !is_huge);
        if !is_huge {
            self.forbid(area, mapping);
        }
    }

    /// Returns in how many areas of `block` huge pages are allowed.
    pub(crate) fn allowed_in(&self, block: FrameRange) -> usize {
        areas(block).map(|area| self.huge.count(number_of(area))).sum()
    }

    /// Forbids huge pages in the areas of `block`, which is about to be purged.
    pub(crate) fn forbid(&self, block: FrameRange, mapping: &Region) {
        for area in areas(block) {
            let number = number_of(area);
            self.dense.remove(number);
            if self.huge.remove(number) == 1 {
                mapping.forbid_huge(area);
            }
        }
    }
}
