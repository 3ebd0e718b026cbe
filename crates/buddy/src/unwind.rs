//! What happens to frames when an observer or a fault hook panics: guards that act while the stack unwinds.
//!
//! # Concepts
//! Observers ([`Observe`](crate::Observe)) and fault hooks are safe code of somebody else, called in the middle of allocations and
//! frees. When one of them panics, nobody receives the frames that the call had taken, so a guard returns them to their areas.
//! The guards call nobody: a second panic would abort.
//!
//! # Costs
//! Nothing on the way without a panic: a guard is forgotten, and its destructor is the landing pad alone.

use page_frame::{Cpu, FrameNumber, FrameRange, Order, Tag};

use crate::bitmap::Zone;
use crate::bits::WORD_BITS;
use crate::{FramePool, Observe};

/// Frames that the current call has taken and not passed on yet.
pub(crate) struct FreeOnUnwind<'z, 'm> {
    zone: &'z Zone<'m>,
    range: FrameRange,
}

impl<'z, 'm> FreeOnUnwind<'z, 'm> {
    /// Guards `range`, all of whose frames are taken.
    #[inline(always)]
    pub(crate) fn new(zone: &'z Zone<'m>, range: FrameRange) -> Self {
        Self { zone, range }
    }

    /// Sets the end of the guarded range: the frames below it are taken.
    #[inline(always)]
    pub(crate) fn extend_to(&mut self, end: FrameNumber) {
        self.range.end = end;
    }

    /// Ends the guard, as the frames have an owner; returns them.
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
        // `None` when a stray take keeps an area from being split. Then the frames stay taken: they are lost, but
        // no caller gets them.
        _ = self.zone.release(self.range);
    }
}

/// Frames of one word that the current call has taken, for a CPU slot that does not have them yet.
pub(crate) struct FreeWordOnUnwind<'z, 'm> {
    zone: &'z Zone<'m>,
    word: FrameNumber,
    /// A bit for each frame.
    frames: usize,
}

impl<'z, 'm> FreeWordOnUnwind<'z, 'm> {
    /// Guards the frames that are set in `frames` of the word at `word`.
    #[inline(always)]
    pub(crate) fn new(zone: &'z Zone<'m>, word: FrameNumber, frames: usize) -> Self {
        Self { zone, word, frames }
    }

    /// Ends the guard: the frames have an owner.
    #[inline(always)]
    pub(crate) fn forget(self) {
        core::mem::forget(self);
    }
}

impl Drop for FreeWordOnUnwind<'_, '_> {
    #[cold]
    fn drop(&mut self) {
        if let Some((place, section)) = self.zone.place(self.word) {
            section.clear(place.area, place.frame / WORD_BITS, self.frames);
        }
    }
}

/// Blocks that the current call has allocated, and the number of which its caller does not learn when it unwinds.
pub(crate) struct FreeAllOnUnwind<'a, 'm, C: Cpu, O: Observe> {
    pub(crate) pool: &'a FramePool<'m, C, O>,
    pub(crate) order: Order,
    pub(crate) blocks: &'a mut [FrameNumber],
    /// How many of `blocks` are allocated.
    pub(crate) had: usize,
}

impl<C: Cpu, O: Observe> FreeAllOnUnwind<'_, '_, C, O> {
    /// Notes that `block` is allocated. There is room for it.
    #[inline(always)]
    pub(crate) fn push(&mut self, block: FrameNumber) {
        self.pool.set_tag(block, Tag::block(self.order));
        self.blocks[self.had] = block;
        self.had += 1;
    }

    /// Ends the guard, as the caller has the blocks; returns how many.
    #[inline(always)]
    pub(crate) fn forget(self) -> usize {
        let had = self.had;
        core::mem::forget(self);
        had
    }
}

impl<C: Cpu, O: Observe> Drop for FreeAllOnUnwind<'_, '_, C, O> {
    #[cold]
    fn drop(&mut self) {
        for block in &self.blocks[..self.had] {
            self.pool.set_tag(*block, Tag::NONE);
            let end = FrameNumber::new(block.get() + self.order.pages());
            drop(FreeOnUnwind::new(&self.pool.zone, FrameRange::new(*block, end)));
        }
    }
}

/// Blocks whose bits are set and that no CPU slot holds: those of a slot that is drained, or of one that is filled.
pub(crate) struct FreeRestOnUnwind<'a, 'z, 'm> {
    pub(crate) zone: &'z Zone<'m>,
    pub(crate) order: Order,
    /// First frames.
    pub(crate) rest: &'a [usize],
}

impl Drop for FreeRestOnUnwind<'_, '_, '_> {
    #[inline]
    fn drop(&mut self) {
        // Empty but for a panic. A block that is free already is reported by nobody: the panic has been reported.
        for start in self.rest {
            _ = self.zone.free_block(FrameNumber::new(*start), self.order.get().into());
        }
    }
}

/// Turns a panic into an abort, where the caller could not know whether the call had an effect.
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
