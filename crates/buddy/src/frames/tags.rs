//! The tags: for each frame a byte in the page map, set at the head of each allocated block and
//! run. Blocks of whole areas have theirs in a map of areas instead (`area_tags.rs`).
//!
//! As a [`PageMap`], this type shows both as one map.

use core::ptr::NonNull;

use page_frame::internals::{DeferredHeads, TagPlace, TagsByNumber};
use page_frame::{FrameNumber, Order, PAGE_SIZE, PageMap, PageMapArray, Tag, TagRange};

use crate::frames::area_tags::{AreaTags, is_of_areas};

/// The page map and the tags of areas, by frame number.
#[derive(Debug)]
pub(crate) struct Tags<'m> {
    /// The first frame of the map, which is the first frame of the span.
    first_frame: usize,
    /// The address of the first page of the map.
    start: usize,
    map: PageMapArray<'m>,
    by_frame: TagsByNumber<'m>,
    areas: AreaTags<'m>,
}

/// Tags of any kind.
impl<'m> Tags<'m> {
    /// Wraps `map`, whose first page is `first_frame` and lies at address `start`, and the tags of
    /// areas.
    pub(crate) fn new(
        map: PageMapArray<'m>,
        areas: AreaTags<'m>,
        first_frame: FrameNumber,
        start: usize,
    ) -> Self {
        let first_frame = first_frame.get();
        Self { first_frame, start, by_frame: map.tags_from(first_frame), map, areas }
    }

    /// Returns the tag of `frame`; [`Tag::NONE`] for a frame outside the span.
    #[inline]
    pub(crate) fn get(&self, frame: FrameNumber) -> Tag {
        match self.map.tag_at(self.index(frame)) {
            Tag::NONE => self.areas.get(frame),
            tag => tag,
        }
    }

    /// Sets the tag of `frame` in the page map, if the frame is in the span. It is not a tag of a
    /// block.
    #[inline]
    pub(crate) fn set(&self, frame: FrameNumber, tag: Tag) {
        self.map.set_tag_at(self.index(frame), tag);
    }

    /// Exchanges the tag of `frame` from `from` to `to`, atomically; returns whether it was `from`.
    /// Neither is a tag of a block.
    #[inline]
    pub(crate) fn exchange(&self, frame: FrameNumber, from: Tag, to: Tag) -> bool {
        self.map.exchange_tag_at(self.index(frame), from, to)
    }

    /// Clears the tag of `frame` if it is that of a run; returns whether it was. `CHECKED` as for
    /// [`take_block`](Self::take_block).
    #[inline]
    pub(crate) fn take_run<const CHECKED: bool>(&self, frame: FrameNumber) -> bool {
        self.map.place_at(self.index(frame)).is_some_and(|place| take::<CHECKED>(place, Tag::RUN))
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

    /// Returns the invariant of the tags that the tag of `frame` breaks.
    pub(crate) fn violated_invariant(&self, frame: FrameNumber) -> Option<&'static str> {
        let is_of_areas = |tag: Tag| tag.as_block().is_some_and(is_of_areas);
        let (tag, area_tag) = (self.map.tag_at(self.index(frame)), self.areas.get(frame));
        if is_of_areas(tag) || area_tag != Tag::NONE && !is_of_areas(area_tag) {
            return Some("area tags I1: they are the tags of blocks of whole areas");
        }
        let is_double = tag != Tag::NONE && area_tag != Tag::NONE;
        is_double.then_some("area tags I2: a frame has one tag")
    }

    /// Returns the map's index of `frame`. It is out of range for frames outside the span.
    #[inline(always)]
    fn index(&self, frame: FrameNumber) -> usize {
        frame.get().wrapping_sub(self.first_frame)
    }

    /// Returns the first frame of the page that `address` lies in.
    #[inline]
    fn frame_at(&self, address: usize) -> FrameNumber {
        let index = address.wrapping_sub(self.start) / PAGE_SIZE;
        FrameNumber::new(self.first_frame.wrapping_add(index))
    }
}

