//! Checks that the frames without an owner are exactly the frames that are free in the buddy.

use buddy::Trace;
use page_frame::{Cpu, FrameRange, Order};

use super::{Company, Users};
use crate::common::{Simulated, range};

impl Users {
    /// Asserts that in the buddy, whose slots are drained, exactly the frames without an owner are
    /// free.
    pub fn assert_free<C: Cpu, T: Trace, const K: bool>(&self, buddy: &Simulated<C, T, K>) {
        let mut free = vec![false; self.taken.borrow().len()];
        for (start, size) in buddy.free_blocks() {
            free[start.get()..][..size.pages()].fill(true);
        }
        for frames in self.ranges.borrow().iter() {
            let numbers = frames.start.get()..frames.end.get();
            let taken = &self.taken.borrow()[numbers.clone()];
            for (at, (free, taken)) in free[numbers].iter().zip(taken).enumerate() {
                assert_eq!(*free, !taken, "frame {}", frames.start.get() + at);
            }
        }
        assert_eq!(free.iter().filter(|free| **free).count(), buddy.free_frames_count());
    }

    /// Asserts that all free blocks of `size` can be allocated, and frees them.
    pub fn assert_obtainable<C: Cpu, T: Trace, const K: bool>(
        &self,
        buddy: &Simulated<C, T, K>,
        size: Order,
    ) {
        let expected = self.count_free(size);
        let blocks: Vec<_> = (0..).map_while(|_| buddy.allocate_frames(size).ok()).collect();
        assert_eq!(blocks.len(), expected, "{size:?}");
        for block in blocks {
            assert!(self.is_free(block.get()..block.get() + size.pages()));
            buddy.free_frames(block, size).expect("ours");
        }
    }

    pub(super) fn assert_none(&self, size: Order) {
        if self.company == Company::Alone {
            assert_eq!(self.count_free(size), 0, "a block of {size:?} is free");
        }
    }

    /// Returns the number of aligned blocks of `size` without an owner.
    pub(super) fn count_free(&self, size: Order) -> usize {
        let pages = size.pages();
        let blocks = |own: &FrameRange| {
            let first = own.start.get().next_multiple_of(pages);
            let starts = (first..own.end.get()).step_by(pages);
            let fitting = starts.filter(|start| start + pages <= own.end.get());
            fitting.filter(|start| self.is_free(*start..start + pages)).count()
        };
        self.ranges.borrow().iter().map(blocks).sum()
    }

    /// Returns whether `frames` exist and have no owner.
    pub(super) fn is_free(&self, frames: std::ops::Range<usize>) -> bool {
        let asked = range(frames.start, frames.end);
        let is_there = self.ranges.borrow().iter().any(|own| own.intersection(asked) == asked);
        is_there && self.taken.borrow()[frames].iter().all(|taken| !taken)
    }
}
