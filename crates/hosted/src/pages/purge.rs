//! The maintenance of [`Pages`]: purges of free pages, and scans for huge pages.

use page_frame::{FrameRange, Order, PAGE_SHIFT, PAGE_SIZE, PageMap};

use super::Pages;
use crate::fork_lock::Inside;
use crate::purge::policy::MIN_BOUND;

/// The orders of the blocks that `purge` takes, largest first: areas, then smaller free blocks, at
/// last single pages.
const PURGED_ORDERS: [u8; 4] = [9, 6, 3, 0];
/// `decay` purges at most this many idle pages all at once, and of more only half.
const FEW_PAGES: usize = (256 << 10) / PAGE_SIZE;

impl Pages {
    /// Returns approximately how many pages are free but still backed by memory. O(1).
    /// Example: see [`Pages`].
    pub fn idle_pages(&self) -> usize {
        self.purge_policy.idle_pages()
    }

    /// Purges free pages: returns their memory to the system, until `keep` idle pages are left.
    /// Returns how many pages it purged; zero while another thread purges or scans. O(sections),
    /// and a system call for each block of free pages. Example: see [`Pages`].
    pub fn purge(&self, keep: usize) -> usize {
        let _inside = Inside::enter();
        let Some(_maintenance) = self.maintenance.try_lock() else { return 0 };
        let mut purged = 0;
        // Pages in the buddy's per-CPU slots are purged too.
        let mut are_cached = true;
        let open = self.space.sections().in_buddy();
        for order in PURGED_ORDERS.map(|order| Order::new(order).expect("below the largest")) {
            if core::mem::take(&mut are_cached) {
                self.buddy.drain();
            }
            for block in open.clone().flat_map(|range| self.committed.blocks(range, order.pages()))
            {
                if self.idle_pages() <= keep {
                    break;
                }
                if self.buddy.try_allocate_at(block.start, order).is_ok() {
                    let went = self.purge_block(block);
                    purged += went;
                    // The system refuses a block of which the program has locked a page. Its parts
                    // are tried next, and the free below may put it into a per-CPU slot.
                    are_cached |= went == 0;
                    // SAFETY: clause 1 of `free_frames`: this loop allocated the block by number,
                    // and no other code uses it.
                    let freed = unsafe { self.buddy.free_frames(block.start, order) };
                    debug_assert!(freed.is_ok(), "allocated above");
                }
            }
        }
        purged
    }

    /// Purges `block`, which the caller owns and which was counted as idle. Returns how many of its
    /// pages were committed; zero if the system refuses.
    fn purge_block(&self, block: FrameRange) -> usize {
        self.thp.forbid(block, self.space.mapping());
        let start = self.pointer(block.start.get() << PAGE_SHIFT);
        let bytes = block.frames() << PAGE_SHIFT;
        // SAFETY: clause 1 of `decommit`: only the caller uses the block, and needs no content.
        if unsafe { self.space.mapping().decommit(start, bytes) }.is_err() {
            return 0;
        }
        let pages = self.committed.remove(block);
        self.purge_policy.note_purged(pages);
        pages
    }

    /// Adapts the bound, and purges down to half of it if there are more idle pages.
    #[cold]
    pub(crate) fn purge_surplus(&self) {
        let bound = self.purge_policy.adapt_bound();
        let purged = if self.idle_pages() > bound { self.purge(bound / 2) } else { 0 };
        self.purge_policy.end_purge(bound, purged);
    }

    /// Makes the caches shrink when use falls. The caller has left the fork lock, as the caches
    /// take locks and free pages.
    #[inline]
    pub(crate) fn trim_after_free(&self) {
        if !self.purge_policy.is_automatic() {
            return;
        }
        if let Some(fall) = self.trim_policy.take_fall() {
            self.trim_policy.ask_caches();
            // Otherwise a program that now sleeps would keep idle pages up to the bound.
            if !fall.may_rebound {
                self.purge(MIN_BOUND / 4);
            }
        }
    }

    /// Ends an interval: purges half of the pages that were idle since the last call, by blocks of
    /// up to 2 MiB, or all of them when they are few. Returns how many pages it purged. When no
    /// page was allocated meanwhile, it makes the caches shrink first.
    ///
    /// A thread should call this at intervals ([`Purger`](crate::Purger)). O(sections), and a
    /// system call for each block.
    ///
    /// ```
    /// use hosted::Pages;
    /// use page_frame::{Order, PageSource};
    /// let pages = Pages::with_space(1 << 30)?.without_purging();
    /// let block = pages.allocate(Order::new(9).unwrap())?;
    /// // SAFETY: ours, and not used any more.
    /// unsafe { pages.free(block) };
    /// assert_eq!(pages.decay(), 0); // it was in use in this interval
    /// assert!(pages.decay() >= 256); // half of the block's 512 pages at least
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn decay(&self) -> usize {
        if !self.purge_policy.begin_interval() {
            self.trim_policy.ask_caches();
        }
        let idle = self.idle_pages();
        let surplus = self.purge_policy.take_least_idle(idle).min(idle);
        let going = if surplus <= FEW_PAGES { surplus } else { surplus / 2 };
        if going == 0 { 0 } else { self.purge(idle - going) }
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
        if !self.thp.may_scan(self.trim_policy.in_use()) {
            return;
        }
        let Some(_maintenance) = self.maintenance.try_lock() else { return };
        self.thp.scan(self.space.sections().in_buddy(), &self.committed, self.space.mapping());
    }
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
}
