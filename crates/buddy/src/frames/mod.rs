//! The frames that all CPUs share: the bitmap with the tags, the deferred frees, the trace and the
//! fault hook.
//!
//! # Concepts
//! Every operation here changes bits and then calls the trace. While the trace runs, a guard
//! (`unwind.rs`) holds the frames that have no owner yet. `events.rs` computes the events,
//! `reconcile.rs` handles the deferred frees, and `misuse.rs` finds the fault of a free that was
//! refused.

use page_frame::{Fault, FaultHook, FaultKind, FrameNumber, FrameRange, Order, panic_on_fault};

use crate::bitmap::bits::{AREA_FRAMES, WORD_BITS, WORD_ORDER, mask};
use crate::bitmap::home::Home;
use crate::bitmap::placement::Mobility;
use crate::bitmap::{Bitmap, area_parts, block_range};
use crate::frames::deferred_free::DeferredFrees;
use crate::frames::tags::Tags;
use crate::frames::unwind::{FreeAllOnUnwind, FreeOnUnwind, FreeRestOnUnwind, FreeWordOnUnwind};
use crate::trace::Trace;

pub(crate) mod area_tags;
pub(crate) mod blocks;
pub(crate) mod deferred_free;
mod events;
pub(crate) mod misuse;
mod reconcile;
pub(crate) mod tags;
pub(crate) mod unwind;

/// The shared part of an allocator.
#[derive(Debug)]
pub(crate) struct Frames<'m, T> {
    bitmap: Bitmap<'m>,
    tags: Tags<'m>,
    deferred: DeferredFrees<'m>,
    fault_hook: FaultHook,
    trace: T,
}

impl<'m> Frames<'m, ()> {
    /// Joins the parts, without a trace. Faults panic.
    pub(crate) fn new(bitmap: Bitmap<'m>, tags: Tags<'m>, deferred: DeferredFrees<'m>) -> Self {
        Self { bitmap, tags, deferred, fault_hook: panic_on_fault, trace: () }
    }

    /// Sets the trace.
    pub(crate) fn with_trace<T: Trace>(self, trace: T) -> Frames<'m, T> {
        let Self { bitmap, tags, deferred, fault_hook, .. } = self;
        Frames { bitmap, tags, deferred, fault_hook, trace }
    }
}

impl<'m, T> Frames<'m, T> {
    #[inline(always)]
    pub(crate) fn bitmap(&self) -> &Bitmap<'m> {
        &self.bitmap
    }

    #[inline(always)]
    pub(crate) fn tags(&self) -> &Tags<'m> {
        &self.tags
    }

    pub(crate) fn deferred(&self) -> &DeferredFrees<'m> {
        &self.deferred
    }

    pub(crate) const fn trace(&self) -> &T {
        &self.trace
    }

    pub(crate) fn set_fault_hook(&mut self, hook: FaultHook) {
        self.fault_hook = hook;
    }

    /// Calls the fault hook.
    pub(crate) fn report(&self, fault: &Fault) {
        (self.fault_hook)(fault);
    }

    /// Reports a double free that only the bits reveal: two CPUs freed one block at the same time,
    /// and both saw its tag.
    #[cold]
    pub(crate) fn report_double_free(&self, frame: FrameNumber) {
        self.report(&Fault::at_frame(FaultKind::DoubleFree, frame));
    }

    /// Guards `range`, all of whose frames are taken, against a panic of the trace.
    #[inline(always)]
    pub(crate) fn guard(&self, range: FrameRange) -> FreeOnUnwind<'_, 'm> {
        FreeOnUnwind::new(&self.bitmap, range)
    }

    /// Guards the first `allocated` of `blocks` against a panic of the trace.
    #[inline(always)]
    pub(crate) fn bulk_guard<'a>(
        &'a self,
        order: Order,
        blocks: &'a mut [FrameNumber],
        allocated: usize,
    ) -> FreeAllOnUnwind<'a, 'm> {
        FreeAllOnUnwind::new(&self.bitmap, &self.tags, order, blocks, allocated)
    }

    /// Guards `blocks` of `order`, which are taken and in no CPU slot, against a panic of the trace
    /// or the fault hook.
    #[inline(always)]
    pub(crate) fn rest_guard<'a>(
        &'a self,
        order: Order,
        blocks: &'a [usize],
    ) -> FreeRestOnUnwind<'a, 'm> {
        FreeRestOnUnwind { bitmap: &self.bitmap, order, rest: blocks }
    }
}

