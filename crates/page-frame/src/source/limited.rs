//! A page source that refuses requests: a quota, and failures for tests.

use core::ptr::NonNull;

use crate::atomic::{AtomicUsize, Ordering};
use crate::block::PageBlock;
use crate::error::OutOfMemory;
use crate::order::Order;
use crate::page_map::forward::ForwardPageMap;
use crate::page_map::map::PageMap;
use crate::source::page_source::PageSource;
use crate::source::run::{PageResize, PageRun};
use crate::sync::model::const_unless_loom;

/// Refuses requests: beyond a quota of pages, every nth call, or with a probability. It never
/// refuses a free.
///
/// A new value refuses nothing. Random refusals are the same in each run of a program, as the
/// generator has a fixed seed.
///
/// ```
/// use page_frame::{Arena, Limited, Order, PageBlock, PageSource};
/// # let mut memory = vec![core::mem::MaybeUninit::uninit(); 64 * 1024];
/// let arena = Arena::new(&mut memory)?;
/// let source = Limited::new(&arena).with_quota(2); // in pages
/// assert!(source.allocate(Order::new(2).unwrap()).is_err());
/// let block = source.allocate(Order::new(1).unwrap())?;
/// assert_eq!(source.held_pages(), source.source().pages() - source.source().free_pages());
/// // SAFETY: the block came from this source and nothing refers into it.
/// unsafe { source.free(block) };
///
/// // In a test of what happens when memory runs out:
/// let every_third = Limited::new(&arena).failing_every(3);
/// let outcomes: Vec<_> = (0..6).map(|_| every_third.allocate(Order::ZERO)).collect();
/// assert!(outcomes[2].is_err() && outcomes.iter().flatten().count() == 4);
/// // SAFETY: the blocks came from this source and nothing refers into them.
/// outcomes.into_iter().flatten().for_each(|block| unsafe { every_third.free(block) });
/// assert!(Limited::new(&arena).failing_one_in(1, 7).allocate(Order::ZERO).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Limited<P> {
    source: P,
    quota_pages: usize,
    every: usize,
    /// Refuses when a random number of 32 bits is below this.
    threshold: u64,
    held_pages: AtomicUsize,
    calls: AtomicUsize,
    seed: usize,
}

impl<P> Limited<P> {
    const_unless_loom! {
        /// Passes all requests to `source`, until a limit is set. Example: see [`Limited`].
        pub fn new(source: P) -> Self {
            Self {
                source,
                quota_pages: usize::MAX,
                every: 0,
                threshold: 0,
                held_pages: AtomicUsize::new(0),
                calls: AtomicUsize::new(0),
                seed: 0,
            }
        }
    }

    /// Refuses requests that would make more than `pages` pages allocated at once.
    /// Example: see [`Limited`].
    pub fn with_quota(mut self, pages: usize) -> Self {
        self.quota_pages = pages;
        self
    }

    /// Refuses each `n`th call; 0 refuses none, 1 all. Example: see [`Limited`].
    pub fn failing_every(mut self, n: usize) -> Self {
        self.every = n;
        self
    }

    /// Refuses one in `one_in` calls, at random from `seed`; 0 refuses none.
    /// Example: see [`Limited`].
    pub fn failing_one_in(mut self, one_in: u32, seed: usize) -> Self {
        self.threshold = if one_in == 0 { 0 } else { (1 << 32) / u64::from(one_in) };
        self.seed = seed;
        self
    }

    /// Returns the wrapped source. Example: see [`Limited`].
    pub const fn source(&self) -> &P {
        &self.source
    }

    /// Returns the number of pages that are allocated. Example: see [`Limited`].
    pub fn held_pages(&self) -> usize {
        self.held_pages.load(Ordering::Relaxed)
    }

    /// Reserves `pages` of the quota, unless this call is refused.
    fn admit(&self, pages: usize) -> Result<(), OutOfMemory> {
        // Relaxed, here and below: each counter is exact by itself, and they publish nothing.
        let call = self.calls.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let is_nth = self.every != 0 && call % self.every == 0;
        if is_nth || mix(self.seed as u64 ^ call as u64) >> 32 < self.threshold {
            return Err(OutOfMemory);
        }
        let room = |held: usize| held.checked_add(pages).filter(|sum| *sum <= self.quota_pages);
        let reserved = self.held_pages.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
        reserved.map(|_| ()).map_err(|_| OutOfMemory)
    }

    /// Corrects the count of `pages` admitted pages by the outcome of the request.
    fn admitted(
        &self,
        pages: usize,
        outcome: Result<PageRun, OutOfMemory>,
    ) -> Result<PageRun, OutOfMemory> {
        let run = outcome.inspect_err(|_| self.release(pages))?;
        // A source that allocates whole blocks may return more pages than requested. The excess
        // counts too, but is not refused.
        self.held_pages.fetch_add(run.pages() - pages, Ordering::Relaxed);
        Ok(run)
    }

    fn release(&self, pages: usize) {
        self.held_pages.fetch_sub(pages, Ordering::Relaxed);
    }
}

/// Spreads the bits of a counter (the finaliser of SplitMix64; Steele, Lea and Flood 2014).
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

