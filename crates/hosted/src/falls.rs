//! When use falls: the caches are asked for what they keep, and less stays than otherwise.
//!
//! # Concepts
//! Use **falls** when a sixth of what was in use at the peak has come back. Then the caches above are asked: an object that they
//! keep at hand may hold a page. A fall was **in vain** when use has risen to where it fell from; then the next one takes a third,
//! and after another two thirds, so that a program that swings keeps what it has at hand.
//!
//! Where use goes on falling, without rising in between, the next fall of the same descent takes half of that part. So a descent
//! that is no swing ends with falls of a sixth, after each of which no more than a quarter of the least bound stays.
//!
//! # Concurrency
//! As in `giving`.

use core::sync::atomic::{AtomicUsize, Ordering};

use page_frame::PAGE_SIZE;

use crate::Pages;
use crate::giving::LEAST_BOUND;

/// By how many pages at least, and by which part of the peak, use falls before the caches are asked: guesses.
const FALL_PAGES: usize = (1 << 20) / PAGE_SIZE;
const FALL_PART: usize = 6;
/// How often in a row the part doubles at most.
const MOST_IN_VAIN: usize = 2;

/// The most that was in use, and how use fell last.
#[derive(Debug)]
pub(crate) struct Falls {
    /// The most pages in use since the last fall.
    peak: AtomicUsize,
    /// Where the descent of the last fall began, and where the fall ended.
    from: AtomicUsize,
    to: AtomicUsize,
    /// How many descents in a row count as in vain, for the last fall and for the first of its descent.
    in_vain: AtomicUsize,
    in_vain_at_top: AtomicUsize,
    /// Has the caches give what they keep.
    pub(crate) hook: fn(),
}

impl Falls {
    pub(crate) fn new() -> Self {
        let [peak, from, to, in_vain, in_vain_at_top] = [const { AtomicUsize::new(0) }; 5];
        Self { peak, from, to, in_vain, in_vain_at_top, hook: || () }
    }

    /// Notes that `in_use` pages are in use.
    #[inline]
    pub(crate) fn note_use(&self, in_use: usize) {
        // Relaxed: a level.
        if in_use > self.peak.load(Ordering::Relaxed) {
            self.peak.store(in_use, Ordering::Relaxed);
        }
    }
}

impl Pages {
    /// Tells the caches when use falls. Outside the gate, as they may take locks.
    #[inline]
    pub(crate) fn note_fall(&self) {
        let in_use = self.in_use.load(Ordering::Relaxed);
        let peak = self.falls.peak.load(Ordering::Relaxed);
        if self.gives_back && in_use + (peak / FALL_PART).max(FALL_PAGES) < peak {
            self.fall(in_use, peak);
        }
    }

    #[cold]
    fn fall(&self, in_use: usize, peak: usize) {
        // Relaxed, here and below: levels, of which threads that fall together may count one twice.
        let falls = &self.falls;
        let [top, to, in_vain, at_top] =
            [&falls.from, &falls.to, &falls.in_vain, &falls.in_vain_at_top]
                .map(|level| level.load(Ordering::Relaxed));
        let (top, in_vain, at_top) = if top > 0 && peak >= top - top / 8 {
            // It rose again: all of the last descent was in vain.
            let more = (at_top + 1).min(MOST_IN_VAIN);
            (peak, more, more)
        } else if peak > to + to / 8 {
            // It rose, to less: another swing, of which nothing is known.
            (peak, 0, 0)
        } else {
            // It goes on falling.
            (top, in_vain.saturating_sub(1), at_top)
        };
        if in_use + ((peak / FALL_PART).max(FALL_PAGES) << in_vain) < peak {
            falls.from.store(top, Ordering::Relaxed);
            falls.to.store(in_use, Ordering::Relaxed);
            falls.in_vain.store(in_vain, Ordering::Relaxed);
            falls.in_vain_at_top.store(at_top, Ordering::Relaxed);
            falls.peak.store(in_use, Ordering::Relaxed);
            self.ask_caches();
            // A program that ends so, and sleeps, would keep up to the bound.
            if in_vain == 0 {
                self.give_back(LEAST_BOUND / 4);
            }
        }
    }

