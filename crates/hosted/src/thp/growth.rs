//! Huge pages behind the fresh areas of a heap that grows.
//!
//! # Concepts
//! A heap that grows pays a page fault for each page that it touches for the first time. One fault
//! that maps a huge page replaces 512 of them, and takes about a fifth of their time. Its price is
//! memory: all 2 MiB are resident at once, however few of them are used. So:
//! - A fresh area gets a huge page when its first block is allocated, before the program touches
//!   it. The area is then **filling**, until seven eighths of it were allocated.
//! - One area may be filling for each 32 MiB in use (or what the program chooses), eight at most.
//!   So a small heap has small pages, and huge pages add about a sixteenth to a large one at most.
//!   Blocks of at least half a mebibyte do not count: the program may touch little of them.
//! - A huge page that was slow, or did not come, is a failure: the system has to move other memory
//!   to make one, or makes none. Each failure in a row doubles the number of areas that get small
//!   pages before the next attempt.
//!
//! For the same reason such a block gets no huge page here.

use core::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};

use page_frame::{FrameNumber, FrameRange, PAGE_SIZE};

use crate::space::SMALL_BLOCK;
use crate::space::areas::AREA;
use crate::thp::backoff::Backoff;

/// The pages in use for each area that is filling, unless the program chooses: 32 MiB.
const PAGES_PER_AREA: usize = (32 << 20) / PAGE_SIZE;
/// The maximum number of areas that are filling.
const MAX_FILLING: usize = 8;
/// A huge area is filling while fewer of its frames were allocated.
pub(super) const FULL: usize = AREA / 8 * 7;
/// No area: an entry that is free.
const NONE: usize = usize::MAX;

/// The areas that got a huge page when they were opened, and may still be filling.
#[derive(Debug)]
pub(crate) struct Growth {
    /// Their numbers, or [`NONE`].
    filling: [AtomicUsize; MAX_FILLING],
    backoff: Backoff,
    /// One area may be filling for each so many pages in use.
    pages_per_area: usize,
    /// The pages of blocks that are not small.
    large: AtomicIsize,
}

impl Growth {
    /// Makes the state before any area is opened.
    pub(super) const fn new() -> Self {
        let filling = [const { AtomicUsize::new(NONE) }; MAX_FILLING];
        let (backoff, large) = (Backoff::new(), AtomicIsize::new(0));
        Self { filling, backoff, pages_per_area: PAGES_PER_AREA, large }
    }

    /// Lets one area be filling for each `pages` pages in use; none for `usize::MAX`.
    pub(super) fn set_pages_per_area(&mut self, pages: usize) {
        self.pages_per_area = pages.max(1);
    }

    /// Notes that a block of `before` pages has `after` pages now; zero before it is allocated, and
    /// after it is freed.
    #[inline]
    pub(super) fn note_block(&self, before: usize, after: usize) {
        let counted = |pages: usize| if pages < SMALL_BLOCK { 0 } else { pages as isize };
        let change = counted(after) - counted(before);
        if change != 0 {
            // Relaxed: a count that publishes nothing.
            self.large.fetch_add(change, Ordering::Relaxed);
        }
    }

    /// Returns whether one more area may get a huge page in a heap with `in_use` pages in use.
    /// `is_filling` tells whether an area, by number, still has a huge page that is not full.
    pub(super) fn may_add(&self, in_use: usize, is_filling: impl Fn(FrameRange) -> bool) -> bool {
        let large = usize::try_from(self.large.load(Ordering::Relaxed)).unwrap_or(0);
        let most = (in_use.saturating_sub(large) / self.pages_per_area).min(MAX_FILLING);
        // First: most heaps are too small for any.
        if most == 0 {
            return false;
        }
        // Relaxed, here and below: the numbers publish nothing. Threads that do this at the same
        // time may lose an entry, and so exceed the limit.
        let mut filling = 0;
        for entry in &self.filling {
            let number = entry.load(Ordering::Relaxed);
            if number == NONE {
                continue;
            }
            if is_filling(FrameRange::new(FrameNumber::new(number), FrameNumber::new(number + 1))) {
                filling += 1;
            } else {
                entry.store(NONE, Ordering::Relaxed);
            }
        }
        filling < most && self.backoff.may_try()
    }

    /// Notes that an area, by number, was opened for a huge page, and whether that failed.
    pub(super) fn add(&self, number: FrameRange, has_failed: bool) {
        if let Some(free) = self.filling.iter().find(|it| it.load(Ordering::Relaxed) == NONE) {
            free.store(number.start.get(), Ordering::Relaxed);
        }
        self.backoff.note(has_failed);
    }

    #[cfg(test)]
    pub(super) fn is_backing_off(&self) -> bool {
        self.backoff.is_waiting()
    }
}