/// Taking frames.
impl<T: Trace> Frames<'_, T> {
    /// Takes a block of `order` from the area that the hints prefer, for the slot of `home`.
    pub(crate) fn take_hinted(
        &self,
        order: Order,
        mobility: Mobility,
        home: &mut Home,
    ) -> Option<FrameNumber> {
        let taken = self.bitmap.take_hinted(order, mobility, home)?;
        if taken.was_empty_area {
            self.deferred.expect_empty(taken.start);
        }
        self.trace_taken(Some(taken.start), order)
    }

    /// Takes a block of `order` as the textbook does: from the smallest free block that fits, and
    /// among those from the lowest.
    pub(crate) fn take_best_fit(&self, order: Order) -> Option<FrameNumber> {
        let mut best: Option<(FrameNumber, Order)> = None;
        for (frame, found) in blocks::free_blocks(&self.bitmap) {
            if found >= order && best.is_none_or(|(_, least)| found < least) {
                best = Some((frame, found));
            }
            if found == order {
                break;
            }
        }
        let (frame, _) = best?;
        self.trace_taken(self.bitmap.take_at(frame, order).then_some(frame), order)
    }

    /// Takes a block of `order` in one pass over all areas.
    pub(crate) fn take_in_one_pass(&self, order: Order) -> Option<FrameNumber> {
        self.trace_taken(self.bitmap.take_in_one_pass(order), order)
    }

    /// Takes a block of `order` in a bounded number of passes over all areas, see
    /// [`Bitmap::take_anywhere`].
    pub(crate) fn take_anywhere(&self, order: Order) -> Option<FrameNumber> {
        let is_reconciling = |frame| self.deferred.is_reconciling(frame);
        self.trace_taken(self.bitmap.take_anywhere(order, is_reconciling), order)
    }

    /// Takes exactly the block of `order` at `frame`; returns whether it existed and all of it was
    /// free.
    pub(crate) fn take_at(&self, frame: FrameNumber, order: Order) -> bool {
        // `Bitmap::is_free` comes first, so that the call writes nothing if the block is not free.
        let is_free = frame.is_aligned_to(order)
            && self.bitmap.is_free(frame, order)
            && self.bitmap.take_at(frame, order);
        self.trace_taken(is_free.then_some(frame), order).is_some()
    }

    /// Takes exactly the frames of `range`, block by block; returns whether all of them were free.
    /// Otherwise none stays taken.
    pub(crate) fn take_range(&self, range: FrameRange) -> bool {
        let mut taken = self.guard(FrameRange::new(range.start, range.start));
        for (part, frames) in area_parts(range) {
            let end = FrameNumber::new(part.get() + frames);
            for (start, order) in FrameRange::new(part, end).blocks() {
                if !self.bitmap.take_at(start, order) {
                    let before = taken.forget();
                    let freed = self.bitmap.free_range(before);
                    debug_assert!(
                        freed == Some(true),
                        "frames taken in blocks are freed in blocks"
                    );
                    self.trace_free_range(before);
                    return false;
                }
                taken.extend_to(FrameNumber::new(start.get() + order.pages()));
                self.trace_take(start, order);
            }
        }
        _ = taken.forget();
        true
    }

    /// Calls the trace for the frames set in `frames` of the word at `word`, which this call has
    /// taken as `pieces` blocks for a CPU slot. The slot does not hold them yet.
    #[inline]
    pub(crate) fn trace_word_for_slot(&self, word: FrameNumber, frames: usize, pieces: usize) {
        let guard = FreeWordOnUnwind::new(&self.bitmap, word, frames);
        self.trace_take_word(word, frames, pieces);
        guard.forget();
    }

    /// Calls the trace for a block that was taken, if one was; returns it.
    fn trace_taken(&self, taken: Option<FrameNumber>, order: Order) -> Option<FrameNumber> {
        if let Some(frame) = taken {
            let guard = self.guard(block_range(frame, order));
            self.trace_take(frame, order);
            guard.forget();
        }
        taken
    }
}

