//! The tags: for each frame a byte in the page map, set at the head of each allocated block and
//! run.

use page_frame::internals::{DeferredHeads, TagPlace, TagsByFrame};
use page_frame::{FrameNumber, PAGE_SIZE, PageMap, PageMapArray, Tag};

/// The page map, by frame number.
#[derive(Debug)]
pub(crate) struct Tags<'m> {
    /// The first frame of the map, which is the first frame of the span.
    first_frame: usize,
    /// The address of the first page of the map.
    start: usize,
    map: PageMapArray<'m>,
    by_frame: TagsByFrame<'m>,
}

impl<'m> Tags<'m> {
    /// Wraps `map`, whose first page is `first_frame` and lies at address `start`.
    pub(crate) fn new(map: PageMapArray<'m>, first_frame: FrameNumber, start: usize) -> Self {
        let first_frame = first_frame.get();
        Self { first_frame, start, by_frame: map.tags_from(first_frame), map }
    }

    /// Returns the page map, for users that look up addresses.
    #[inline(always)]
    pub(crate) fn map(&self) -> &PageMapArray<'m> {
        &self.map
    }

    /// Returns the tag of `frame`; [`Tag::NONE`] for a frame outside the span.
    #[inline]
    pub(crate) fn get(&self, frame: FrameNumber) -> Tag {
        self.map.tag_at(self.index(frame))
    }

    /// Sets the tag of `frame`, if the frame is in the span.
    #[inline]
    pub(crate) fn set(&self, frame: FrameNumber, tag: Tag) {
        self.map.set_tag_at(self.index(frame), tag);
    }

    /// Sets the tag of `frame`.
    ///
    /// # Safety
    /// 1. The frame is in the span.
    #[inline(always)]
    pub(crate) unsafe fn set_unchecked(&self, frame: FrameNumber, tag: Tag) {
        debug_assert!(self.index(frame) < self.map.pages(), "clause 1");
        // SAFETY: clause 1: the map has an entry for each frame of the span.
        unsafe { self.by_frame.set(frame, tag) };
    }

    /// Returns the place of the tag of `frame`; `None` for a frame outside the span.
    #[inline(always)]
    pub(crate) fn place(&self, frame: FrameNumber) -> Option<TagPlace<'_>> {
        self.map.place_at(self.index(frame))
    }

    /// Exchanges the tag of `frame` from `from` to `to`, atomically; returns whether it was `from`.
    #[inline]
    pub(crate) fn exchange(&self, frame: FrameNumber, from: Tag, to: Tag) -> bool {
        self.map.exchange_tag_at(self.index(frame), from, to)
    }

    /// Clears the tag of `frame` if it is `tag`; returns whether it was. If `CHECKED`, exactly one
    /// of several concurrent calls succeeds, at the cost of an atomic operation.
    #[inline]
    pub(crate) fn take<const CHECKED: bool>(&self, frame: FrameNumber, tag: Tag) -> bool {
        if CHECKED {
            return self.exchange(frame, tag, Tag::NONE);
        }
        let is_there = self.get(frame) == tag;
        if is_there {
            self.set(frame, Tag::NONE);
        }
        is_there
    }

    /// Prefetches the tag of the frame that lies `frames` frames after `frame`.
    #[inline]
    pub(crate) fn prefetch(&self, frame: FrameNumber, frames: usize) {
        self.map.prefetch_tag_at(self.index(frame) + frames);
    }

    /// Returns the heads of deferred blocks in the words from frame `first` on.
    #[inline(always)]
    pub(crate) fn deferred_heads<const WORDS: usize>(
        &self,
        first: FrameNumber,
    ) -> [DeferredHeads; WORDS] {
        self.map.deferred_among(self.index(first))
    }

    /// Clears the tags of the frames that are set in `frames` of the word at `word`. The caller
    /// owns these frames.
    #[inline(always)]
    pub(crate) fn clear_word(&self, word: FrameNumber, frames: usize) {
        self.map.clear_tags_among(self.index(word), frames);
    }

    /// Returns the owner word of `frame`; null for a frame outside the span.
    pub(crate) fn owner(&self, frame: FrameNumber) -> *mut () {
        self.map.owner(self.start.wrapping_add(self.index(frame).wrapping_mul(PAGE_SIZE)))
    }

    /// Returns the page count of the run that begins at `frame`, or `None` where no run begins.
    pub(crate) fn run_pages(&self, frame: FrameNumber) -> Option<usize> {
        self.map.run_pages(self.start.wrapping_add(self.index(frame).wrapping_mul(PAGE_SIZE)))
    }

    /// Returns the map's index of `frame`. It is out of range for frames outside the span.
    #[inline(always)]
    fn index(&self, frame: FrameNumber) -> usize {
        frame.get().wrapping_sub(self.first_frame)
    }
}
