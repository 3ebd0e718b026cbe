//! The maintenance of [`Pages`]: when idle pages are purged, and when to scan for huge pages.

use core::sync::atomic::{AtomicPtr, Ordering};

use page_frame::PAGE_SIZE;

use super::Pages;
use super::purge::Purge;
use crate::purge::trim::Trim;
use crate::system::clock;
use crate::threads::miss_hook::{self, After};
use crate::threads::tls;

/// An operation with at least this many pages takes some microseconds: 256 KiB.
const MANY_PAGES: usize = (256 << 10) / PAGE_SIZE;

impl Pages {
    /// Returns approximately how many pages are free but still backed by memory. O(1).
    /// Example: see [`Pages`].
    pub fn idle_pages(&self) -> usize {
        self.decay.idle_pages()
    }

    /// Purges free pages: returns their memory to the system, until `keep` idle pages are left.
    /// Returns how many pages it purged; zero while another thread purges or scans. O(sections),
    /// and a system call for each run of free pages. Example: see [`Pages`].
    pub fn purge(&self, keep: usize) -> usize {
        Purge::new(self, keep).run().0
    }

    /// Ends an interval if it is over, and purges what is due. Called by each function that
    /// allocates or frees `pages` pages, with no lock held, outside the fork lock.
    #[inline]
    pub(crate) fn decay_if_due(&self, pages: usize) {
        if self.decay.is_worth_a_look() {
            self.decay_by_clock(if pages < MANY_PAGES { After::Miss } else { After::ManyPages });
        }
    }

    #[cold]
    #[inline(never)]
    fn decay_by_clock(&self, after: After) {
        let now = clock::now();
        if let Some(due) = self.decay.end_interval_at(now) {
            self.trim_and_purge(due);
        }
        // Relaxed: only compared.
        if core::ptr::eq(self, HEAP_PAGES.load(Ordering::Relaxed)) {
            miss_hook::arm(now, after);
        }
    }

    /// Makes the threads that use [`Threads`](crate::Threads) as their CPUs look at the clock after
    /// each miss in a slot. So the pages decay in time also in a program that takes no pages. For
    /// the pages of the heap of a process; the last call counts.
    ///
    /// ```
    /// let pages: &'static _ = Box::leak(Box::new(hosted::Pages::new()?));
    /// pages.decay_at_misses();
    /// # Ok::<(), hosted::OsError>(())
    /// ```
    pub fn decay_at_misses(&'static self) {
        // Release: pairs with the Acquire in `decay_heap`.
        HEAP_PAGES.store(core::ptr::from_ref(self).cast_mut(), Ordering::Release);
        miss_hook::set(decay_heap);
    }

    /// Ends an interval now, whatever the time: calls the trim hook, and purges the pages that were
    /// idle in all of this interval and of the one before. Returns how many pages it purged.
    ///
    /// A thread that calls this at intervals ([`Purger`](crate::Purger)) makes a program that
    /// sleeps release its memory. At most one system call for each MiB that it purges, and two
    /// more on average.
    ///
    /// ```
    /// use hosted::Pages;
    /// use page_frame::{Order, PageSource};
    /// let pages = Pages::with_space(1 << 30)?.without_purging();
    /// let block = pages.allocate(Order::new(9).unwrap())?;
    /// // SAFETY: ours, and not used any more.
    /// unsafe { pages.free(block) };
    /// assert_eq!(pages.decay(), 0); // the block was in use in this interval
    /// assert_eq!(pages.decay(), 0); // and not in this one, but in the one before
    /// assert_eq!(pages.decay(), 512);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn decay(&self) -> usize {
        self.trim_and_purge(self.decay.end_interval(false))
    }

    /// Lets the caches release memory at the end of an interval, and purges the `due` pages, with
    /// those that the caches release in a trim of all.
    fn trim_and_purge(&self, due: usize) -> usize {
        let trim = self.trim_rounds.trim_at(due, &self.decay);
        let before = self.idle_pages();
        (self.trim_hook)(trim);
        let released = self.idle_pages().saturating_sub(before);
        if trim == Trim::All {
            // This thread has taken part.
            let _ = tls::number().map(|number| self.trim_rounds.is_behind(number));
            return self.purge_due(due + released);
        }
        self.decay.note_idle_before(released);
        self.purge_due(due)
    }

    /// Purges long runs of idle pages after an allocation that committed `fresh` pages. Called with
    /// no lock held, outside the fork lock.
    pub(crate) fn replace_idle(&self, fresh: usize) {
        let count = self.decay.to_replace(fresh);
        if count > 0 {
            Purge::of_long_runs(self, self.idle_pages().saturating_sub(count)).run();
        }
    }

    fn purge_due(&self, due: usize) -> usize {
        if due == 0 {
            return 0;
        }
        let keep = self.idle_pages().saturating_sub(due);
        let credit = self.decay.take_credit();
        let (purged, left) = Purge::with_credit(self, keep, credit).run();
        self.decay.put_credit(left);
        purged
    }

    /// Counts `pages` allocated pages; scans for areas that a huge page may back when a scan is
    /// due.
    #[inline]
    pub(crate) fn scan_after(&self, pages: usize) {
        if self.thp.note_allocated(pages) {
            self.scan();
        }
    }

    #[cold]
    fn scan(&self) {
        if !self.thp.may_scan(self.decay.in_use(), clock::now()) {
            return;
        }
        let Some(_maintenance) = self.maintenance.try_lock() else { return };
        self.thp.scan(self.space.sections().in_buddy(), &self.committed, self.space.mapping());
    }
}

