//! The purge policy: how many idle pages stay with the process, and when the rest is purged.
//!
//! # Concepts
//! - **Idle** pages are free and committed: they may be backed by memory.
//! - The **bound** is how many idle pages stay. It doubles when at least half of the pages that the
//!   last purge released were committed again before the next one, and halves otherwise. A purge
//!   that released no page leaves the bound unchanged.
//! - When use falls, fewer stay: see `trim.rs`.
//!
//! # Concurrency
//! All counts are Relaxed: they decide when pages are purged, not whether they may be. Two threads
//! that change a level at the same time may lose one change.

use core::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering};

use page_frame::PAGE_SIZE;

/// The minimum of the bound on idle pages: a guess.
pub(crate) const MIN_BOUND: usize = (4 << 20) / PAGE_SIZE;
/// The maximum of the bound on idle pages: a guess.
const MAX_BOUND: usize = (1 << 30) / PAGE_SIZE;

/// Counts of idle pages, and the bound on them.
#[derive(Debug)]
pub(crate) struct PurgePolicy {
    /// Whether a free that finds too many idle pages purges.
    is_automatic: bool,
    /// Idle pages; negative for a moment when threads count concurrently.
    idle: AtomicIsize,
    bound: AtomicUsize,
    /// The number of idle pages above which a free purges.
    next_at: AtomicUsize,
    /// Pages that the last purge released.
    purged: AtomicUsize,
    /// Pages that were committed since that purge.
    recommitted: AtomicUsize,
    /// The minimum of idle pages in this interval.
    least_idle: AtomicUsize,
    /// Whether any page was allocated in this interval.
    is_active: AtomicBool,
}

impl PurgePolicy {
    /// Makes the policy of a process without pages.
    pub(crate) fn new() -> Self {
        let [purged, recommitted, least_idle] = [const { AtomicUsize::new(0) }; 3];
        let [bound, next_at] = [const { AtomicUsize::new(MIN_BOUND) }; 2];
        let (idle, is_active) = (AtomicIsize::new(0), AtomicBool::new(false));
        let is_automatic = true;
        Self { is_automatic, idle, bound, next_at, purged, recommitted, least_idle, is_active }
    }

    /// Turns off purges by frees.
    pub(crate) fn without_purging(self) -> Self {
        Self { is_automatic: false, ..self }
    }

    /// Returns whether frees purge.
    pub(crate) fn is_automatic(&self) -> bool {
        self.is_automatic
    }

    /// Returns the number of idle pages.
    pub(crate) fn idle_pages(&self) -> usize {
        self.idle.load(Ordering::Relaxed).max(0) as usize
    }

    /// Counts `pages` allocated pages, of which `committed` were committed already.
    #[inline]
    pub(crate) fn note_allocated(&self, pages: usize, committed: usize) {
        if committed > 0 {
            let change = committed as isize;
            let idle = self.idle.fetch_sub(change, Ordering::Relaxed) - change;
            if idle.max(0) < self.least_idle.load(Ordering::Relaxed) as isize {
                self.least_idle.store(idle.max(0) as usize, Ordering::Relaxed);
            }
            self.relax(idle);
        }
        // A load first: the line stays shared while the interval is active.
        if !self.is_active.load(Ordering::Relaxed) {
            self.is_active.store(true, Ordering::Relaxed);
        }
        if pages > committed {
            self.recommitted.fetch_add(pages - committed, Ordering::Relaxed);
        }
    }

    /// Counts `committed` pages that are about to be free.
    #[inline]
    pub(crate) fn note_freed(&self, committed: usize) {
        self.idle.fetch_add(committed as isize, Ordering::Relaxed);
    }

    /// Counts `pages` idle pages that were purged.
    pub(crate) fn note_purged(&self, pages: usize) {
        self.idle.fetch_sub(pages as isize, Ordering::Relaxed);
    }

