//! Deferred frees of the shared frames: decides when an area is reconciled, and calls the trace and
//! the fault hook.

use page_frame::internals::TagPlace;
use page_frame::{FrameNumber, Order};

use crate::frames::Frames;
use crate::trace::Trace;

impl<T: Trace> Frames<'_, T> {
    /// Defers the block of `order` at `frame`, whose tag is at `tag`, and reconciles its area if it
    /// is due.
    #[inline(never)]
    pub(crate) fn defer(&self, frame: FrameNumber, order: Order, tag: TagPlace<'_>) {
        // SAFETY: clause 1 of `DeferredFrees::defer`: the frame has the tag at `tag`, and the page
        // map has tags only for frames of the span.
        let is_due = unsafe { self.deferred.defer(frame, order, tag) };
        if is_due {
            self.reconcile(self.deferred.area_of(frame));
        }
    }

    /// Counts `frames` frames of the area of `frame` that were freed directly, and reconciles the
    /// area if it is due.
    #[inline]
    pub(super) fn count_direct_free(&self, frame: FrameNumber, frames: usize) {
        if self.deferred.count_direct_free(frame, frames) {
            self.reconcile(self.deferred.area_of(frame));
        }
    }

    /// Reconciles the area of `frame` if it has deferred frees; returns the number of frames that
    /// are free again.
    pub(crate) fn reconcile_area(&self, frame: FrameNumber) -> usize {
        match self.deferred.is_pending_at(frame) {
            true => self.reconcile(self.deferred.area_of(frame)),
            false => 0,
        }
    }

    /// Looks at the next few areas in turn, and reconciles the first of them that has deferred
    /// frees.
    pub(crate) fn reconcile_next(&self) {
        let turn = self.deferred.begin_turn();
        if let Some(area) = turn.found {
            self.reconcile(area);
        }
        self.deferred.end_turn(turn);
    }

    /// Reconciles area by area until `target` frames are free again; returns their number.
    pub(crate) fn reconcile_until(&self, target: usize) -> usize {
        let (mut frames, mut next) = (0, 0);
        while frames < target {
            let Some(area) = self.deferred.next_pending_from(next) else { break };
            frames += self.reconcile(area);
            next = area + 1;
        }
        frames
    }

    /// Reconciles the area with index `area`, unless another call does; returns the number of
    /// frames that are free again.
    #[cold]
    #[inline(never)]
    fn reconcile(&self, area: usize) -> usize {
        let on_free = |word, frames, blocks| self.trace_free_word(word, frames, blocks);
        let Some(reconciled) = self.deferred.reconcile(area, &self.bitmap, &self.tags, on_free)
        else {
            return 0;
        };
        // Last of all: the fault hook may panic.
        for block in reconciled.double_frees() {
            self.report_double_free(block);
        }
        reconciled.frames
    }
}