// SAFETY: `PageSource` clauses 1 and 2: the wrapped source allocates and frees every block.
unsafe impl<P: PageSource> PageSource for Limited<P> {
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        self.admit(order.pages())?;
        self.source.allocate(order).inspect_err(|_| self.release(order.pages()))
    }

    fn try_allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        self.admit(order.pages())?;
        self.source.try_allocate(order).inspect_err(|_| self.release(order.pages()))
    }

    unsafe fn free(&self, block: PageBlock) {
        let pages = block.pages();
        // SAFETY: the caller keeps the clauses of `free`; the wrapped source returned this block.
        unsafe { self.source.free(block) };
        self.release(pages);
    }
}

// SAFETY: clause 1: always the field `source`, which lives in this value.
unsafe impl<P: PageMap> ForwardPageMap for Limited<P> {
    #[inline(always)]
    fn page_map(&self) -> &impl PageMap {
        &self.source
    }
}

// SAFETY: `PageResize` clauses 1 and 2: the wrapped source allocates, resizes and frees every run.
unsafe impl<P: PageResize> PageResize for Limited<P> {
    fn allocate_run(&self, pages: usize, alignment: Order) -> Result<PageRun, OutOfMemory> {
        self.admit(pages)?;
        self.admitted(pages, self.source.allocate_run(pages, alignment))
    }

    fn try_allocate_run(&self, pages: usize, alignment: Order) -> Result<PageRun, OutOfMemory> {
        self.admit(pages)?;
        self.admitted(pages, self.source.try_allocate_run(pages, alignment))
    }

    unsafe fn free_run(&self, start: NonNull<u8>, pages: usize) {
        // SAFETY: the caller keeps the clauses of `free_run`; the wrapped source returned this run.
        unsafe { self.source.free_run(start, pages) };
        self.release(pages);
    }

    unsafe fn move_content(&self, from: NonNull<u8>, to: NonNull<u8>, pages: usize) -> bool {
        // SAFETY: the caller keeps clause 1 of `move_content`; the wrapped source returned both
        // runs.
        unsafe { self.source.move_content(from, to, pages) }
    }

    unsafe fn resize_run(&self, start: NonNull<u8>, pages: usize, new_pages: usize) -> bool {
        let growth = new_pages.saturating_sub(pages);
        if growth > 0 && self.admit(growth).is_err() {
            return false;
        }
        // SAFETY: the caller keeps the clauses of `resize_run`; the wrapped source returned this
        // run.
        let resized = unsafe { self.source.resize_run(start, pages, new_pages) };
        match resized {
            true => self.release(pages.saturating_sub(new_pages)),
            false => self.release(growth),
        }
        resized
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::order::PAGE_SIZE;
    use crate::source::arena::Arena;
    use crate::source::counted::Counted;
    use core::mem::MaybeUninit;
    use std::{vec, vec::Vec};

    fn give_back<P: PageSource>(source: &P, blocks: Vec<PageBlock>) {
        // SAFETY: the callers pass blocks of this source that nothing refers into.
        blocks.into_iter().for_each(|block| unsafe { source.free(block) });
    }

    #[test]
    fn a_quota_holds_and_freeing_makes_room_again() {
        let mut memory = vec![MaybeUninit::uninit(); 40 * PAGE_SIZE];
        let arena = Arena::new(&mut memory).expect("large enough");
        let source = Limited::new(&arena).with_quota(3);
        for _ in 0..2 {
            let blocks: Vec<_> =
                core::iter::from_fn(|| source.allocate(Order::ZERO).ok()).collect();
            assert_eq!(blocks.len(), 3);
            give_back(&source, blocks);
            assert_eq!(source.held_pages(), 0);
        }
    }

    #[test]
    fn every_nth_call_is_refused_and_costs_no_quota() {
        let mut memory = vec![MaybeUninit::uninit(); 40 * PAGE_SIZE];
        let arena = Arena::new(&mut memory).expect("large enough");
        let source = Counted::new(Limited::new(&arena).failing_every(3));
        let outcomes: Vec<_> = (0..9).map(|_| source.allocate(Order::ZERO)).collect();
        let refused: Vec<_> = (0..9).filter(|call| outcomes[*call].is_err()).collect();
        assert_eq!(refused, [2, 5, 8]);
        assert_eq!(
            (source.refusals(), source.held_pages(), source.source().held_pages()),
            (3, 6, 6)
        );
        give_back(&source, outcomes.into_iter().flatten().collect());
        assert_eq!((source.held_pages(), source.peak_pages()), (0, 6));
    }

    #[test]
    fn a_probability_refuses_about_its_share_and_the_same_calls_each_time() {
        let mut memory = vec![MaybeUninit::uninit(); 8 * PAGE_SIZE];
        let arena = Arena::new(&mut memory).expect("large enough");
        let pattern = || {
            let source = Limited::new(&arena).failing_one_in(4, 7);
            let outcomes = (0..4000).map(|_| source.allocate(Order::ZERO));
            let refused = |outcome: Result<PageBlock, OutOfMemory>| {
                // SAFETY: from this source, not in use.
                outcome.map(|block| unsafe { source.free(block) }).is_err()
            };
            outcomes.map(refused).collect::<Vec<_>>()
        };
        let first = pattern();
        let refused = first.iter().filter(|refused| **refused).count();
        assert!((900..1100).contains(&refused), "{refused} of 4000");
        assert_eq!(first, pattern());
    }
}