    /// Returns whether a free must purge.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        self.is_automatic && self.idle_pages() > self.next_at.load(Ordering::Relaxed)
    }

    /// Adapts the bound to how many of the pages that the last purge released were committed again;
    /// returns it.
    pub(crate) fn adapt_bound(&self) -> usize {
        let bound = self.bound.load(Ordering::Relaxed);
        let purged = self.purged.load(Ordering::Relaxed);
        let recommitted = self.recommitted.swap(0, Ordering::Relaxed);
        let adapted = if purged == 0 {
            // The bound had just doubled, or the surplus lay between pages in use.
            bound
        } else if recommitted >= purged / 2 {
            (bound * 2).min(MAX_BOUND)
        } else {
            (bound / 2).max(MIN_BOUND)
        };
        self.bound.store(adapted, Ordering::Relaxed);
        adapted
    }

    /// Notes that a purge at `bound` released `purged` pages, and sets when the next one is due.
    pub(crate) fn end_purge(&self, bound: usize, purged: usize) {
        self.purged.store(purged, Ordering::Relaxed);
        // The pages that are still idle lie between pages in use, where a purge finds none. The
        // next purge waits for a quarter more.
        let idle = self.idle_pages();
        self.next_at.store(bound.max(idle + idle / 4 + MIN_BOUND / 2), Ordering::Relaxed);
    }

    /// Lowers `next_at`, though not below the bound, once enough idle pages were allocated.
    #[inline]
    fn relax(&self, idle: isize) {
        let next_at = self.next_at.load(Ordering::Relaxed) as isize;
        if next_at > MIN_BOUND as isize && idle + idle / 2 + (MIN_BOUND as isize) < next_at {
            let bound = self.bound.load(Ordering::Relaxed) as isize;
            let lower = bound.max(idle + MIN_BOUND as isize / 2).max(MIN_BOUND as isize);
            self.next_at.store(lower as usize, Ordering::Relaxed);
        }
    }

    /// Begins another interval. Returns whether any page was allocated in the last one.
    pub(crate) fn begin_interval(&self) -> bool {
        self.is_active.swap(false, Ordering::Relaxed)
    }

    /// Returns the minimum of idle pages since the last call; there are `idle` at this moment.
    pub(crate) fn take_least_idle(&self, idle: usize) -> usize {
        self.least_idle.swap(idle, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::Pages;
    use crate::test_blocks::{Block, free, halves, take};
    use std::sync::atomic::AtomicUsize;

    fn new() -> Pages {
        Pages::with_space(1 << 30).expect("address space")
    }

    /// Returns pages, and blocks of 16 pages of which no two are neighbours. Enough other pages are
    /// in use that freeing the blocks is not a fall.
    fn with_blocks_apart() -> (Pages, Vec<Block>) {
        let pages = new();
        let _ = take(&pages, 9, 60);
        let (apart, _) = halves(take(&pages, 4, 1000));
        (pages, apart)
    }

    /// Mutations that it catches:
    /// - a purge at the bound instead of above it;
    /// - a purge to another part of the bound, or of all pages, or of none;
    /// - a comparison with `bound` in place of `next_at`;
    /// - another part of the idle pages in `next_at`.
    #[test]
    fn a_free_above_the_bound_purges_to_half_of_it() {
        let (pages, mut apart) = with_blocks_apart();
        free(&pages, apart.drain(..MIN_BOUND / 16));
        assert_eq!(pages.idle_pages(), MIN_BOUND);
        free(&pages, apart.pop());
        assert_eq!(pages.idle_pages(), MIN_BOUND / 2);
        // A quarter more than stayed idle, and half a bound.
        let next = MIN_BOUND / 2 + MIN_BOUND / 8 + MIN_BOUND / 2;
        free(&pages, apart.drain(..(next - MIN_BOUND / 2) / 16));
        assert_eq!(pages.idle_pages(), next);
        free(&pages, apart.pop());
        assert_eq!(pages.idle_pages(), MIN_BOUND / 2);
        // Without purging all of them stay.
        let pages = pages.without_purging();
        free(&pages, apart);
        assert!(pages.idle_pages() > 2 * MIN_BOUND);
    }

    /// Mutations that it catches:
    /// - each comparison reversed or with equality;
    /// - another part than half;
    /// - a count of recommitted pages that is not reset;
    /// - a bound without a minimum or a maximum;
    /// - a bound that halves when the last purge released nothing.
    #[test]
    fn the_bound_doubles_when_half_of_the_purged_pages_are_recommitted_and_halves_otherwise() {
        let (pages, mut apart) = with_blocks_apart();
        let store = |at: &AtomicUsize, value| at.store(value, Ordering::Relaxed);
        let bound_after = |bound: usize, purged: usize, recommitted: usize| {
            store(&pages.purge_policy.bound, bound);
            store(&pages.purge_policy.purged, purged);
            store(&pages.purge_policy.recommitted, recommitted);
            pages.purge_surplus();
            assert_eq!(pages.purge_policy.recommitted.load(Ordering::Relaxed), 0, "reset");
            pages.purge_policy.bound.load(Ordering::Relaxed)
        };
        let some = 4 * MIN_BOUND;
        assert_eq!(bound_after(some, 100, 50), 2 * some);
        assert_eq!(bound_after(some, 100, 49), some / 2);
        assert_eq!(bound_after(some, 100, 1000), 2 * some);
        assert_eq!(bound_after(some, 0, 1000), some, "the last purge released nothing");
        assert_eq!(bound_after(MIN_BOUND, 100, 0), MIN_BOUND);
        assert_eq!(bound_after(MAX_BOUND, 100, 50), MAX_BOUND);
        // The purge counts the released and the recommitted pages itself, and releases none below
        // the bound.
        store(&pages.purge_policy.bound, MIN_BOUND);
        store(&pages.purge_policy.next_at, MIN_BOUND);
        store(&pages.purge_policy.purged, 0);
        free(&pages, apart.drain(..MIN_BOUND / 16 + 1));
        let purged = MIN_BOUND / 2 + 16;
        assert_eq!(pages.purge_policy.purged.load(Ordering::Relaxed), purged);
        assert_eq!(pages.purge_policy.recommitted.load(Ordering::Relaxed), 0);
        let mut again = Vec::new();
        while pages.purge_policy.recommitted.load(Ordering::Relaxed) < purged / 2 {
            again.extend(take(&pages, 4, 1));
        }
        assert!(again.len() <= purged / 16 + 1, "pages without memory count");
        let idle = pages.idle_pages();
        let until_next = (pages.purge_policy.next_at.load(Ordering::Relaxed) - idle) / 16 + 1;
        free(&pages, apart.drain(..until_next));
        assert_eq!(pages.purge_policy.bound.load(Ordering::Relaxed), 2 * MIN_BOUND);
        assert_eq!(pages.idle_pages(), idle + until_next * 16, "below the new bound");
        assert_eq!(pages.purge_policy.purged.load(Ordering::Relaxed), 0);
        assert_eq!(pages.purge_policy.next_at.load(Ordering::Relaxed), 2 * MIN_BOUND);
    }

    /// Mutations that it catches:
    /// - committed pages counted as recommitted;
    /// - `relax` not called, or with another part of the idle pages;
    /// - the comparison with equality;
    /// - a level below the bound or below the least bound.
    #[test]
    fn allocating_idle_pages_lowers_the_level_of_the_next_purge() {
        let pages = new().without_purging();
        let mut idle = take(&pages, 0, 2001);
        free(&pages, idle.drain(..));
        let next_after = |next_at: usize, bound: usize| {
            pages.purge_policy.next_at.store(next_at, Ordering::Relaxed);
            pages.purge_policy.bound.store(bound, Ordering::Relaxed);
            let _ = take(&pages, 0, 1);
            (pages.idle_pages(), pages.purge_policy.next_at.load(Ordering::Relaxed))
        };
        let at = |idle: usize| idle + idle / 2 + MIN_BOUND;
        assert_eq!(next_after(at(2000), MIN_BOUND), (2000, at(2000)), "not far enough above");
        assert_eq!(next_after(at(1999) + 1, 0), (1999, 1999 + MIN_BOUND / 2));
        assert_eq!(next_after(at(2000), 2700), (1998, 2700), "the bound, where it is more");
        assert_eq!(
            pages.purge_policy.recommitted.load(Ordering::Relaxed),
            2001,
            "committed pages do not count"
        );
        pages.purge_policy.next_at.store(5000, Ordering::Relaxed);
        pages.purge_policy.bound.store(0, Ordering::Relaxed);
        pages.purge_policy.relax(0);
        assert_eq!(
            pages.purge_policy.next_at.load(Ordering::Relaxed),
            MIN_BOUND,
            "the least bound"
        );
    }
}
