//! The decay of idle memory: how many free pages are due to be purged, and when.
//!
//! # Concepts
//! - **Idle** pages are free and committed: memory may back them, though the program does not use
//!   it.
//! - Time is divided into **intervals** of half the purge delay. Each interval notes the minimum of
//!   idle pages: that many pages were not needed in it. At the end of an interval the pages that
//!   were needed neither in it nor in the one before are **due**. So a page is purged when it has
//!   been idle for one delay at least, and for one and a half at most while the program runs. A use
//!   that swings within the delay purges nothing. (jemalloc calls this decay, mimalloc the purge
//!   delay.)
//! - No thread is needed: each call that allocates or frees pages looks at the clock, and the first
//!   one after the end of an interval ends it. After an interval without such calls, the next one
//!   may come late. An interval of at least the whole delay counts for two.
//! - **Credit** bounds the number of system calls. A call that purges at least 1 MiB is free. Each
//!   other call takes one from the credit, which grows by [`CALLS_PER_INTERVAL`] at the end of an
//!   interval, up to [`MAX_CREDIT`].
//! - A run of many pages that are not committed found no idle pages in one piece. As many idle
//!   pages are purged at once, in pieces of at least 1 MiB: so a program whose arrays double does
//!   not hold the smaller ones too. A use that swings finds its idle pages and purges nothing.
//! - While less than 256 KiB is idle in a heap of less than 4 MiB, nobody looks at the clock, and
//!   the current interval becomes longer. In a larger heap the caches may hold memory that the
//!   program does not use; the end of an interval makes them release it.
//! - What the caches release at the end of an interval, they did not need in it. So it counts as
//!   idle since the start of that interval.
//!
//! # Concurrency
//! All counts are Relaxed: they decide when pages are purged, not whether they may be. One thread
//! ends each interval: the one whose exchange of `ends_at` succeeds.

