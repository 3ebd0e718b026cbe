//! Purging [`Pages`]: which free pages a purge takes, and how it returns their memory.

use page_frame::{FrameNumber, FrameRange, Order, PAGE_SHIFT, PAGE_SIZE, PageMap};

use super::Pages;
use crate::threads::fork_lock::Inside;

/// The minimum lengths of the free runs that a purge takes, in pages: the longest ones first, at
/// last single pages.
const RUN_PAGES: [usize; 4] = [256, 32, 4, 1];
/// The order of an area, the largest block that a purge allocates.
const LARGEST_ORDER: u32 = 9;
/// A system call that purges at least this many pages needs no credit: 1 MiB.
const FREE_OF_CREDIT: usize = (1 << 20) / PAGE_SIZE;
/// The maximum number of pages in one system call: 32 MiB. The system holds a lock of the process
/// meanwhile.
const MAX_PAGES_AT_ONCE: usize = (32 << 20) / PAGE_SIZE;

/// A purge of some pages, within limits.
pub(super) struct Purge<'p> {
    pages: &'p Pages,
    /// Idle pages that stay.
    keep: usize,
    /// The system calls that may purge less than 1 MiB; `None` for any number.
    credit: Option<usize>,
    /// Whether the buddy's per-CPU slots are drained first, so that their pages are purged too.
    drains: bool,
}

impl<'p> Purge<'p> {
    /// Prepares a purge until `keep` idle pages are left, by any number of system calls.
    pub(super) const fn new(pages: &'p Pages, keep: usize) -> Self {
        Self { pages, keep, credit: None, drains: true }
    }

    /// Prepares a purge until `keep` idle pages are left, with `credit` system calls that may purge
    /// less than 1 MiB.
    pub(super) const fn with_credit(pages: &'p Pages, keep: usize, credit: usize) -> Self {
        Self { pages, keep, credit: Some(credit), drains: true }
    }

    /// Prepares a purge until `keep` idle pages are left, of runs of at least 1 MiB. Interrupts no
    /// other CPU.
    pub(super) const fn of_long_runs(pages: &'p Pages, keep: usize) -> Self {
        Self { pages, keep, credit: Some(0), drains: false }
    }

    /// Purges; returns how many pages, and the credit that is left. Zero pages while another thread
    /// purges or scans.
    pub(super) fn run(mut self) -> (usize, usize) {
        let pages = self.pages;
        let _inside = Inside::enter();
        let mut purged = 0;
        if let Some(_maintenance) = pages.maintenance.try_lock() {
            if self.drains {
                pages.buddy.drain();
            }
            for (pass, fewest) in RUN_PAGES.into_iter().enumerate() {
                if fewest < FREE_OF_CREDIT && self.credit == Some(0) {
                    break;
                }
                // A run that was too long for one system call is the next one's neighbour.
                let longest = if pass == 0 { MAX_PAGES_AT_ONCE } else { RUN_PAGES[pass - 1] };
                purged += self.purge_runs(fewest, longest);
                if pages.idle_pages() <= self.keep {
                    break;
                }
            }
        }
        (purged, self.credit.unwrap_or(0))
    }

    /// Purges free runs of at least `fewest` pages, up to `longest` by one system call. Returns how
    /// many pages it purged.
    fn purge_runs(&mut self, fewest: usize, longest: usize) -> usize {
        let mut purged = 0;
        let mut run = FrameRange::default();
        for range in self.pages.space.sections().in_buddy() {
            for first in self.pages.committed.groups(range) {
                let mut free = self.pages.buddy.free_bits(first);
                // A run of frames goes on from the group before, or begins in this one.
                while free != 0 || run.end == first {
                    let start = free.trailing_zeros() as usize;
                    let goes_on = start == 0 && run.end == first;
                    if !goes_on {
                        purged += self.purge_run_if(run, fewest);
                        run = FrameRange::default();
                    }
                    if free == 0 {
                        break;
                    }
                    let count = (!(free >> start)).trailing_zeros() as usize;
                    let begin = FrameNumber::new(first.get() + start);
                    let end = FrameNumber::new(begin.get() + count);
                    if !goes_on {
                        run.start = begin;
                    }
                    run.end = end;
                    free &= (usize::MAX << start).checked_shl(count as u32).unwrap_or(0);
                    if run.frames() >= longest {
                        purged += self.purge_run_if(run, fewest);
                        run = FrameRange::default();
                    }
                }
                if self.pages.idle_pages() <= self.keep {
                    return purged;
                }
            }
            purged += self.purge_run_if(run, fewest);
            run = FrameRange::default();
        }
        purged
    }

    /// Purges the part of `run` that is free and committed, if the run has at least `fewest` pages.
    /// Returns how many pages it purged.
    fn purge_run_if(&mut self, run: FrameRange, fewest: usize) -> usize {
        let idle = self.pages.idle_pages().saturating_sub(self.keep);
        if run.frames() < fewest || idle == 0 {
            return 0;
        }
        let run = self.pages.committed.span_of(run, idle);
        let mut purged = 0;
        // Another thread may allocate a block of the run meanwhile: then the run ends before it.
        let mut owned = FrameRange::new(run.start, run.start);
        for (start, order) in blocks_of(run) {
            if self.pages.buddy.try_allocate_at(start, order).is_ok() {
                owned.end = FrameNumber::new(start.get() + order.pages());
                continue;
            }
            purged += self.purge_and_free(owned);
            let end = FrameNumber::new(start.get() + order.pages());
            owned = FrameRange::new(end, end);
        }
        purged + self.purge_and_free(owned)
    }