/// Tags of blocks.
impl Tags<'_> {
    /// Returns the place of the tag of a block of `order` at `frame`; `None` where no such block
    /// can begin.
    #[inline(always)]
    pub(crate) fn block_place(&self, frame: FrameNumber, order: Order) -> Option<TagPlace<'_>> {
        if is_of_areas(order) {
            self.areas.place(frame)
        } else {
            self.map.place_at(self.index(frame))
        }
    }

    /// Prefetches the tag of a block of `order` at `frame`.
    #[inline(always)]
    pub(crate) fn prefetch_block(&self, frame: FrameNumber, order: Order) {
        if let Some(place) = self.block_place(frame, order) {
            place.prefetch();
        }
    }

    /// Sets the tag of the block of `order` at `frame`, which lies in the span.
    #[inline]
    pub(crate) fn set_block(&self, frame: FrameNumber, order: Order) {
        if let Some(place) = self.block_place(frame, order) {
            place.set(Tag::block(order));
        }
    }

    /// Sets the tag of the block of `order` at `frame`.
    ///
    /// # Safety
    /// 1. The block lies in the span, and is aligned.
    #[inline(always)]
    pub(crate) unsafe fn set_block_unchecked(&self, frame: FrameNumber, order: Order) {
        debug_assert!(self.block_place(frame, order).is_some(), "clause 1");
        if is_of_areas(order) {
            // SAFETY: clause 1: an area begins where such a block does.
            unsafe { self.areas.set_unchecked(frame, Tag::block(order)) };
        } else {
            // SAFETY: clause 1: the map has an entry for each frame of the span.
            unsafe { self.by_frame.set(frame.get(), Tag::block(order)) };
        }
    }

    /// Clears the tag of the block of `order` at `frame`, which the caller owns.
    #[inline]
    pub(crate) fn clear_block(&self, frame: FrameNumber, order: Order) {
        if let Some(place) = self.block_place(frame, order) {
            place.set(Tag::NONE);
        }
    }

    /// Clears the tag of the block of `order` at `frame` if there is such a block; returns whether
    /// there was. If `CHECKED`, exactly one of several concurrent calls succeeds, at the cost of an
    /// atomic operation.
    #[inline]
    pub(crate) fn take_block<const CHECKED: bool>(&self, frame: FrameNumber, order: Order) -> bool {
        let place = self.block_place(frame, order);
        place.is_some_and(|place| take::<CHECKED>(place, Tag::block(order)))
    }
}

/// Clears the tag at `place` if it is `tag`; returns whether it was.
#[inline(always)]
fn take<const CHECKED: bool>(place: TagPlace<'_>, tag: Tag) -> bool {
    if CHECKED {
        return place.exchange(tag, Tag::NONE);
    }
    let is_there = place.get() == tag;
    if is_there {
        place.set(Tag::NONE);
    }
    is_there
}

// SAFETY: clause 1: as for the map, which has the entries of all pages; the tags of areas are those
// of their first pages, and the setters below keep invariants I1 and I2 of `area_tags.rs`, by which
// a page has a tag in at most one of the two. Clause 2: the range is the map's, where the first
// page of a block of whole areas reads as none. Clause 3: the pointer is the map's.
unsafe impl PageMap for Tags<'_> {
    #[inline]
    fn tag(&self, address: usize) -> Tag {
        match self.map.tag(address) {
            Tag::NONE => self.areas.get(self.frame_at(address)),
            tag => tag,
        }
    }

    #[inline(always)]
    fn tag_range(&self) -> TagRange {
        self.map.tag_range()
    }

    #[inline(always)]
    fn owner(&self, address: usize) -> *mut () {
        self.map.owner(address)
    }

    unsafe fn set_owner(&self, start: NonNull<u8>, pages: usize, tag: Tag, owner: NonNull<()>) {
        self.areas.clear(self.frame_at(start.addr().get()));
        // SAFETY: clause 1 is the same for the map.
        unsafe { self.map.set_owner(start, pages, tag, owner) };
    }

    unsafe fn clear_owner(&self, start: NonNull<u8>, order: Order) {
        // SAFETY: clause 1 is the same for the map.
        unsafe { self.map.clear_owner(start, order) };
        self.move_to_areas(start, order);
    }

    unsafe fn set_run(&self, start: NonNull<u8>, pages: usize) {
        self.areas.clear(self.frame_at(start.addr().get()));
        // SAFETY: clause 1 is the same for the map.
        unsafe { self.map.set_run(start, pages) };
    }

    unsafe fn clear_run(&self, start: NonNull<u8>, order: Order) {
        // SAFETY: clause 1 is the same for the map.
        unsafe { self.map.clear_run(start, order) };
        self.move_to_areas(start, order);
    }

    #[inline(always)]
    fn pointer(&self, address: usize) -> NonNull<u8> {
        self.map.pointer(address)
    }

    #[inline(always)]
    fn run_pages(&self, address: usize) -> Option<usize> {
        self.map.run_pages(address)
    }
}

impl Tags<'_> {
    /// Moves the tag of the block of `order` at `start` from the map to the tags of areas, if it is
    /// a block of whole areas.
    fn move_to_areas(&self, start: NonNull<u8>, order: Order) {
        if is_of_areas(order) {
            let frame = self.frame_at(start.addr().get());
            self.set(frame, Tag::NONE);
            self.set_block(frame, order);
        }
    }
}

#[cfg(test)]
impl Tags<'_> {
    /// Changes the tag of `frame` as a bug would. A tag of a block of whole areas goes to the tags
    /// of areas.
    pub(crate) fn corrupt(&self, frame: FrameNumber, tag: Tag) {
        self.set(frame, Tag::NONE);
        self.areas.clear(frame);
        match tag.as_block() {
            Some(order) => self.set_block(frame, order),
            None => self.set(frame, tag),
        }
    }

    /// Changes the tag of the area at `frame` as a bug would.
    pub(crate) fn corrupt_area(&self, frame: FrameNumber, tag: Tag) {
        self.areas.place(frame).expect("the first frame of an area").set(tag);
    }
}