use core::sync::atomic::{AtomicIsize, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;

use page_frame::PAGE_SIZE;

/// The purge delay of a process that sets none. Example: see
/// [`Pages::with_space`](crate::Pages::with_space).
///
/// Measured from 0.02 to 10 seconds: see the table in the book, "Running unmodified programs".
pub const PURGE_DELAY: Duration = Duration::from_secs(1);

/// The minimum of the purge delay: the clock advances in steps of up to 10 milliseconds.
const MIN_DELAY: Duration = Duration::from_millis(20);
/// Fewer idle pages stay without a look at the clock: 256 KiB. A program that only grows has few.
const MIN_IDLE_PAGES: isize = (256 << 10) / PAGE_SIZE as isize;
/// From this size on a heap's caches may hold memory worth a look at the clock: 4 MiB, a guess.
const MIN_COMMITTED_PAGES: usize = (4 << 20) / PAGE_SIZE;
/// A run that commits so many pages replaces idle ones: 4 MiB.
const MANY_FRESH_PAGES: usize = (4 << 20) / PAGE_SIZE;
/// How much the credit grows in an interval.
const CALLS_PER_INTERVAL: usize = 2;
/// The maximum of the credit: a guess, 8 seconds' worth with the usual delay.
const MAX_CREDIT: usize = 32;
/// The value of `ends_at` before the first interval, and of `interval` if none ever ends by itself.
const STOPPED: u64 = u64::MAX;

/// Counts of idle pages, and the current interval.
#[derive(Debug)]
pub(crate) struct Decay {
    /// Half the purge delay in nanoseconds. [`STOPPED`] if no interval ever ends by itself.
    interval: u64,
    /// Pages that are committed, in use or idle.
    committed: AtomicUsize,
    /// Idle pages; negative for a moment when threads count concurrently.
    idle: AtomicIsize,
    /// The minimum of idle pages in this interval, and in the one before.
    fewest: AtomicUsize,
    fewest_before: AtomicUsize,
    /// The time at which the interval ends, or [`STOPPED`].
    ends_at: AtomicU64,
    credit: AtomicUsize,
}

impl Decay {
    /// Makes the counts of a process without pages.
    pub(crate) fn new(delay: Duration) -> Self {
        let [committed, fewest, fewest_before, credit] = [const { AtomicUsize::new(0) }; 4];
        Self {
            interval: interval_of(delay),
            committed,
            idle: AtomicIsize::new(0),
            fewest,
            fewest_before,
            ends_at: AtomicU64::new(STOPPED),
            credit,
        }
    }

    /// Sets the purge delay; `Duration::MAX` for no purging by allocations and frees.
    pub(crate) fn with_delay(self, delay: Duration) -> Self {
        Self { interval: interval_of(delay), ..self }
    }

    /// Returns the number of idle pages.
    #[inline]
    pub(crate) fn idle_pages(&self) -> usize {
        self.idle.load(Ordering::Relaxed).max(0) as usize
    }

    /// Returns the number of committed pages.
    pub(crate) fn committed_pages(&self) -> usize {
        self.committed.load(Ordering::Relaxed)
    }

    /// Returns the number of committed pages that are in use.
    pub(crate) fn in_use(&self) -> usize {
        self.committed_pages().saturating_sub(self.idle_pages())
    }

    /// Counts `pages` allocated pages, of which `committed` were committed already.
    #[inline]
    pub(crate) fn note_allocated(&self, pages: usize, committed: usize) {
        if committed > 0 {
            let change = committed as isize;
            let idle = (self.idle.fetch_sub(change, Ordering::Relaxed) - change).max(0) as usize;
            if idle < self.fewest.load(Ordering::Relaxed) {
                self.fewest.store(idle, Ordering::Relaxed);
            }
        }
        if pages > committed {
            self.committed.fetch_add(pages - committed, Ordering::Relaxed);
        }
    }

    /// Counts `committed` pages that are about to be free.
    #[inline]
    pub(crate) fn note_freed(&self, committed: usize) {
        self.idle.fetch_add(committed as isize, Ordering::Relaxed);
    }

    /// Counts `pages` idle pages that were purged.
    pub(crate) fn note_purged(&self, pages: usize) {
        let change = pages as isize;
        let idle = (self.idle.fetch_sub(change, Ordering::Relaxed) - change).max(0) as usize;
        self.committed.fetch_sub(pages, Ordering::Relaxed);
        self.fewest.fetch_min(idle, Ordering::Relaxed);
        self.fewest_before.fetch_min(idle, Ordering::Relaxed);
    }

    /// Counts `pages` pages in use whose memory went elsewhere.
    pub(crate) fn note_moved(&self, pages: usize) {
        self.committed.fetch_sub(pages, Ordering::Relaxed);
    }

    /// Counts `pages` idle pages as idle since the start of the interval that has just ended.
    pub(crate) fn note_idle_before(&self, pages: usize) {
        self.fewest.fetch_add(pages, Ordering::Relaxed);
        self.fewest_before.fetch_add(pages, Ordering::Relaxed);
    }

    /// Returns whether it is worth looking at the clock: enough pages are idle, or the caches may
    /// hold as many.
    #[inline]
    pub(crate) fn is_worth_a_look(&self) -> bool {
        let has_idle = self.idle.load(Ordering::Relaxed) >= MIN_IDLE_PAGES;
        (has_idle || self.committed_pages() >= MIN_COMMITTED_PAGES) && self.interval != STOPPED
    }

    /// Returns how many idle pages to purge at once, as a run adds `fresh` pages that were not
    /// committed: as many, if they and the idle pages are many.
    pub(crate) fn to_replace(&self, fresh: usize) -> usize {
        if fresh < MANY_FRESH_PAGES || self.interval == STOPPED {
            return 0;
        }
        let idle = self.idle_pages();
        if idle < MANY_FRESH_PAGES { 0 } else { idle.min(fresh) }
    }

    /// Begins the first interval. Later, returns the pages that are due if the interval is over at
    /// `now`: then the next one has begun, and the caller purges them.
    pub(crate) fn end_interval_at(&self, now: u64) -> Option<usize> {
        let ends_at = self.ends_at.load(Ordering::Relaxed);
        let next = now.saturating_add(self.interval);
        if ends_at == STOPPED {
            let _ = self.replace_end(STOPPED, next);
            return None;
        }
        if now < ends_at || !self.replace_end(ends_at, next) {
            return None;
        }
        let is_long = now - ends_at >= self.interval;
        Some(self.end_interval(is_long))
    }

    fn replace_end(&self, ends_at: u64, next: u64) -> bool {
        let (relaxed, at) = (Ordering::Relaxed, &self.ends_at);
        at.compare_exchange(ends_at, next, relaxed, relaxed).is_ok()
    }

    /// Ends the interval, whatever the time, and returns the pages that are due. An interval that
    /// `is_long` counts for two.
    pub(crate) fn end_interval(&self, is_long: bool) -> usize {
        let idle = self.idle_pages();
        let fewest = self.fewest.swap(idle, Ordering::Relaxed).min(idle);
        let before = self.fewest_before.swap(fewest, Ordering::Relaxed);
        let credit = self.credit.load(Ordering::Relaxed) + CALLS_PER_INTERVAL;
        self.credit.store(credit.min(MAX_CREDIT), Ordering::Relaxed);
        if is_long { fewest } else { fewest.min(before) }
    }

    /// Takes the credit for system calls. [`put_credit`](Self::put_credit) returns what is left.
    pub(crate) fn take_credit(&self) -> usize {
        self.credit.swap(0, Ordering::Relaxed)
    }

    /// Returns unused credit.
    pub(crate) fn put_credit(&self, credit: usize) {
        self.credit.store(credit, Ordering::Relaxed);
    }
}

/// Returns half of `delay` in nanoseconds; [`STOPPED`] where that is too long to count.
fn interval_of(delay: Duration) -> u64 {
    u64::try_from((delay.max(MIN_DELAY) / 2).as_nanos()).unwrap_or(STOPPED)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Returns the pages due at `now`, if an interval ends there.
    fn due_at(decay: &Decay, now: u64) -> Option<usize> {
        decay.end_interval_at(now)
    }

    /// Mutations that it catches:
    /// - an interval of the whole delay;
    /// - the minimum of this interval alone, or of the one before alone;
    /// - a minimum that is not reset;
    /// - an interval that ends twice.
    #[test]
    fn pages_are_due_that_two_intervals_did_not_need() {
        let decay = Decay::new(Duration::from_secs(2));
        decay.note_allocated(100, 0);
        decay.note_freed(63);
        assert!(!decay.is_worth_a_look(), "less than 256 KiB are idle");
        decay.note_freed(37);
        assert!(decay.is_worth_a_look());
        assert_eq!(due_at(&decay, 10 * SECOND), None, "an interval begins");
        assert_eq!(due_at(&decay, 11 * SECOND - 1), None);
        assert_eq!(due_at(&decay, 11 * SECOND), Some(0), "in use at its start");
        assert_eq!(due_at(&decay, 11 * SECOND), None, "ended once");
        decay.note_allocated(70, 70);
        decay.note_freed(70);
        assert_eq!(due_at(&decay, 12 * SECOND), Some(0), "the interval before needed all");
        assert_eq!(due_at(&decay, 13 * SECOND), Some(30), "the interval before needed 70");
        assert_eq!(due_at(&decay, 14 * SECOND), Some(100));
        decay.note_purged(100);
        assert_eq!((decay.idle_pages(), decay.in_use()), (0, 0));
        assert_eq!(due_at(&decay, 15 * SECOND), Some(0), "no page is due twice");
    }

    /// Mutations that it catches: pages of caches that count as idle since their release; a large
    /// heap with few idle pages that looks at no clock.
    #[test]
    fn pages_that_caches_release_after_an_interval_are_due_after_the_next() {
        let decay = Decay::new(Duration::from_secs(2));
        decay.note_allocated(MIN_COMMITTED_PAGES - 1, 0);
        assert!(!decay.is_worth_a_look(), "a small heap, and nothing is idle");
        decay.note_allocated(1, 0);
        assert!(decay.is_worth_a_look(), "the caches may hold something");
        assert_eq!(due_at(&decay, 0), None, "an interval begins");
        assert_eq!(due_at(&decay, SECOND), Some(0));
        decay.note_freed(100);
        decay.note_idle_before(100);
        assert_eq!(due_at(&decay, 2 * SECOND), Some(100));
    }

    /// Mutations that it catches: a long interval that counts for one; every interval counted for
    /// two.
    #[test]
    fn an_interval_of_the_whole_delay_counts_for_two() {
        let decay = Decay::new(Duration::from_secs(2));
        decay.note_allocated(100, 0);
        decay.note_freed(100);
        assert_eq!(due_at(&decay, 0), None);
        assert_eq!(due_at(&decay, SECOND), Some(0));
        // Nobody looked at the clock for more than the delay.
        decay.fewest_before.store(0, Ordering::Relaxed);
        assert_eq!(due_at(&decay, 4 * SECOND), Some(100));
        decay.fewest_before.store(0, Ordering::Relaxed);
        assert_eq!(due_at(&decay, 6 * SECOND - 1), Some(0), "not the whole delay");
    }

    /// Mutations that it catches: credit that grows without a bound or not at all; credit that is
    /// taken twice.
    #[test]
    fn credit_grows_with_each_interval_up_to_a_bound() {
        let decay = Decay::new(PURGE_DELAY);
        decay.end_interval(false);
        assert_eq!([decay.take_credit(), decay.take_credit()], [CALLS_PER_INTERVAL, 0]);
        decay.put_credit(1);
        for _ in 0..100 {
            decay.end_interval(false);
        }
        assert_eq!(decay.take_credit(), MAX_CREDIT);
    }

    #[test]
    fn short_delays_are_raised_and_endless_ones_never_end() {
        let decay = Decay::new(Duration::ZERO);
        assert_eq!(decay.interval, 10_000_000, "the clock advances in steps");
        let decay = decay.with_delay(Duration::MAX);
        decay.note_allocated(100, 0);
        decay.note_freed(100);
        assert!(!decay.is_worth_a_look());
    }

    /// Mutations that it catches: other limits; all idle pages for any run; idle pages although
    /// nothing ends an interval.
    #[test]
    fn as_many_idle_pages_are_replaced_as_are_fresh() {
        let decay = Decay::new(Duration::from_secs(2));
        decay.note_allocated(10_000, 0);
        decay.note_freed(MANY_FRESH_PAGES - 1);
        assert_eq!(decay.to_replace(6000), 0, "few are idle");
        decay.note_freed(8001 - MANY_FRESH_PAGES);
        let replaced = [MANY_FRESH_PAGES - 1, MANY_FRESH_PAGES, 6000, 9000];
        let replaced = replaced.map(|fresh| decay.to_replace(fresh));
        assert_eq!(replaced, [0, MANY_FRESH_PAGES, 6000, 8000]);
        assert_eq!(decay.with_delay(Duration::MAX).to_replace(6000), 0, "no purging");
    }
}
