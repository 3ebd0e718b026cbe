//! Giving memory back: which free pages still have memory behind them, how much of that is kept, and when the rest goes.
//!
//! # Concepts
//! - **Idle**: free, and touched, so that the system has put memory behind it.
//! - The **bound** is how much idle memory stays. It doubles where most of what went last time was soon wanted again, and halves
//!   where it was not.
//! - Use **falls** when a sixth of what was in use at the peak has come back. Then the caches above are asked too: an object that
//!   they keep at hand may hold a page. A fall was **in vain** when use has risen to where it fell from; then the next one takes
//!   a third, and after another two thirds, so that a program that swings keeps what it has at hand. After one that was not, no
//!   more than a quarter of the least bound stays.
//!
//! # Concurrency
//! Counts are Relaxed: they decide when memory goes, not whether it may. It is given back by one thread at a time, on blocks that
//! it has taken like any other allocation.

use core::sync::atomic::Ordering;

use page_frame::{FrameRange, Order, PAGE_SHIFT, PAGE_SIZE, PageMap};

use crate::Pages;
use crate::pages::Inside;

/// The least and the largest bound on free memory that is kept, in pages: guesses.
pub(crate) const LEAST_BOUND: usize = (4 << 20) / PAGE_SIZE;
const MOST_BOUND: usize = (1 << 30) / PAGE_SIZE;
/// Blocks that are given back, largest first, as orders: areas, then what lies between blocks, at last single pages.
const GIVEN_ORDERS: [u8; 4] = [9, 6, 3, 0];
/// By how many pages at least, and by which part of the peak, use falls before the caches are asked: guesses.
const FALL_PAGES: usize = (1 << 20) / PAGE_SIZE;
const FALL_PART: usize = 6;
/// How often in a row the part doubles at most.
const MOST_IN_VAIN: usize = 2;

impl Pages {
    /// Returns about how many pages are free and still have memory behind them. O(1).
    pub fn idle_pages(&self) -> usize {
        // Relaxed: a statistic.
        self.idle.load(Ordering::Relaxed).max(0) as usize
    }

    /// Gives the memory behind free pages back to the system, until `keep` pages of it are left; returns how many pages
    /// went. O(sections), and a system call for each block of free pages.
    pub fn give_back(&self, keep: usize) -> usize {
        let _inside = Inside::new();
        if self.is_giving.swap(true, Ordering::Acquire) {
            return 0;
        }
        self.buddy.drain();
        let mut given = 0;
        let open = self.locked(|sections| *sections).in_buddy();
        for order in GIVEN_ORDERS.map(|order| Order::new(order).expect("below the largest")) {
            for block in open.clone().flat_map(|range| self.touched.blocks(range, order.pages())) {
                if self.idle_pages() <= keep {
                    break;
                }
                if self.buddy.try_allocate_at(block.start, order).is_ok() {
                    given += self.give(block);
                    let freed = self.buddy.free_frames(block.start, order);
                    debug_assert!(freed.is_ok(), "allocated above");
                }
            }
        }
        // Release: pairs with the Acquire above.
        self.is_giving.store(false, Ordering::Release);
        given
    }

    /// Gives the memory behind `block` back, which is the caller's and was counted as idle; returns its touched pages.
    pub(crate) fn give(&self, block: FrameRange) -> usize {
        self.make_small(block);
        let start = self.pointer(block.start.get() << PAGE_SHIFT);
        // SAFETY: nobody has the frames but us, and we need no content.
        let went = unsafe { self.space.give_back(start, block.frames() << PAGE_SHIFT) };
        if went.is_err() {
            return 0;
        }
        let pages = self.touched.clear(block);
        self.idle.fetch_sub(pages as isize, Ordering::Relaxed);
        pages
    }

    /// Counts `range` as handed out; whether it is fresh, so that it reads as zero.
    #[inline]
    pub(crate) fn hand_out(&self, range: FrameRange) -> bool {
        let before = self.touched.mark(range);
        let in_use = self.in_use.fetch_add(range.frames(), Ordering::Relaxed) + range.frames();
        if in_use > self.peak.load(Ordering::Relaxed) {
            self.peak.store(in_use, Ordering::Relaxed);
        }
        if before > 0 {
            // Relaxed, here and below: a count that decides when, not whether, memory goes back.
            let idle = self.idle.fetch_sub(before as isize, Ordering::Relaxed) - before as isize;
            if idle.max(0) < self.least_idle.load(Ordering::Relaxed) as isize {
                self.least_idle.store(idle.max(0) as usize, Ordering::Relaxed);
            }
            self.relax(idle);
        }
        if !self.is_active.load(Ordering::Relaxed) {
            self.is_active.store(true, Ordering::Relaxed);
        }
        self.count_to_look(range.frames());
        let fresh = range.frames() - before;
        if fresh > 0 {
            self.retouched.fetch_add(fresh, Ordering::Relaxed);
        }
        before == 0
    }