    /// Asks the caches for what they keep at hand.
    pub(crate) fn ask_caches(&self) {
        (self.falls.hook)();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::taken::{Block, free, halves, take};

    fn new() -> Pages {
        Pages::with_space(1 << 30).expect("address space")
    }

    static FALLS: AtomicUsize = AtomicUsize::new(0);

    /// Frees pages one by one; returns after how many the caches are asked.
    fn frees_until_a_fall(pages: &Pages, blocks: &mut Vec<Block>) -> usize {
        FALLS.store(0, Ordering::Relaxed);
        let mut count = 0;
        while FALLS.load(Ordering::Relaxed) == 0 {
            free(pages, [blocks.pop().expect("it falls before nothing is left")]);
            count += 1;
        }
        count
    }

    /// A sixth, a third, two thirds, and no more than that; half of that while use goes on falling; anew when it rises to
    /// less.
    ///
    /// Mutations seen to fail: another part of the peak, no least part; equality in each comparison; falls in vain that are not
    /// counted, counted on, counted from the last of a descent, or when use has not risen again; one of a descent that takes as
    /// much as the one before; a peak, a top or a bottom that stays; another eighth.
    #[test]
    fn use_falls_by_a_sixth_and_in_vain_by_twice_as_much() {
        let pages = new().with_fall_hook(|| _ = FALLS.fetch_add(1, Ordering::Relaxed));
        let mut blocks = take(&pages, 0, 12_000);
        let fell = |blocks: &mut Vec<Block>| frees_until_a_fall(&pages, blocks);
        let rise = |blocks: &mut Vec<Block>, to: usize| {
            blocks.extend(take(&pages, 0, to - blocks.len()));
        };
        assert_eq!(fell(&mut blocks), 2001, "a sixth of 12,000");
        assert_eq!(fell(&mut blocks), 9999 / 6 + 1, "it goes on");
        rise(&mut blocks, 9500);
        assert_eq!(fell(&mut blocks), 9500 / 6 + 1, "it rose, not to where the descent began");
        // Up to where it fell from, of which an eighth does not count.
        rise(&mut blocks, 9500 - 1187);
        assert_eq!(fell(&mut blocks), 2 * (8313 / 6) + 1, "in vain");
        assert_eq!(fell(&mut blocks), 5542 / 6 + 1, "it goes on");
        rise(&mut blocks, 8313 - 1039);
        assert_eq!(fell(&mut blocks), 4 * (7274 / 6) + 1, "in vain again");
        assert_eq!(fell(&mut blocks), 2 * (2425 / 6) + 1, "it goes on");
        assert_eq!(fell(&mut blocks), 1616 / 6 + 1, "and on");
        rise(&mut blocks, 7274 - 909);
        assert_eq!(fell(&mut blocks), 4 * (6365 / 6) + 1, "no more than that");
        // An eighth up is not counted as a rise.
        rise(&mut blocks, 2124 + 265);
        assert_eq!(fell(&mut blocks), 2 * (2389 / 6) + 1, "it goes on");
        rise(&mut blocks, 1592 + 199 + 1);
        assert_eq!(fell(&mut blocks), 1792 / 6 + 1, "it rose to less");
        rise(&mut blocks, 1792 - 224);
        assert_eq!(fell(&mut blocks), 2 * (1568 / 6) + 1, "to where it fell from last");
        rise(&mut blocks, 1568 - 196 - 1);
        assert_eq!(fell(&mut blocks), FALL_PAGES + 1, "it rose to less");
        // 1 MiB at least.
        free(&pages, blocks.drain(1000..));
        rise(&mut blocks, 1200);
        pages.falls.peak.store(1200, Ordering::Relaxed);
        pages.falls.from.store(0, Ordering::Relaxed);
        pages.falls.to.store(1000, Ordering::Relaxed);
        assert_eq!(fell(&mut blocks), FALL_PAGES + 1);
        rise(&mut blocks, 1200);
        assert_eq!(fell(&mut blocks), 2 * FALL_PAGES + 1, "in vain");
        let pages = pages.keeping();
        FALLS.store(0, Ordering::Relaxed);
        free(&pages, blocks);
        assert_eq!(FALLS.load(Ordering::Relaxed), 0, "nobody is asked where all is kept");
    }

    /// Mutations seen to fail: nothing given after a fall, more, less; as much after one in vain.
    #[test]
    fn after_a_fall_that_lasts_a_quarter_of_the_least_bound_stays() {
        let pages = new();
        let (apart, _) = halves(take(&pages, 0, 2 * LEAST_BOUND));
        let in_use = pages.in_use.load(Ordering::Relaxed);
        let mut apart = apart.into_iter();
        let falls_at = in_use - in_use / FALL_PART;
        while pages.in_use.load(Ordering::Relaxed) >= falls_at {
            free(&pages, [apart.next().expect("half of them are more than a sixth")]);
        }
        assert_eq!(pages.idle_pages(), LEAST_BOUND / 4);
        // Up again, and down by a third.
        let mut apart: Vec<_> = apart.collect();
        apart.extend(take(&pages, 0, in_use - pages.in_use.load(Ordering::Relaxed)));
        let idle = pages.idle_pages();
        let falls_at = in_use - 2 * (in_use / FALL_PART);
        while pages.in_use.load(Ordering::Relaxed) >= falls_at {
            free(&pages, [apart.pop().expect("as many as came before")]);
        }
        let came = in_use - pages.in_use.load(Ordering::Relaxed);
        assert_eq!(pages.falls.in_vain.load(Ordering::Relaxed), 1);
        assert_eq!(pages.idle_pages(), idle + came, "it may rise again");
    }
}
