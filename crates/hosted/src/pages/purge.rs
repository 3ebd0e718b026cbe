//! The maintenance of [`Pages`]: purges of free pages, and scans for huge pages.

use core::sync::atomic::{AtomicPtr, Ordering};

use page_frame::{FrameNumber, FrameRange, Order, PAGE_SHIFT, PAGE_SIZE, PageMap};

use super::Pages;
use crate::clock;
use crate::fork_lock::Inside;
use crate::miss_hook::{self, After};
use crate::purge::decay::IntervalEnd;

/// The orders of the blocks that `purge` takes, largest first: areas, then smaller free blocks, at
/// last single pages.
const PURGED_ORDERS: [u8; 5] = [9, 8, 6, 3, 0];
/// A system call that purges so many pages needs no credit: 1 MiB.
const FREE_OF_CREDIT: usize = (1 << 20) / PAGE_SIZE;
/// The maximum number of pages in one system call: 32 MiB. The system holds a lock of the process
/// meanwhile.
const MAX_PAGES_AT_ONCE: usize = (32 << 20) / PAGE_SIZE;

/// The limits of one purge.
struct Limits {
    /// Idle pages that stay.
    keep: usize,
    /// The system calls that may purge less than 1 MiB; `None` for any number.
    credit: Option<usize>,
}

impl Limits {
    /// Returns whether a call may purge `pages` pages with `calls` system calls, and charges them.
    fn admit(&mut self, pages: usize, calls: usize) -> bool {
        let Some(credit) = &mut self.credit else { return true };
        let charged = calls.saturating_sub(pages / FREE_OF_CREDIT);
        let left = credit.checked_sub(charged);
        *credit = left.unwrap_or(*credit);
        left.is_some()
    }

    /// Charges a call that the system refused.
    fn charge_refused(&mut self) {
        self.credit = self.credit.map(|credit| credit.saturating_sub(1));
    }

