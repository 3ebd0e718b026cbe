//! Huge pages: which areas (2 MiB) of the space the system backs by one page of that size.
//!
//! # Concepts
//! A huge page saves look-ups in the CPU's translation caches, but it takes 2 MiB whatever is used of them, and where only parts
//! are free nothing goes back to the system. So:
//! - Sections are opened without them, whatever the system's default is: a small heap is of small pages.
//! - An area becomes huge when it is **dense** (all of its frames are touched, so no memory is added) and **old** (it was dense at
//!   the look before), and the heap is not small.
//! - Before parts of it are given back it is small again, or the system would make it whole in the background.
//!
//! A **look** comes with every 32 MiB of pages that are handed out. The system copies the area into the huge page then and there
//! (`MADV_COLLAPSE`, Linux 6.1); where it cannot, areas are left to its own thread.
//!
//! # Concurrency
//! Looking and giving back exclude each other (`is_giving`). Whoever uses the memory notices nothing.

use core::sync::atomic::Ordering;

use page_frame::{FrameNumber, FrameRange, PAGE_SIZE};

use crate::Pages;

/// The frames of an area.
const AREA: usize = (2 << 20) / PAGE_SIZE;
/// Pages handed out from look to look.
const LOOK_PAGES: usize = (32 << 20) / PAGE_SIZE;
/// No area of a heap of fewer pages than this in use is made huge: a guess.
const SMALL_HEAP_PAGES: usize = (64 << 20) / PAGE_SIZE;
/// As many areas at most are made huge in a look, as the one who looks waits for it: a quarter of a millisecond each.
const MOST_IN_A_LOOK: usize = 16;

impl Pages {
    /// Counts pages that are handed out; looks for areas to make huge when there were enough.
    #[inline]
    pub(crate) fn count_to_look(&self, pages: usize) {
        // Relaxed, and not in one step: counts may be lost, which puts a look off.
        let handed = self.handed.load(Ordering::Relaxed) + pages;
        self.handed.store(handed, Ordering::Relaxed);
        if handed >= LOOK_PAGES {
            self.handed.store(0, Ordering::Relaxed);
            self.look_for_huge();
        }
    }

    #[cold]
    fn look_for_huge(&self) {
        // Relaxed: a level.
        if self.in_use.load(Ordering::Relaxed) < SMALL_HEAP_PAGES {
            return;
        }
        // Acquire: pairs with the Release below and in `give_back`.
        if self.is_giving.swap(true, Ordering::Acquire) {
            return;
        }
        let open = self.locked(|sections| *sections).in_buddy();
        let mut left = MOST_IN_A_LOOK;
        for area in open.flat_map(areas).filter(|area| self.touched.count(*area) == AREA) {
            let number = number_of(area);
            let is_old = self.dense.mark(number) == 1;
            if is_old && left > 0 && self.huge.count(number) == 0 {
                left -= 1;
                self.huge.mark(number);
                self.space.make_huge(area);
            }
        }
        self.is_giving.store(false, Ordering::Release);
    }

    /// Makes the area that `block` lies in small, as a part of it is about to be given back. By who holds `is_giving`.
    pub(crate) fn make_small(&self, block: FrameRange) {
        for area in areas(block) {
            let number = number_of(area);
            self.dense.clear(number);
            if self.huge.clear(number) == 1 {
                self.space.make_small(area);
            }
        }
    }
}

/// Returns the numbers of all areas of `frames`, as the bits that are kept of them are numbered.
pub(crate) fn numbers(frames: FrameRange) -> FrameRange {
    let end = frames.end.get().div_ceil(AREA);
    FrameRange::new(FrameNumber::new(frames.start.get() / AREA), FrameNumber::new(end))
}

fn number_of(area: FrameRange) -> FrameRange {
    let number = area.start.get() / AREA;
    FrameRange::new(FrameNumber::new(number), FrameNumber::new(number + 1))
}

/// Iterates over the areas that `frames` has a part of.
fn areas(frames: FrameRange) -> impl Iterator<Item = FrameRange> {
    let numbers = numbers(frames);
    (numbers.start.get()..numbers.end.get()).map(|number| {
        FrameRange::new(FrameNumber::new(number * AREA), FrameNumber::new((number + 1) * AREA))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use page_frame::{Order, PageBlock, PageSource};

    fn take(pages: &Pages, order: u8, count: usize) -> Vec<PageBlock> {
        let order = Order::new(order).expect("an order");
        (0..count).map(|_| pages.allocate(order).expect("address space")).collect()
    }

    fn free(pages: &Pages, blocks: Vec<PageBlock>) {
        // SAFETY: from these pages, and not used any more.
        blocks.into_iter().for_each(|block| unsafe { pages.free(block) });
    }

    fn huge_areas(pages: &Pages) -> usize {
        let first = pages.locked(|sections| *sections).first();
        pages.huge.count(numbers(first))
    }

    #[test]
    fn areas_become_huge_when_they_are_dense_and_old_and_the_heap_is_not_small() {
        let pages = Pages::with_space(1 << 30).expect("address space");
        // 60 MiB, handed out again and again: looks come, and the heap is small.
        for _ in 0..3 {
            let blocks = take(&pages, 4, 960);
            free(&pages, blocks);
        }
        assert_eq!(huge_areas(&pages), 0, "a small heap");
        let mut blocks = take(&pages, 4, 3072);
        let huge = huge_areas(&pages);
        assert!((10..=90).contains(&huge), "{huge} of 96 areas, in steps");
        for block in &mut blocks {
            let start = block.start();
            // SAFETY: ours, of 16 pages.
            unsafe { start.write_bytes(3, 16 * PAGE_SIZE) };
        }
        // What is given back is small again, and reads as zero.
        free(&pages, blocks);
        pages.give_back(0);
        assert_eq!((pages.idle_pages(), huge_areas(&pages)), (0, 0));
        let blocks = take(&pages, 9, 4);
        assert!(blocks.iter().all(PageBlock::is_zero));
        // SAFETY: ours, of 512 pages.
        assert_eq!(unsafe { blocks[0].start().read() }, 0);
        free(&pages, blocks);
    }
}