    /// Begins another interval; whether any page was handed out in the last one.
    pub(crate) fn note_interval(&self) -> bool {
        self.is_active.swap(false, Ordering::Relaxed)
    }

    /// Returns the fewest idle pages since the last call, of which there are `idle` now.
    pub(crate) fn least_idle(&self, idle: usize) -> usize {
        self.least_idle.swap(idle, Ordering::Relaxed)
    }

    /// Asks the caches for what they keep at hand.
    pub(crate) fn ask_caches(&self) {
        (self.fall_hook)();
    }

    /// Counts `range`, which is about to be freed, as idle.
    #[inline]
    pub(crate) fn take_in(&self, range: FrameRange) {
        let pages = self.touched.count(range);
        self.in_use.fetch_sub(range.frames(), Ordering::Relaxed);
        self.idle.fetch_add(pages as isize, Ordering::Relaxed);
    }

    /// Tells the caches when use falls. Outside the gate, as they may take locks.
    #[inline]
    pub(crate) fn note_fall(&self) {
        let in_use = self.in_use.load(Ordering::Relaxed);
        let peak = self.peak.load(Ordering::Relaxed);
        if self.gives_back && in_use + (peak / FALL_PART).max(FALL_PAGES) < peak {
            self.fall(in_use, peak);
        }
    }

    #[cold]
    fn fall(&self, in_use: usize, peak: usize) {
        // Relaxed, here and below: levels, of which threads that fall together may count one twice.
        let fell_from = self.fell_from.load(Ordering::Relaxed);
        let in_vain = self.in_vain.load(Ordering::Relaxed);
        let in_vain = match fell_from > 0 && peak >= fell_from - fell_from / 8 {
            true => (in_vain + 1).min(MOST_IN_VAIN),
            false => 0,
        };
        if in_use + ((peak / FALL_PART).max(FALL_PAGES) << in_vain).min(peak) < peak {
            self.in_vain.store(in_vain, Ordering::Relaxed);
            self.fell_from.store(peak, Ordering::Relaxed);
            self.peak.store(in_use, Ordering::Relaxed);
            self.ask_caches();
            // A program that ends so, and sleeps, would keep up to the bound.
            if in_vain == 0 {
                self.give_back(LEAST_BOUND / 4);
            }
        }
    }

    /// Gives memory back if there is too much of it.
    #[inline]
    pub(crate) fn settle(&self) {
        // Relaxed, here and below: levels; being late or early by a few pages does no harm.
        if self.gives_back && self.idle_pages() > self.next_at.load(Ordering::Relaxed) {
            self.give_surplus_back();
        }
    }

    #[cold]
    fn give_surplus_back(&self) {
        let idle = self.idle_pages();
        let bound = self.bound.load(Ordering::Relaxed);
        // Most of what went last time is wanted again: it should not have gone.
        let last = self.given.load(Ordering::Relaxed);
        let retouched = self.retouched.swap(0, Ordering::Relaxed);
        let is_missed = last > 0 && retouched >= last / 2;
        let bound = if is_missed { bound * 2 } else { bound / 2 }.clamp(LEAST_BOUND, MOST_BOUND);
        self.bound.store(bound, Ordering::Relaxed);
        let given = if idle > bound { self.give_back(bound / 2) } else { 0 };
        self.given.store(given, Ordering::Relaxed);
        // What is left lies between pages in use, and would be looked at in vain. So it does not count for the next time.
        let left = self.idle_pages();
        self.next_at.store(bound.max(left + left / 4 + LEAST_BOUND / 2), Ordering::Relaxed);
    }

    /// Lets memory be given back at the bound again, when idle pages were used since the last time.
    #[inline]
    fn relax(&self, idle: isize) {
        let next_at = self.next_at.load(Ordering::Relaxed) as isize;
        if next_at > LEAST_BOUND as isize && idle + idle / 2 + (LEAST_BOUND as isize) < next_at {
            let bound = self.bound.load(Ordering::Relaxed) as isize;
            let lower = bound.max(idle + LEAST_BOUND as isize / 2).max(LEAST_BOUND as isize);
            self.next_at.store(lower as usize, Ordering::Relaxed);
        }
    }
}