/// Returning frames to their areas.
impl<T: Trace> Frames<'_, T> {
    /// Frees all frames of `range`; see [`Bitmap::free_range`].
    pub(crate) fn free_range(&self, range: FrameRange) -> Option<bool> {
        let freed = self.bitmap.free_range(range);
        if freed == Some(true) {
            self.trace_free_range(range);
            for (part, frames) in area_parts(range).filter(|(_, frames)| *frames < AREA_FRAMES) {
                self.count_direct_free(part, frames);
            }
        }
        freed
    }

    /// Returns `blocks` of `order`, which a CPU slot held, to their areas. If the fault hook or the
    /// trace panics, a guard returns the rest and calls neither.
    pub(crate) fn return_blocks(&self, order: Order, blocks: &[usize]) {
        let mut guard = self.rest_guard(order, blocks);
        while let [first, others @ ..] = guard.rest {
            if u32::from(order.get()) >= WORD_ORDER {
                guard.rest = others;
                self.return_block(FrameNumber::new(*first), order);
                continue;
            }
            let joined = JoinedWord::first_of(order, guard.rest);
            guard.rest = &guard.rest[joined.blocks..];
            self.return_word(joined.word, joined.frames, order);
            if let Some(frame) = joined.twice {
                self.report_double_free(frame);
            }
        }
    }

    /// Returns the frames that are set in `frames` of the word at `word` to their area. They are
    /// blocks of `order` that a CPU slot held.
    #[inline(always)]
    pub(crate) fn return_word(&self, word: FrameNumber, frames: usize, order: Order) {
        let was_taken = self.bitmap.free_word(word, frames);
        // The area is not reconciled here, even if it is due: the next deferral in the area does
        // that.
        _ = self.deferred.count_direct_free(word, frames.count_ones() as usize);
        if !was_taken {
            self.report_double_free(word);
        }
        self.trace_free_word(word, frames, frames.count_ones() as usize >> order.get());
    }

    fn return_block(&self, start: FrameNumber, order: Order) {
        if !self.bitmap.free_block(start, order) {
            self.report_double_free(start);
        }
        self.trace_free_range(block_range(start, order));
    }
}

/// Consecutive blocks of one word, which one atomic operation returns.
struct JoinedWord {
    /// The first frame of the word.
    word: FrameNumber,
    /// The frames of the blocks, as bits.
    frames: usize,
    /// A block that was listed twice.
    twice: Option<FrameNumber>,
    /// Number of blocks that were joined.
    blocks: usize,
}

impl JoinedWord {
    /// Joins the first of `blocks`, as far as they lie in one word. `order` is below a word's, and
    /// `blocks` is not empty.
    #[inline]
    fn first_of(order: Order, blocks: &[usize]) -> Self {
        let block = mask(0, order.get().into());
        let start = blocks[0] & !(WORD_BITS - 1);
        let mut joined = Self { word: FrameNumber::new(start), frames: 0, twice: None, blocks: 0 };
        for other in blocks.iter().take_while(|other| **other & !(WORD_BITS - 1) == start) {
            let bits = block << (other % WORD_BITS);
            if joined.frames & bits != 0 {
                joined.twice = Some(FrameNumber::new(*other));
            }
            joined.frames |= bits;
            joined.blocks += 1;
        }
        joined
    }
}
