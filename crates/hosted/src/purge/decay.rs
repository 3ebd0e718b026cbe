//! The decay of idle memory: how many free pages are due to be purged, and when.
//!
//! # Concepts
//! - **Idle** pages are free and committed: memory may back them, though the program does not use
//!   it.
//! - Time is divided into **intervals** of half the purge delay. Each interval notes the minimum of
//!   idle pages: so many pages were not needed in it. At the end of an interval the pages that were
//!   needed neither in it nor in the one before are **due**. So a page is purged when it has been
//!   idle for one delay at least, and for one and a half at most while the program runs. A use that
//!   swings within the delay purges nothing. (jemalloc calls this decay, mimalloc the purge delay.)
//! - No thread is needed: each call that allocates or frees pages looks at the clock, and the first
//!   one after the end of an interval ends it. After an interval without such calls, the next one
//!   may come late. An interval of at least the whole delay counts for two.
//! - **Credit** bounds the number of system calls. A call that purges at least 1 MiB is free. Each
//!   other call takes one from the credit, which grows by [`CALLS_PER_INTERVAL`] at the end of an
//!   interval, up to [`MAX_CREDIT`].
//! - While nothing is idle, and after some intervals without use, no interval runs: the next free
//!   begins one.
//!
//! # Concurrency
//! All counts are Relaxed: they decide when pages are purged, not whether they may be. One thread
//! ends each interval: the one whose exchange of `ends_at` succeeds.

use core::sync::atomic::{AtomicBool, AtomicIsize, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;

/// The purge delay of a process that sets none. Example: see
/// [`Pages::with_space`](crate::Pages::with_space).
///
/// Measured with 0.1, 0.5, 1 and 10 seconds: see the table in the book, "Running unmodified
/// programs".
pub const PURGE_DELAY: Duration = Duration::from_secs(1);

/// The minimum of the purge delay: the clock advances in steps of up to 10 milliseconds.
const MIN_DELAY: Duration = Duration::from_millis(20);
/// How much the credit grows in an interval.
const CALLS_PER_INTERVAL: usize = 2;
/// The maximum of the credit: a guess, 8 seconds' worth with the usual delay.
const MAX_CREDIT: usize = 32;
/// After so many intervals without use in which nothing was purged, no further interval begins.
const QUIET_INTERVALS: u8 = 3;
/// The value of `ends_at` while no interval runs.
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
    /// Whether any page was allocated or freed in this interval.
    is_active: AtomicBool,
    /// Consecutive intervals that ended without use and purged nothing.
    quiet: AtomicU8,
    credit: AtomicUsize,
}

/// The end of an interval.
pub(crate) struct IntervalEnd {
    /// Pages that are due to be purged.
    pub(crate) due: usize,
    /// Whether any page was allocated or freed in the interval.
    pub(crate) was_active: bool,
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
            is_active: AtomicBool::new(false),
            quiet: AtomicU8::new(0),
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

    /// Returns the number of committed pages that are in use.
    pub(crate) fn in_use(&self) -> usize {
        self.committed.load(Ordering::Relaxed).saturating_sub(self.idle_pages())
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
        self.note_use();
    }

    /// Counts `committed` pages that are about to be free.
    #[inline]
    pub(crate) fn note_freed(&self, committed: usize) {
        self.idle.fetch_add(committed as isize, Ordering::Relaxed);
        self.note_use();
    }

    #[inline]
    fn note_use(&self) {
        // A load first: the line stays shared while the interval is active.
        if !self.is_active.load(Ordering::Relaxed) {
            self.is_active.store(true, Ordering::Relaxed);
        }
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

    /// Returns whether an interval runs, or must begin because pages are idle.
    #[inline]
    pub(crate) fn is_running(&self) -> bool {
        self.ends_at.load(Ordering::Relaxed) != STOPPED
            || (self.idle.load(Ordering::Relaxed) > 0 && self.interval != STOPPED)
    }

    /// Begins an interval if none runs. Returns its end if it is over at `now`: then the next one
    /// has begun, and the caller purges what is due.
    pub(crate) fn end_interval_at(&self, now: u64) -> Option<IntervalEnd> {
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

    /// Ends the interval, whatever the time. One that `is_long` counts for two.
    pub(crate) fn end_interval(&self, is_long: bool) -> IntervalEnd {
        let idle = self.idle_pages();
        let fewest = self.fewest.swap(idle, Ordering::Relaxed).min(idle);
        let before = self.fewest_before.swap(fewest, Ordering::Relaxed);
        let was_active = self.is_active.swap(false, Ordering::Relaxed);
        let credit = self.credit.load(Ordering::Relaxed) + CALLS_PER_INTERVAL;
        self.credit.store(credit.min(MAX_CREDIT), Ordering::Relaxed);
        IntervalEnd { due: if is_long { fewest } else { fewest.min(before) }, was_active }
    }

    /// Takes the credit for system calls. [`put_credit`](Self::put_credit) returns what is left.
    pub(crate) fn take_credit(&self) -> usize {
        self.credit.swap(0, Ordering::Relaxed)
    }

    /// Returns unused credit.
    pub(crate) fn put_credit(&self, credit: usize) {
        self.credit.store(credit, Ordering::Relaxed);
    }

    /// Notes what came of an interval; stops the intervals after some without use.
    pub(crate) fn note_end(&self, end: &IntervalEnd, purged: usize) {
        let is_quiet = !end.was_active && purged == 0;
        let quiet = if is_quiet { self.quiet.load(Ordering::Relaxed) + 1 } else { 0 };
        self.quiet.store(quiet, Ordering::Relaxed);
        if quiet >= QUIET_INTERVALS {
            self.quiet.store(0, Ordering::Relaxed);
            self.ends_at.store(STOPPED, Ordering::Relaxed);
        }
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
        decay.end_interval_at(now).map(|end| end.due)
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
        assert!(!decay.is_running(), "nothing is idle");
        decay.note_freed(100);
        assert!(decay.is_running());
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

    /// Mutations that it catches: intervals that never stop, or stop while pages are purged or
    /// used.
    #[test]
    fn without_use_the_intervals_stop_and_a_free_begins_them_again() {
        let decay = Decay::new(Duration::from_secs(2));
        decay.note_allocated(10, 0);
        decay.note_freed(10);
        let mut now = 0;
        let mut end = |purged: usize| {
            now += SECOND;
            let end = decay.end_interval_at(now)?;
            decay.note_purged(purged);
            decay.note_end(&end, purged);
            Some(end.was_active)
        };
        assert_eq!(end(0), None, "begins");
        assert_eq!(end(0), Some(true));
        assert_eq!([end(0), end(10), end(0), end(0)], [Some(false); 4], "10 pages were purged");
        assert!(decay.is_running());
        assert_eq!(end(0), Some(false));
        assert!(!decay.is_running(), "three in a row without use, and nothing is idle");
        decay.note_allocated(5, 0);
        decay.note_freed(5);
        assert!(decay.is_running());
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
        decay.note_allocated(10, 0);
        decay.note_freed(10);
        assert!(!decay.is_running());
    }
}