    /// Returns whether no call for blocks of `order` can be admitted any more.
    fn are_exhausted_for(&self, order: Order) -> bool {
        self.credit == Some(0) && order.pages() < FREE_OF_CREDIT
    }
}

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
        self.purge_within(&mut Limits { keep, credit: None })
    }

    fn purge_within(&self, limits: &mut Limits) -> usize {
        let _inside = Inside::enter();
        let Some(_maintenance) = self.maintenance.try_lock() else { return 0 };
        let mut purged = 0;
        // Pages in the buddy's per-CPU slots are purged too.
        let mut are_cached = true;
        for order in PURGED_ORDERS.map(|order| Order::new(order).expect("below the largest")) {
            // A drain fences all CPUs. Under a limit of calls one drain is enough.
            if core::mem::take(&mut are_cached) {
                self.buddy.drain();
            }
            let (went, was_refused) = self.purge_blocks(order, limits);
            purged += went;
            are_cached = was_refused && limits.credit.is_none();
            if self.idle_pages() <= limits.keep {
                break;
            }
        }
        purged
    }

    /// Purges free blocks of `order`, neighbouring ones by one system call. Returns how many pages
    /// it purged, and whether the system refused a run. The system refuses a run of which the
    /// program has locked a page: its parts are tried next, and may be in a per-CPU slot then.
    fn purge_blocks(&self, order: Order, limits: &mut Limits) -> (usize, bool) {
        let mut outcome = (0, false);
        let mut run = FrameRange::new(FrameNumber::new(0), FrameNumber::new(0));
        let mut pages = 0;
        for range in self.space.sections().in_buddy() {
            for block in self.committed.blocks(range, order.pages()) {
                let is_next = run.end == block.start && run.frames() < MAX_PAGES_AT_ONCE;
                if !is_next {
                    self.purge_run(run, order, limits, &mut outcome);
                    (run, pages) = (FrameRange::new(block.start, block.start), 0);
                }
                if self.idle_pages() <= limits.keep + pages || limits.are_exhausted_for(order) {
                    break;
                }
                if self.buddy.try_allocate_at(block.start, order).is_ok() {
                    run.end = block.end;
                    pages += self.committed.count(block);
                }
            }
            self.purge_run(run, order, limits, &mut outcome);
            (run, pages) = (FrameRange::new(range.end, range.end), 0);
        }
        outcome
    }

    /// Purges `run`, blocks of `order` that `purge_blocks` has allocated, and frees them.
    fn purge_run(
        &self,
        run: FrameRange,
        order: Order,
        limits: &mut Limits,
        (purged, was_refused): &mut (usize, bool),
    ) {
        if run.frames() == 0 {
            return;
        }
        let calls = 1 + self.thp.allowed_in(run);
        if limits.admit(self.committed.count(run), calls) {
            let mut pages = self.purge_owned(run);
            if pages == 0 {
                *was_refused = true;
                limits.charge_refused();
                if limits.credit.is_none() {
                    pages = blocks_of(run, order).map(|block| self.purge_owned(block)).sum();
                }
            }
            *purged += pages;
        }
        for block in blocks_of(run, order) {
            // SAFETY: clause 1 of `free_frames`: `purge_blocks` allocated the block by number, and
            // no other code uses it.
            let freed = unsafe { self.buddy.free_frames(block.start, order) };
            debug_assert!(freed.is_ok(), "allocated by number");
        }
    }

    /// Purges `run`, which the caller owns and which was counted as idle. Returns how many of its
    /// pages were committed; zero if the system refuses.
    fn purge_owned(&self, run: FrameRange) -> usize {
        self.thp.forbid(run, self.space.mapping());
        let start = self.pointer(run.start.get() << PAGE_SHIFT);
        let bytes = run.frames() << PAGE_SHIFT;
        // SAFETY: clause 1 of `decommit`: only the caller uses the run, and needs no content.
        if unsafe { self.space.mapping().decommit(start, bytes) }.is_err() {
            return 0;
        }
        let pages = self.committed.remove(run);
        self.decay.note_purged(pages);
        pages
    }

    /// Ends an interval if it is over, and purges what is due. Called by each function that
    /// allocates or frees pages, with no lock held, outside the fork lock.
    #[inline]
    pub(crate) fn decay_if_due(&self) {
        if self.decay.is_running() {
            self.decay_by_clock(After::PageOperation);
        }
    }

    #[cold]
    #[inline(never)]
    fn decay_by_clock(&self, after: After) {
        let now = clock::now();
        if let Some(end) = self.decay.end_interval_at(now) {
            (self.trim_hook)();
            self.purge_due(&end);
        }
        // Relaxed: only compared.
        if core::ptr::eq(self, HEAP_PAGES.load(Ordering::Relaxed)) {
            miss_hook::arm(now, after);
        }
    }

    /// Makes the threads that use [`Threads`](crate::Threads) as their CPUs look at the clock after
    /// each miss in a slot, and the pages decay in time: also in a program that allocates and frees
    /// without taking pages. For the pages of the heap of a process; the last call counts.
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
        let end = self.decay.end_interval(false);
        (self.trim_hook)();
        self.purge_due(&end)
    }

    fn purge_due(&self, end: &IntervalEnd) -> usize {
        let mut purged = 0;
        if end.due > 0 {
            let keep = self.idle_pages().saturating_sub(end.due);
            let mut limits = Limits { keep, credit: Some(self.decay.take_credit()) };
            purged = self.purge_within(&mut limits);
            self.decay.put_credit(limits.credit.unwrap_or(0));
        }
        self.decay.note_end(end, purged);
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
        if !self.thp.may_scan(self.decay.in_use()) {
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
    if pages.decay.is_running() {
        pages.decay_by_clock(After::Miss);
    }
}

/// Iterates over the blocks of `order` that make up `run`.
fn blocks_of(run: FrameRange, order: Order) -> impl Iterator<Item = FrameRange> {
    let pages = order.pages();
    (run.start.get()..run.end.get())
        .step_by(pages)
        .map(move |first| FrameRange::new(FrameNumber::new(first), FrameNumber::new(first + pages)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_blocks::{Block, fill, free, halves, take};
    use core::ptr::NonNull;
    use std::collections::BTreeMap;

    fn new() -> Pages {
        Pages::with_space(1 << 30).expect("address space")
    }

    /// Returns how many pages of `block` are resident.
    fn resident(block: &Block) -> usize {
        let mut there = vec![0_u8; block.order().pages()];
        let start = block.start().as_ptr().cast();
        // SAFETY: a part of our mapping; the vector has a byte for each of its pages.
        let outcome = unsafe { libc::mincore(start, block.order().bytes(), there.as_mut_ptr()) };
        assert_eq!(outcome, 0, "mapped");
        there.iter().filter(|page| **page & 1 == 1).count()
    }

    /// Mutations that it catches: two orders exchanged, or one left out; `keep` ignored; no drain
    /// before; a block that is not freed afterwards.
    #[test]
    fn the_largest_blocks_are_purged_first_and_no_more_than_asked() {
        let pages = new().without_purging();
        let mut by_area = BTreeMap::<usize, Vec<Block>>::new();
        for block in take(&pages, 0, 8 * 512) {
            by_area.entry(block.start().addr().get() >> 21).or_default().push(block);
        }
        let mut whole: Vec<_> = by_area.into_values().filter(|area| area.len() == 512).collect();
        // Free a whole area, and in three others 64 aligned pages, 8 aligned pages and one page.
        free(&pages, whole.pop().expect("eight areas"));
        for run in [64, 8, 1] {
            let mut area = whole.pop().expect("eight areas");
            free(&pages, area.drain(128..128 + run).collect::<Vec<_>>());
        }
        let mut given = Vec::new();
        while pages.idle_pages() > 0 && given.len() < 10 {
            given.push(pages.purge(pages.idle_pages() - 1));
        }
        assert_eq!(given, [512, 64, 8, 1]);
        // All pages are free again, and pages in per-CPU slots are purged too.
        let blocks = take(&pages, 9, 1);
        free(&pages, blocks);
        assert_eq!((pages.idle_pages(), pages.purge(0)), (512, 512));
        let block = take(&pages, 0, 1);
        free(&pages, block);
        assert_eq!((pages.purge(1), pages.purge(0), pages.purge(0)), (0, 1, 0));
    }

    /// Mutations that it catches: no system call; frames that stay committed; frames removed
    /// although the system refused.
    #[test]
    fn purged_pages_read_as_zero_and_locked_pages_stay() {
        let pages = new().without_purging();
        let blocks = take(&pages, 0, 64);
        blocks.iter().for_each(fill);
        let all: usize = blocks.iter().map(resident).sum();
        assert_eq!(all, 64);
        let start: NonNull<u8> = blocks[5].start();
        // SAFETY: a page of ours. The system does not decommit locked pages.
        if unsafe { libc::mlock(start.as_ptr().cast(), PAGE_SIZE) } != 0 {
            eprintln!("no memory may be locked here: not tested");
            return;
        }
        free(&pages, blocks);
        let given = pages.purge(0);
        assert_eq!((given, pages.idle_pages()), (63, 1), "single pages at last");
        let blocks = take(&pages, 0, 64);
        let locked = blocks.iter().find(|block| block.start() == start).expect("the same pages");
        assert!(!locked.is_zero());
        // SAFETY: the first byte of a block that the test has.
        assert_eq!(unsafe { start.read() }, 7);
        for block in blocks.iter().filter(|block| block.start() != start) {
            assert!(block.is_zero());
            // SAFETY: the first byte of a block that the test has.
            assert_eq!((resident(block), unsafe { block.start().read() }), (0, 0));
        }
        // SAFETY: locked above.
        unsafe { libc::munlock(start.as_ptr().cast(), PAGE_SIZE) };
        free(&pages, blocks);
    }

    /// Mutations that it catches: no maintenance lock; a lock that is never released.
    #[test]
    fn one_thread_purges_at_a_time() {
        let pages = new().without_purging();
        let blocks = take(&pages, 0, 10);
        free(&pages, blocks);
        let purging = pages.maintenance.try_lock();
        assert_eq!(pages.purge(0), 0, "another thread purges");
        drop(purging);
        assert_eq!(pages.purge(0), 10);
        let blocks = take(&pages, 0, 10);
        free(&pages, blocks);
        assert_eq!(pages.purge(0), 10, "after the other thread");
    }

    /// Purges what is due at the end of an interval, with this much credit. Returns how many pages.
    fn purge_due(pages: &Pages, due: usize, credit: usize) -> usize {
        pages.decay.put_credit(credit);
        pages.purge_due(&IntervalEnd { due, was_active: true })
    }

    /// Mutations that it catches:
    /// - a purge without credit, or one that takes none;
    /// - large purges that take credit;
    /// - neighbouring areas purged one by one.
    #[test]
    fn small_purges_take_credit_and_large_ones_take_none() {
        let pages = new().without_purging();
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
        let calls_for = |pages: usize, calls: usize| {
            let mut limits = Limits { keep: 0, credit: Some(1) };
            (limits.admit(pages, calls), limits.credit)
        };
        assert_eq!(calls_for(FREE_OF_CREDIT, 1), (true, Some(1)));
        assert_eq!(calls_for(FREE_OF_CREDIT - 1, 1), (true, Some(0)));
        assert_eq!(calls_for(FREE_OF_CREDIT, 3), (false, Some(1)));
        assert_eq!(calls_for(2 * FREE_OF_CREDIT, 3), (true, Some(0)));
    }
}
