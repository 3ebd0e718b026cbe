//! The events of the trace: the splits and merges that a buddy with lists would have made for the
//! same change of bits. They are computed after the change.

use page_frame::{FrameNumber, FrameRange, Order};

use crate::bitmap::bits::{AREA_FRAMES, WORD_ORDER, canonical_blocks};
use crate::frames::Frames;
use crate::trace::Trace;

impl<T: Trace> Frames<'_, T> {
    /// Calls the trace for the block of `order` at `start`, which was taken.
    #[inline]
    pub(crate) fn trace_take(&self, start: FrameNumber, order: Order) {
        if T::IS_ENABLED {
            self.trace.take(start, order.pages());
        }
        if T::IS_ENABLED && T::HAS_BLOCK_EVENTS {
            self.trace.split(self.levels_around(start, order, |_| true));
            let areas = order.pages() / AREA_FRAMES;
            if areas > 0 {
                self.trace.claim(areas);
            }
        }
    }

    /// Calls the trace for the frames of `range`, which were freed as the fewest blocks, lowest
    /// first.
    #[inline]
    pub(crate) fn trace_free_range(&self, range: FrameRange) {
        if T::IS_ENABLED {
            self.trace.free(range.start, range.frames());
        }
        if T::IS_ENABLED && T::HAS_BLOCK_EVENTS {
            let merges = range.blocks().map(|(start, order)| {
                // A buddy of which a part is freed after this block was not free yet.
                let end = start.get() + order.pages();
                let was_free = |buddy: FrameNumber| buddy.get() < end || buddy >= range.end;
                self.levels_around(start, order, was_free)
            });
            self.trace.merge(merges.sum());
        }
    }

    /// Calls the trace for the frames set in `frames` of the word at `word`, which a CPU slot gets
    /// in `pieces` blocks.
    #[inline]
    pub(super) fn trace_take_word(&self, word: FrameNumber, frames: usize, pieces: usize) {
        if T::IS_ENABLED {
            self.trace.take(word, frames.count_ones() as usize);
        }
        if T::IS_ENABLED && T::HAS_BLOCK_EVENTS {
            let taken = self.bitmap.taken_word(word);
            let before = taken & !frames;
            let around = if before == 0 { self.levels_around_word(word) } else { 0 };
            let blocks = canonical_blocks(taken) + pieces + around;
            self.trace.split(blocks.saturating_sub(canonical_blocks(before)));
            self.trace.transfer(frames.count_ones() as usize);
        }
    }

    /// Calls the trace for the frames set in `frames` of the word at `word`, which were freed in
    /// `pieces` blocks.
    #[inline]
    pub(super) fn trace_free_word(&self, word: FrameNumber, frames: usize, pieces: usize) {
        if T::IS_ENABLED {
            self.trace.free(word, frames.count_ones() as usize);
        }
        if T::IS_ENABLED && T::HAS_BLOCK_EVENTS {
            let taken = self.bitmap.taken_word(word);
            let around = if taken == 0 { self.levels_around_word(word) } else { 0 };
            let before = canonical_blocks(taken | frames);
            self.trace.merge((before + pieces + around).saturating_sub(canonical_blocks(taken)));
            self.trace.transfer(frames.count_ones() as usize);
        }
    }

    fn levels_around_word(&self, word: FrameNumber) -> usize {
        let order = Order::new(WORD_ORDER as u8).expect("a word is smaller than the largest block");
        self.levels_around(word, order, |_| true)
    }

    /// Returns by how many orders the canonical block around the block of `order` at `start` is
    /// larger than it. The block itself counts as free, and of its buddies only those for which
    /// `was_free` returns true.
    fn levels_around(
        &self,
        mut start: FrameNumber,
        order: Order,
        was_free: impl Fn(FrameNumber) -> bool,
    ) -> usize {
        let mut around = order;
        while around < T::MAX_ORDER {
            let buddy = start.buddy(around);
            if !was_free(buddy) || !self.bitmap.is_free(buddy, around) {
                break;
            }
            start = start.min(buddy);
            around = around.larger().expect("below the largest by the loop's condition");
        }
        around.index() - order.index()
    }
}