    /// Purges `run`, whose blocks the caller has allocated as [`blocks_of`] names them, within the
    /// limits, and frees the blocks. Returns how many pages it purged.
    fn purge_and_free(&mut self, run: FrameRange) -> usize {
        let pages = self.pages.committed.count(run);
        let mut purged = 0;
        if pages > 0 && self.admit(pages, 1 + self.pages.thp.allowed_in(run)) {
            purged = self.purge_owned(run);
            if purged == 0 {
                // The program has locked a page of the run.
                self.credit = self.credit.map(|credit| credit.saturating_sub(1));
                if self.credit.is_none() {
                    purged = pages_of(run).map(|page| self.purge_owned(page)).sum();
                }
            }
        }
        for (start, order) in blocks_of(run) {
            // SAFETY: clause 1 of `free_frames`: the caller allocated the block by number, and no
            // other code uses it.
            let freed = unsafe { self.pages.buddy.free_frames(start, order) };
            debug_assert!(freed.is_ok(), "allocated by number");
        }
        purged
    }

    /// Purges `run`, which the caller owns and which was counted as idle. Returns how many of its
    /// pages were committed; zero if the system refuses.
    fn purge_owned(&self, run: FrameRange) -> usize {
        self.pages.thp.forbid(run, self.pages.space.mapping());
        let start = self.pages.pointer(run.start.get() << PAGE_SHIFT);
        let bytes = run.frames() << PAGE_SHIFT;
        // SAFETY: clause 1 of `decommit`: only the caller uses the run, and needs no content.
        if unsafe { self.pages.space.mapping().decommit(start, bytes) }.is_err() {
            return 0;
        }
        let pages = self.pages.committed.remove(run);
        self.pages.decay.note_purged(pages);
        pages
    }

    /// Returns whether a call may purge `pages` pages with `calls` system calls, and charges them.
    fn admit(&mut self, pages: usize, calls: usize) -> bool {
        let Some(credit) = &mut self.credit else { return true };
        let charged = calls.saturating_sub(pages / FREE_OF_CREDIT);
        let left = credit.checked_sub(charged);
        *credit = left.unwrap_or(*credit);
        left.is_some()
    }
}

/// Iterates over the blocks that make up `run`: each as large as its alignment and the rest of the
/// run allow, at most an area.
fn blocks_of(run: FrameRange) -> impl Iterator<Item = (FrameNumber, Order)> {
    let mut next = run.start.get();
    core::iter::from_fn(move || {
        let left = run.end.get().checked_sub(next).filter(|left| *left > 0)?;
        let order = left.ilog2().min(next.trailing_zeros()).min(LARGEST_ORDER);
        let order = Order::new(order as u8).expect("at most that of an area");
        let start = FrameNumber::new(next);
        next += order.pages();
        Some((start, order))
    })
}

/// Iterates over the single pages of `run`.
fn pages_of(run: FrameRange) -> impl Iterator<Item = FrameRange> {
    (run.start.get()..run.end.get())
        .map(|page| FrameRange::new(FrameNumber::new(page), FrameNumber::new(page + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_blocks::{Block, fill, free, take};
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
        // Free a whole area, and in three others 64, 8 pages and one page.
        let freed = [512, 64, 8, 1].map(|run| {
            let mut area = whole.pop().expect("eight areas");
            let first = if run == 512 { 0 } else { 128 };
            let run: Vec<_> = area.drain(first..first + run).collect();
            let first = FrameNumber::containing(run[0].start().addr().get());
            let range = FrameRange::new(first, FrameNumber::new(first.get() + run.len()));
            free(&pages, run);
            range
        });
        let left =
            |pages: &Pages| freed.iter().map(|range| pages.committed.count(*range)).collect();
        let purged: [(usize, Vec<_>); 4] =
            [73, 9, 1, 0].map(|keep| (pages.purge(keep), left(&pages)));
        let expected = [(512, [0, 64, 8, 1]), (64, [0, 0, 8, 1]), (8, [0, 0, 0, 1]), (1, [0; 4])];
        assert_eq!(purged, expected.map(|(pages, left)| (pages, left.to_vec())));
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
        // The system does not decommit locked pages. The test makes the system call itself, as the
        // sanitizers replace `mlock` by a function that returns 0 and locks nothing.
        // SAFETY: a page of ours.
        if unsafe { libc::syscall(libc::SYS_mlock, start.as_ptr(), PAGE_SIZE) } != 0 {
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
        unsafe { libc::syscall(libc::SYS_munlock, start.as_ptr(), PAGE_SIZE) };
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

    #[test]
    fn calls_that_purge_less_than_a_mebibyte_take_credit() {
        let pages = new();
        let calls_for = |count: usize, calls: usize| {
            let mut purge = Purge::with_credit(&pages, 0, 1);
            (purge.admit(count, calls), purge.credit)
        };
        assert_eq!(calls_for(FREE_OF_CREDIT, 1), (true, Some(1)));
        assert_eq!(calls_for(FREE_OF_CREDIT - 1, 1), (true, Some(0)));
        assert_eq!(calls_for(FREE_OF_CREDIT, 3), (false, Some(1)));
        assert_eq!(calls_for(2 * FREE_OF_CREDIT, 3), (true, Some(0)));
    }
}
