//! The trim policy: decides when so much memory was freed that the caches should shrink.
//!
//! # Concepts
//! A **fall** is a drop of the pages in use by more than a sixth of their peak, and by more than
//! 1 MiB. The peak is the maximum since the last fall. At a fall, `pages/purge.rs` calls a hook
//! that shrinks the object caches, since one cached object can keep a whole page allocated, and
//! then purges idle pages.
//!
//! A **rebound** follows a fall: use rises again to at least seven eighths of the level at which
//! the descent began. After one rebound the threshold of the next fall is a third of the peak,
//! after two or more in a row two thirds. So a program whose use goes up and down regularly keeps
//! its caches.
//!
//! If use keeps falling instead, the threshold is halved at each further fall of that descent, down
//! to a sixth. After a fall at that threshold, `pages/purge.rs` purges idle pages down to a quarter
//! of the minimum bound of `policy.rs`.
//!
//! # Concurrency
//! As in `policy.rs`. Two threads may detect the same fall. Both may report it, and the second may
//! mistake it for a rebound.

use core::sync::atomic::{AtomicUsize, Ordering};

use page_frame::PAGE_SIZE;

/// The minimum size of a fall, in pages: a guess.
const MIN_FALL_PAGES: usize = (1 << 20) / PAGE_SIZE;
/// The basic threshold of a fall is the peak divided by this: a guess.
const FALL_DIVISOR: usize = 6;
/// The threshold is doubled at most this many times.
const MAX_DOUBLINGS: usize = 2;

/// A fall of use.
pub(crate) struct Fall {
    /// Whether the threshold is still raised because of rebounds. The caller then keeps idle
    /// pages.
    pub(crate) may_rebound: bool,
}

/// The pages in use, their peak, and how use fell last.
#[derive(Debug)]
pub(crate) struct TrimPolicy {
    in_use: AtomicUsize,
    /// The maximum of pages in use since the last fall.
    peak: AtomicUsize,
    /// The pages in use at the start of the current descent.
    top: AtomicUsize,
    /// The pages in use at the last fall.
    bottom: AtomicUsize,
    /// How often the threshold was doubled for the last fall: one less at each further fall of a
    /// descent.
    rebounds: AtomicUsize,
    /// The same at the first fall of this descent: consecutive rebounds, at most
    /// [`MAX_DOUBLINGS`].
    rebounds_at_top: AtomicUsize,
    /// Shrinks the caches.
    hook: fn(),
}

impl TrimPolicy {
    /// Makes the policy of a process without pages; its hook does nothing.
    pub(crate) fn new() -> Self {
        let [in_use, peak, top, bottom, rebounds, rebounds_at_top] =
            [const { AtomicUsize::new(0) }; 6];
        Self { in_use, peak, top, bottom, rebounds, rebounds_at_top, hook: || () }
    }

    /// Sets the hook.
    pub(crate) fn with_hook(self, hook: fn()) -> Self {
        Self { hook, ..self }
    }

    /// Calls the hook.
    pub(crate) fn ask_caches(&self) {
        (self.hook)();
    }