/// The pages that decay after misses: a `&'static Pages`; null before there are any.
static HEAP_PAGES: AtomicPtr<Pages> = AtomicPtr::new(core::ptr::null_mut());

/// The hook of misses. While pages wait to be purged, the thread's next operation calls it again.
fn decay_heap() {
    // Acquire: pairs with the Release in `decay_at_misses`.
    let pages = HEAP_PAGES.load(Ordering::Acquire);
    // SAFETY: null, or a `&'static Pages`.
    let Some(pages) = (unsafe { pages.as_ref() }) else { return };
    if tls::number().is_some_and(|number| pages.trim_rounds.is_behind(number)) {
        (pages.trim_hook)(Trim::All);
    }
    if pages.decay.is_worth_a_look() {
        pages.decay_by_clock(After::Miss);
    }
}

#[cfg(test)]
mod tests {
    use page_frame::{Order, PageResize};

    use super::*;
    use crate::test_blocks::{free, halves, take};

    /// Purges what is due at the end of an interval, with this much credit. Returns how many pages.
    fn purge_due(pages: &Pages, due: usize, credit: usize) -> usize {
        pages.decay.put_credit(credit);
        pages.purge_due(due)
    }

    /// Mutations that it catches:
    /// - a purge without credit, or one that takes none;
    /// - large purges that take credit;
    /// - neighbouring areas purged one by one.
    #[test]
    fn small_purges_take_credit_and_large_ones_take_none() {
        let pages = Pages::with_space(1 << 30).expect("address space").without_purging();
        let blocks = take(&pages, 9, 4);
        let (whole, rest) = halves(take(&pages, 5, 64));
        free(&pages, blocks);
        assert_eq!(purge_due(&pages, usize::MAX, 0), 4 * 512, "without credit");
        // 32 blocks of 32 pages, none of which are neighbours.
        free(&pages, whole);
        assert_eq!(pages.idle_pages(), 32 * 32);
        assert_eq!(purge_due(&pages, usize::MAX, 0), 0);
        assert_eq!(purge_due(&pages, usize::MAX, 5), 5 * 32, "neighbours together");
        assert_eq!(pages.decay.take_credit(), 0);
        assert_eq!(pages.purge(0), 32 * 32 - 160, "a purge on demand needs none");
        free(&pages, rest);
    }

    /// Mutations that it catches:
    /// - idle pages that stay;
    /// - a purge for a run that found its pages committed, or for a small one;
    /// - a purge although the program has turned purging off.
    #[test]
    fn a_run_of_fresh_pages_replaces_as_many_idle_ones() {
        let new = || Pages::with_space(1 << 30).expect("address space");
        let allocate = |pages: &Pages, count| {
            pages.allocate_run(count, Order::ZERO).expect("address space").start()
        };
        // SAFETY: a run of these pages, which is not used any more.
        let free = |pages: &Pages, start, count| unsafe { pages.free_run(start, count) };
        let pages = new();
        let [first, fence] = [4096, 1].map(|count| allocate(&pages, count));
        free(&pages, first, 4096);
        let small = allocate(&pages, 512);
        assert_eq!(pages.idle_pages(), 4096 - 512, "from the idle pages");
        free(&pages, small, 512);
        let second = allocate(&pages, 6000);
        assert_eq!(pages.idle_pages(), 0, "6000 fresh pages replace 4096");
        free(&pages, second, 6000);
        let again = allocate(&pages, 6000);
        assert_eq!((again, pages.idle_pages()), (second, 0), "no page is fresh");
        free(&pages, again, 6000);
        free(&pages, fence, 1);

        let pages = new().without_purging();
        let first = allocate(&pages, 4096);
        let fence = allocate(&pages, 1);
        free(&pages, first, 4096);
        let second = allocate(&pages, 6000);
        assert_eq!(pages.idle_pages(), 4096, "purging is off");
        free(&pages, second, 6000);
        free(&pages, fence, 1);
    }
}
