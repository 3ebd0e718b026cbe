//! Giving memory back: which free pages still have memory behind them, how much of that is kept, and when the rest goes.
//!
//! # Concepts
//! - **Idle**: free, and touched, so that the system has put memory behind it.
//! - The **bound** is how much idle memory stays. It doubles where most of what went last time was soon wanted again, and halves
//!   where it was not. Where nothing went, nothing is learned.
//! - When use falls (`falls`), less than the bound stays.
//!
//! # Concurrency
//! Counts are Relaxed: they decide when memory goes, not whether it may. It is given back by one thread at a time, on blocks that
//! it has taken like any other allocation.

use core::sync::atomic::{AtomicBool, Ordering};

use page_frame::{FrameRange, Order, PAGE_SHIFT, PAGE_SIZE, PageMap};

use crate::Pages;
use crate::pages::Inside;

/// The least and the largest bound on free memory that is kept, in pages: guesses.
pub(crate) const LEAST_BOUND: usize = (4 << 20) / PAGE_SIZE;
const MOST_BOUND: usize = (1 << 30) / PAGE_SIZE;
/// Blocks that are given back, largest first, as orders: areas, then what lies between blocks, at last single pages.
const GIVEN_ORDERS: [u8; 4] = [9, 6, 3, 0];

/// Giving back, or looking for huge areas, by one thread at a time. Dropping it lets the next one begin, also after a panic.
pub(crate) struct Giving<'a>(&'a AtomicBool);

impl<'a> Giving<'a> {
    /// None while somebody is.
    pub(crate) fn begin(is_giving: &'a AtomicBool) -> Option<Self> {
        // Acquire: pairs with the Release below.
        (!is_giving.swap(true, Ordering::Acquire)).then_some(Self(is_giving))
    }
}

