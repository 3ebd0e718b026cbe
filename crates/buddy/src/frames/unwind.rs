//! Guards that return frames to their areas while a panic of a trace or a fault hook unwinds.
//!
//! # Concepts
//! Traces ([`Trace`](crate::Trace)) and fault hooks are safe code of the user, called in the middle
//! of allocations and frees. When one of them panics, no caller receives the frames that the call
//! had taken, so a guard returns them to their areas. The guards call no trace and no hook: a
//! second panic would abort.
//!
//! # Costs
//! Almost nothing without a panic: the call forgets its guard, or drops a [`FreeRestOnUnwind`] that
//! is empty.

use page_frame::{FrameNumber, FrameRange, Order};

use crate::bitmap::{Bitmap, block_range};
use crate::frames::tags::Tags;

/// Frames that the current call has taken and not handed over yet.
pub(crate) struct FreeOnUnwind<'b, 'm> {
    bitmap: &'b Bitmap<'m>,
    range: FrameRange,
}

impl<'b, 'm> FreeOnUnwind<'b, 'm> {
    /// Guards `range`, all of whose frames are taken.
    #[inline(always)]
    pub(crate) fn new(bitmap: &'b Bitmap<'m>, range: FrameRange) -> Self {
        Self { bitmap, range }
    }

    /// Sets the end of the guarded range: the frames below it are taken.
    #[inline(always)]
    pub(crate) fn extend_to(&mut self, end: FrameNumber) {
        self.range.end = end;
    }

    /// Ends the guard when the frames have an owner; returns them.
    #[inline(always)]
    pub(crate) fn forget(self) -> FrameRange {
        let range = self.range;
        core::mem::forget(self);
        range
    }
}

impl Drop for FreeOnUnwind<'_, '_> {
    #[cold]
    fn drop(&mut self) {
        // `None` when a stray bit keeps an area from being split. Then the frames stay taken and
        // are lost, but they never get a second owner.
        _ = self.bitmap.free_range(self.range);
    }
}

/// Frames of one word that the current call has taken, for a CPU slot that does not have them yet.
pub(crate) struct FreeWordOnUnwind<'b, 'm> {
    bitmap: &'b Bitmap<'m>,
    word: FrameNumber,
    /// A bit for each frame.
    frames: usize,
}

impl<'b, 'm> FreeWordOnUnwind<'b, 'm> {
    /// Guards the frames that are set in `frames` of the word at `word`.
    #[inline(always)]
    pub(crate) fn new(bitmap: &'b Bitmap<'m>, word: FrameNumber, frames: usize) -> Self {
        Self { bitmap, word, frames }
    }

    /// Ends the guard when the frames have an owner.
    #[inline(always)]
    pub(crate) fn forget(self) {
        core::mem::forget(self);
    }
}

impl Drop for FreeWordOnUnwind<'_, '_> {
    #[cold]
    fn drop(&mut self) {
        _ = self.bitmap.free_word(self.word, self.frames);
    }
}

/// Blocks that the current call has allocated in bulk. When it unwinds, its caller does not learn
/// their number.
pub(crate) struct FreeAllOnUnwind<'a, 'm> {
    bitmap: &'a Bitmap<'m>,
    tags: &'a Tags<'m>,
    order: Order,
    blocks: &'a mut [FrameNumber],
    /// Number of `blocks` that are allocated.
    allocated: usize,
}

impl<'a, 'm> FreeAllOnUnwind<'a, 'm> {
    /// Guards the first `allocated` of `blocks`.
    #[inline(always)]
    pub(super) fn new(
        bitmap: &'a Bitmap<'m>,
        tags: &'a Tags<'m>,
        order: Order,
        blocks: &'a mut [FrameNumber],
        allocated: usize,
    ) -> Self {
        Self { bitmap, tags, order, blocks, allocated }
    }

    /// Returns whether all blocks are allocated.
    #[inline(always)]
    pub(crate) fn is_full(&self) -> bool {
        self.allocated == self.blocks.len()
    }

    /// Adds an allocated block, and sets its tag. The guard is not full.
    #[inline(always)]
    pub(crate) fn push(&mut self, block: FrameNumber) {
        self.tags.set_block(block, self.order);
        self.blocks[self.allocated] = block;
        self.allocated += 1;
    }

    /// Ends the guard when the caller has the blocks; returns their number.
    #[inline(always)]
    pub(crate) fn forget(self) -> usize {
        let allocated = self.allocated;
        core::mem::forget(self);
        allocated
    }
}

impl Drop for FreeAllOnUnwind<'_, '_> {
    #[cold]
    fn drop(&mut self) {
        for block in &self.blocks[..self.allocated] {
            self.tags.clear_block(*block, self.order);
            _ = self.bitmap.free_range(block_range(*block, self.order));
        }
    }
}

/// Blocks whose bits are set and that no CPU slot holds: this call is moving them out of a slot or
/// into one.
pub(crate) struct FreeRestOnUnwind<'a, 'm> {
    pub(super) bitmap: &'a Bitmap<'m>,
    pub(super) order: Order,
    /// First frames.
    pub(crate) rest: &'a [usize],
}

impl Drop for FreeRestOnUnwind<'_, '_> {
    #[inline]
    fn drop(&mut self) {
        // Empty unless a panic unwinds. A block that is free already is not reported: a panic is
        // under way.
        for start in self.rest {
            _ = self.bitmap.free_block(FrameNumber::new(*start), self.order);
        }
    }
}

/// Turns a panic into an abort, where the caller could not find out whether the call had an effect.
pub(crate) struct AbortOnUnwind(&'static str);

impl AbortOnUnwind {
    /// Guards until [`forget`](Self::forget); `reason` is the message of the abort.
    #[inline(always)]
    pub(crate) fn new(reason: &'static str) -> Self {
        Self(reason)
    }

    /// Ends the guard.
    #[inline(always)]
    pub(crate) fn forget(self) {
        core::mem::forget(self);
    }
}

impl Drop for AbortOnUnwind {
    #[cold]
    fn drop(&mut self) {
        panic!("{}", self.0);
    }
}