    /// Returns the pages in use.
    pub(crate) fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Relaxed)
    }

    /// Counts `pages` allocated pages.
    #[inline]
    pub(crate) fn note_allocated(&self, pages: usize) {
        let in_use = self.in_use.fetch_add(pages, Ordering::Relaxed) + pages;
        if in_use > self.peak.load(Ordering::Relaxed) {
            self.peak.store(in_use, Ordering::Relaxed);
        }
    }

    /// Counts `pages` pages that are about to be free.
    #[inline]
    pub(crate) fn note_freed(&self, pages: usize) {
        self.in_use.fetch_sub(pages, Ordering::Relaxed);
    }

    /// Checks whether use has fallen. If so, records the fall and starts a new peak.
    #[inline]
    pub(crate) fn take_fall(&self) -> Option<Fall> {
        let (in_use, peak) = (self.in_use(), self.peak.load(Ordering::Relaxed));
        if in_use + (peak / FALL_DIVISOR).max(MIN_FALL_PAGES) < peak {
            self.take_fall_from(peak, in_use)
        } else {
            None
        }
    }

    #[cold]
    fn take_fall_from(&self, peak: usize, in_use: usize) -> Option<Fall> {
        let [top, bottom, rebounds, at_top] =
            [&self.top, &self.bottom, &self.rebounds, &self.rebounds_at_top]
                .map(|level| level.load(Ordering::Relaxed));
        let (top, rebounds, at_top) = if top > 0 && peak >= top - top / 8 {
            // Use rose to the top again: the whole last descent was a rebound.
            let more = (at_top + 1).min(MAX_DOUBLINGS);
            (peak, more, more)
        } else if peak > bottom + bottom / 8 {
            // Use rose, but not to the top: a new descent with no history.
            (peak, 0, 0)
        } else {
            // Use continues to fall.
            (top, rebounds.saturating_sub(1), at_top)
        };
        if in_use + ((peak / FALL_DIVISOR).max(MIN_FALL_PAGES) << rebounds) >= peak {
            return None;
        }
        self.top.store(top, Ordering::Relaxed);
        self.bottom.store(in_use, Ordering::Relaxed);
        self.rebounds.store(rebounds, Ordering::Relaxed);
        self.rebounds_at_top.store(at_top, Ordering::Relaxed);
        self.peak.store(in_use, Ordering::Relaxed);
        Some(Fall { may_rebound: rebounds > 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::Pages;
    use crate::purge::policy::MIN_BOUND;
    use crate::test_blocks::{Block, free, halves, take};

    fn new() -> Pages {
        Pages::with_space(1 << 30).expect("address space")
    }

    static FALLS: AtomicUsize = AtomicUsize::new(0);

    /// Frees pages one by one until the hook is called; returns how many.
    fn frees_until_a_fall(pages: &Pages, blocks: &mut Vec<Block>) -> usize {
        FALLS.store(0, Ordering::Relaxed);
        let mut count = 0;
        while FALLS.load(Ordering::Relaxed) == 0 {
            free(pages, [blocks.pop().expect("use falls before all blocks are freed")]);
            count += 1;
        }
        count
    }

    /// A fall is a sixth of the peak, after rebounds a third and then two thirds. In the same
    /// descent the part halves. It starts again after a rise that does not reach the top.
    ///
    /// The test fails after each of these changes of the code:
    /// - a divisor other than 6;
    /// - no minimum of 1 MiB;
    /// - equality in each comparison;
    /// - rebounds not counted, never reset, counted from the last fall of a descent, or counted
    ///   without a rise;
    /// - a part that does not halve in a descent;
    /// - a peak, a top or a bottom that is not updated;
    /// - another tolerance than an eighth.
    #[test]
    fn a_fall_is_a_sixth_and_after_a_rebound_twice_as_much() {
        let pages = new().with_trim_hook(|| _ = FALLS.fetch_add(1, Ordering::Relaxed));
        let mut blocks = take(&pages, 0, 12_000);
        let fell = |blocks: &mut Vec<Block>| frees_until_a_fall(&pages, blocks);
        let rise = |blocks: &mut Vec<Block>, to: usize| {
            blocks.extend(take(&pages, 0, to - blocks.len()));
        };
        assert_eq!(fell(&mut blocks), 2001, "a sixth of 12,000");
        assert_eq!(fell(&mut blocks), 9999 / 6 + 1, "the same descent");
        rise(&mut blocks, 9500);
        assert_eq!(fell(&mut blocks), 9500 / 6 + 1, "a rise below the top");
        // Up to the top, less an eighth.
        rise(&mut blocks, 9500 - 1187);
        assert_eq!(fell(&mut blocks), 2 * (8313 / 6) + 1, "a rebound");
        assert_eq!(fell(&mut blocks), 5542 / 6 + 1, "the same descent");
        rise(&mut blocks, 8313 - 1039);
        assert_eq!(fell(&mut blocks), 4 * (7274 / 6) + 1, "a second rebound");
        assert_eq!(fell(&mut blocks), 2 * (2425 / 6) + 1, "the same descent");
        assert_eq!(fell(&mut blocks), 1616 / 6 + 1, "the same descent again");
        rise(&mut blocks, 7274 - 909);
        assert_eq!(fell(&mut blocks), 4 * (6365 / 6) + 1, "the largest part");
        // A rise by an eighth does not count.
        rise(&mut blocks, 2124 + 265);
        assert_eq!(fell(&mut blocks), 2 * (2389 / 6) + 1, "the same descent");
        rise(&mut blocks, 1592 + 199 + 1);
        assert_eq!(fell(&mut blocks), 1792 / 6 + 1, "a rise below the top");
        rise(&mut blocks, 1792 - 224);
        assert_eq!(fell(&mut blocks), 2 * (1568 / 6) + 1, "a rebound to the last top");
        rise(&mut blocks, 1568 - 196 - 1);
        assert_eq!(fell(&mut blocks), MIN_FALL_PAGES + 1, "a rise below the top");
        // 1 MiB at least.
        free(&pages, blocks.drain(1000..));
        rise(&mut blocks, 1200);
        pages.trim_policy.peak.store(1200, Ordering::Relaxed);
        pages.trim_policy.top.store(0, Ordering::Relaxed);
        pages.trim_policy.bottom.store(1000, Ordering::Relaxed);
        assert_eq!(fell(&mut blocks), MIN_FALL_PAGES + 1);
        rise(&mut blocks, 1200);
        assert_eq!(fell(&mut blocks), 2 * MIN_FALL_PAGES + 1, "a rebound");
        let pages = pages.without_purging();
        FALLS.store(0, Ordering::Relaxed);
        free(&pages, blocks);
        assert_eq!(FALLS.load(Ordering::Relaxed), 0, "without purging the hook is not called");
    }

    /// The test fails after each of these changes of the code: no purge after a fall; a purge of
    /// more or fewer pages; the same purge after a rebound.
    #[test]
    fn after_a_fall_without_rebound_a_quarter_of_the_least_bound_stays() {
        let pages = new();
        let (separated, _) = halves(take(&pages, 0, 2 * MIN_BOUND));
        let in_use = pages.trim_policy.in_use();
        let mut blocks = separated.into_iter();
        let fall_threshold = in_use - in_use / FALL_DIVISOR;
        while pages.trim_policy.in_use() >= fall_threshold {
            free(&pages, [blocks.next().expect("half of the blocks are more than a sixth")]);
        }
        assert_eq!(pages.idle_pages(), MIN_BOUND / 4);
        // Up again, and down by a third.
        let mut blocks: Vec<_> = blocks.collect();
        blocks.extend(take(&pages, 0, in_use - pages.trim_policy.in_use()));
        let idle = pages.idle_pages();
        let fall_threshold = in_use - 2 * (in_use / FALL_DIVISOR);
        while pages.trim_policy.in_use() >= fall_threshold {
            free(&pages, [blocks.pop().expect("as many blocks as before")]);
        }
        let freed = in_use - pages.trim_policy.in_use();
        assert_eq!(pages.trim_policy.rebounds.load(Ordering::Relaxed), 1);
        assert_eq!(pages.idle_pages(), idle + freed, "use may rise again");
    }
}