impl Drop for Giving<'_> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire above.
        self.0.store(false, Ordering::Release);
    }
}

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
        let Some(_giving) = Giving::begin(&self.is_giving) else { return 0 };
        let mut given = 0;
        // What is kept at hand is looked for too.
        let mut is_at_hand = true;
        let open = self.locked(|sections| *sections).in_buddy();
        for order in GIVEN_ORDERS.map(|order| Order::new(order).expect("below the largest")) {
            if core::mem::take(&mut is_at_hand) {
                self.buddy.drain();
            }
            for block in open.clone().flat_map(|range| self.touched.blocks(range, order.pages())) {
                if self.idle_pages() <= keep {
                    break;
                }
                if self.buddy.try_allocate_at(block.start, order).is_ok() {
                    let went = self.give(block);
                    given += went;
                    // A block of which the program has locked a page is refused, and its parts are tried, once they are not at
                    // hand.
                    is_at_hand |= went == 0;
                    // SAFETY: clause 1: allocated by number above, and ours.
                    let freed = unsafe { self.buddy.free_frames(block.start, order) };
                    debug_assert!(freed.is_ok(), "allocated above");
                }
            }
        }
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
        self.falls.note_use(in_use);
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

    /// Counts `range`, which is about to be freed, as idle.
    #[inline]
    pub(crate) fn take_in(&self, range: FrameRange) {
        let pages = self.touched.count(range);
        self.in_use.fetch_sub(range.frames(), Ordering::Relaxed);
        self.idle.fetch_add(pages as isize, Ordering::Relaxed);
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
        let last = self.given.load(Ordering::Relaxed);
        let retouched = self.retouched.swap(0, Ordering::Relaxed);
        let bound = if last == 0 {
            // The bound had just doubled; or what was too much lay between pages in use.
            bound
        } else if retouched >= last / 2 {
            // Most of what went is wanted again: it should not have gone.
            (bound * 2).min(MOST_BOUND)
        } else {
            (bound / 2).max(LEAST_BOUND)
        };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::taken::{Block, fill, free, halves, take};
    use core::ptr::NonNull;
    use std::collections::BTreeMap;
    use std::sync::atomic::AtomicUsize;

    fn new() -> Pages {
        Pages::with_space(1 << 30).expect("address space")
    }

    /// How many pages of memory the system has behind `block`.
    fn resident(block: &Block) -> usize {
        let mut there = vec![0_u8; block.order().pages()];
        let start = block.start().as_ptr().cast();
        // SAFETY: a part of our mapping; a byte for each of its pages.
        let outcome = unsafe { libc::mincore(start, block.order().bytes(), there.as_mut_ptr()) };
        assert_eq!(outcome, 0, "mapped");
        there.iter().filter(|page| **page & 1 == 1).count()
    }

    /// Mutations seen to fail: any two of the orders the other way round or one left out; a keep that is not looked at; no drain
    /// before; a block that is not freed afterwards.
    #[test]
    fn the_largest_blocks_go_first_and_no_more_than_is_asked_for() {
        let pages = new().keeping();
        let mut by_area = BTreeMap::<usize, Vec<Block>>::new();
        for block in take(&pages, 0, 8 * 512) {
            by_area.entry(block.start().addr().get() >> 21).or_default().push(block);
        }
        let mut whole: Vec<_> = by_area.into_values().filter(|area| area.len() == 512).collect();
        // One area, and of three others an aligned run of 64 pages, one of 8, and a page.
        free(&pages, whole.pop().expect("eight areas"));
        for run in [64, 8, 1] {
            let mut area = whole.pop().expect("eight areas");
            free(&pages, area.drain(128..128 + run).collect::<Vec<_>>());
        }
        let mut given = Vec::new();
        while pages.idle_pages() > 0 && given.len() < 10 {
            given.push(pages.give_back(pages.idle_pages() - 1));
        }
        assert_eq!(given, [512, 64, 8, 1]);
        // All of it is free again, and what is kept at hand is given too.
        let blocks = take(&pages, 9, 1);
        free(&pages, blocks);
        assert_eq!((pages.idle_pages(), pages.give_back(0)), (512, 512));
        let block = take(&pages, 0, 1);
        free(&pages, block);
        assert_eq!((pages.give_back(1), pages.give_back(0), pages.give_back(0)), (0, 1, 0));
    }

    /// Mutations seen to fail: no call of the system; touched bits that stay; bits that are cleared where the system refuses.
    #[test]
    fn what_goes_is_zero_and_what_the_system_refuses_stays() {
        let pages = new().keeping();
        let blocks = take(&pages, 0, 64);
        blocks.iter().for_each(fill);
        let all: usize = blocks.iter().map(resident).sum();
        assert_eq!(all, 64);
        let start: NonNull<u8> = blocks[5].start();
        // SAFETY: a page of ours. The system gives no memory back that is locked.
        if unsafe { libc::mlock(start.as_ptr().cast(), PAGE_SIZE) } != 0 {
            eprintln!("no memory may be locked here: not tested");
            return;
        }
        free(&pages, blocks);
        let given = pages.give_back(0);
        assert_eq!((given, pages.idle_pages()), (63, 1), "one page at a time, at last");
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

    /// Mutations seen to fail: no look at whether somebody is giving; a mark of it that stays.
    #[test]
    fn one_gives_at_a_time() {
        let pages = new().keeping();
        let blocks = take(&pages, 0, 10);
        free(&pages, blocks);
        pages.is_giving.store(true, Ordering::Relaxed);
        assert_eq!(pages.give_back(0), 0, "somebody else is");
        pages.is_giving.store(false, Ordering::Relaxed);
        assert_eq!(pages.give_back(0), 10);
        let blocks = take(&pages, 0, 10);
        free(&pages, blocks);
        assert_eq!(pages.give_back(0), 10, "one after the other");
    }

    /// Pages of which so many are in use that use does not fall when a few come back, and blocks of 16 pages that have none of
    /// themselves beside them.
    fn with_blocks_apart() -> (Pages, Vec<Block>) {
        let pages = new();
        let _ = take(&pages, 9, 60);
        let (apart, _) = halves(take(&pages, 4, 1000));
        (pages, apart)
    }

    /// Mutations seen to fail: a give-back at the bound rather than above; down to all, nothing, or another part of the bound; a
    /// look at `bound` in place of `next_at`; another part of what is left in `next_at`.
    #[test]
    fn a_free_beyond_the_bound_gives_back_down_to_half_of_it() {
        let (pages, mut apart) = with_blocks_apart();
        free(&pages, apart.drain(..LEAST_BOUND / 16));
        assert_eq!(pages.idle_pages(), LEAST_BOUND);
        free(&pages, apart.pop());
        assert_eq!(pages.idle_pages(), LEAST_BOUND / 2);
        // A quarter more than was left, and half a bound.
        let next = LEAST_BOUND / 2 + LEAST_BOUND / 8 + LEAST_BOUND / 2;
        free(&pages, apart.drain(..(next - LEAST_BOUND / 2) / 16));
        assert_eq!(pages.idle_pages(), next);
        free(&pages, apart.pop());
        assert_eq!(pages.idle_pages(), LEAST_BOUND / 2);
        // Kept, where a thread does it or nobody.
        let pages = pages.keeping();
        free(&pages, apart);
        assert!(pages.idle_pages() > 2 * LEAST_BOUND);
    }

    /// Mutations seen to fail: each comparison the other way round or with equality; another part than half; what was touched
    /// counted on; a bound without a least or a largest; one that halves where nothing went.
    #[test]
    fn the_bound_doubles_when_half_of_what_went_is_missed_and_halves_otherwise() {
        let (pages, mut apart) = with_blocks_apart();
        let store = |at: &AtomicUsize, value| at.store(value, Ordering::Relaxed);
        let bound_after = |bound: usize, given: usize, retouched: usize| {
            store(&pages.bound, bound);
            store(&pages.given, given);
            store(&pages.retouched, retouched);
            pages.give_surplus_back();
            assert_eq!(pages.retouched.load(Ordering::Relaxed), 0, "counted anew");
            pages.bound.load(Ordering::Relaxed)
        };
        let some = 4 * LEAST_BOUND;
        assert_eq!(bound_after(some, 100, 50), 2 * some);
        assert_eq!(bound_after(some, 100, 49), some / 2);
        assert_eq!(bound_after(some, 100, 1000), 2 * some);
        assert_eq!(bound_after(some, 0, 1000), some, "nothing went");
        assert_eq!(bound_after(LEAST_BOUND, 100, 0), LEAST_BOUND);
        assert_eq!(bound_after(MOST_BOUND, 100, 50), MOST_BOUND);
        // What went and what is touched are counted by themselves, and below the bound nothing goes.
        store(&pages.bound, LEAST_BOUND);
        store(&pages.next_at, LEAST_BOUND);
        store(&pages.given, 0);
        free(&pages, apart.drain(..LEAST_BOUND / 16 + 1));
        let given = LEAST_BOUND / 2 + 16;
        assert_eq!(pages.given.load(Ordering::Relaxed), given);
        assert_eq!(pages.retouched.load(Ordering::Relaxed), 0);
        let mut again = Vec::new();
        while pages.retouched.load(Ordering::Relaxed) < given / 2 {
            again.extend(take(&pages, 4, 1));
        }
        assert!(again.len() <= given / 16 + 1, "fresh pages are those that count");
        let idle = pages.idle_pages();
        let until_next = (pages.next_at.load(Ordering::Relaxed) - idle) / 16 + 1;
        free(&pages, apart.drain(..until_next));
        assert_eq!(pages.bound.load(Ordering::Relaxed), 2 * LEAST_BOUND);
        assert_eq!(pages.idle_pages(), idle + until_next * 16, "below the new bound");
        assert_eq!(pages.given.load(Ordering::Relaxed), 0);
        assert_eq!(pages.next_at.load(Ordering::Relaxed), 2 * LEAST_BOUND);
    }

    /// Mutations seen to fail: pages with memory counted as touched anew; `relax` not called, or with another part of what is idle;
    /// the comparison with equality; a level below the bound or the least one.
    #[test]
    fn when_idle_pages_are_used_the_level_falls_to_what_is_left_of_them() {
        let pages = new().keeping();
        let mut idle = take(&pages, 0, 2001);
        free(&pages, idle.drain(..));
        let next_after = |next_at: usize, bound: usize| {
            pages.next_at.store(next_at, Ordering::Relaxed);
            pages.bound.store(bound, Ordering::Relaxed);
            let _ = take(&pages, 0, 1);
            (pages.idle_pages(), pages.next_at.load(Ordering::Relaxed))
        };
        let at = |idle: usize| idle + idle / 2 + LEAST_BOUND;
        assert_eq!(next_after(at(2000), LEAST_BOUND), (2000, at(2000)), "not far enough above");
        assert_eq!(next_after(at(1999) + 1, 0), (1999, 1999 + LEAST_BOUND / 2));
        assert_eq!(next_after(at(2000), 2700), (1998, 2700), "the bound, where it is more");
        assert_eq!(pages.retouched.load(Ordering::Relaxed), 2001, "those were touched already");
        pages.next_at.store(5000, Ordering::Relaxed);
        pages.bound.store(0, Ordering::Relaxed);
        pages.relax(0);
        assert_eq!(pages.next_at.load(Ordering::Relaxed), LEAST_BOUND, "the least bound");
    }
}
