//! The tags of blocks of whole areas: a byte for each area of the span.
//!
//! # Concepts
//! Heads of blocks of whole areas are 512 frames apart or more. In the page map each of their tags
//! would lie on a cache line of its own, and all of those lines in an eighth of the sets of a
//! cache. Here a cache line holds the tags of 64 areas, 128 MiB of frames.
//!
//! # Invariants
//! - I1: the tag of an allocated block of the area's order or a larger one is here, at its first
//!   area. No other tag is here, and no such tag is in the page map.
//! - I2: where a tag is here, the first frame of the area has none in the page map.
//!
//! # Concurrency
//! As in the page map: the tags publish nothing. The code that frees a block got it from the code
//! that allocated it.

use page_frame::internals::{TagPlace, TagsByNumber};
use page_frame::sync::AtomicU8;
use page_frame::{FrameNumber, Order, Tag};

use crate::bitmap::bits::{AREA_FRAMES, AREA_ORDER};

/// Returns whether a block of `order` consists of whole areas.
#[inline(always)]
pub(crate) const fn is_of_areas(order: Order) -> bool {
    order.get() as u32 >= AREA_ORDER
}

/// The tags of all areas of the span.
#[derive(Debug)]
pub(crate) struct AreaTags<'m> {
    /// The first frame of the first area, which may lie before the span.
    start: usize,
    tags: &'m [AtomicU8],
    by_area: TagsByNumber<'m>,
}

impl<'m> AreaTags<'m> {
    /// Makes the tags of the areas from number `first_area` on.
    pub(crate) fn new(first_area: usize, tags: &'m [AtomicU8]) -> Self {
        let by_area = TagsByNumber::new(tags, first_area);
        Self { start: first_area * AREA_FRAMES, tags, by_area }
    }

    /// Returns the tag of the block of whole areas that begins at `frame`; [`Tag::NONE`] if none
    /// does.
    #[inline]
    pub(super) fn get(&self, frame: FrameNumber) -> Tag {
        self.place(frame).map_or(Tag::NONE, TagPlace::get)
    }

    /// Returns the place of the tag of the area that begins at `frame`; `None` if no area of the
    /// span does.
    #[inline(always)]
    pub(super) fn place(&self, frame: FrameNumber) -> Option<TagPlace<'_>> {
        // The bits below an area's number become the highest, so that one comparison finds both a
        // frame inside an area and one outside the span.
        let index = frame.get().wrapping_sub(self.start).rotate_right(AREA_ORDER);
        self.tags.get(index).map(TagPlace::new)
    }

    /// Sets the tag of the area that begins at `frame`.
    ///
    /// # Safety
    /// 1. An area of the span begins at `frame`.
    #[inline(always)]
    pub(super) unsafe fn set_unchecked(&self, frame: FrameNumber, tag: Tag) {
        debug_assert!(self.place(frame).is_some(), "clause 1");
        // SAFETY: clause 1: there is a tag for each area of the span.
        unsafe { self.by_area.set(frame.get() / AREA_FRAMES, tag) };
    }

    /// Clears the tag of the area that begins at `frame`, if there is such an area with a tag.
    #[inline]
    pub(super) fn clear(&self, frame: FrameNumber) {
        if let Some(place) = self.place(frame).filter(|place| place.get() != Tag::NONE) {
            place.set(Tag::NONE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(number: usize) -> FrameNumber {
        FrameNumber::new(number)
    }

    /// Mutations that it catches: a shift instead of the rotation; the first area's number left
    /// out; a store that goes to another area.
    #[test]
    fn only_the_first_frame_of_an_area_of_the_span_has_a_place() {
        let bytes = [0; 3].map(AtomicU8::new);
        let tags = AreaTags::new(7, &bytes);
        let has_place = |number| tags.place(frame(number)).is_some();
        for area in 0..20 {
            let first = area * AREA_FRAMES;
            assert_eq!(has_place(first), (7..10).contains(&area), "{area}");
            assert!(!has_place(first + 1) && !has_place(first + AREA_FRAMES / 2));
            assert!(!has_place(first + AREA_FRAMES - 1));
        }
        assert!(!has_place(usize::MAX) && !has_place(usize::MAX - AREA_FRAMES + 1));
        let tag = Tag::block(Order::MAX);
        // SAFETY: clause 1: one of the areas above.
        unsafe { tags.set_unchecked(frame(8 * AREA_FRAMES), tag) };
        let all = || [7, 8, 9].map(|area| tags.get(frame(area * AREA_FRAMES)));
        assert_eq!(all(), [Tag::NONE, tag, Tag::NONE]);
        assert_eq!(tags.get(frame(8 * AREA_FRAMES + 1)), Tag::NONE);
        tags.clear(frame(8 * AREA_FRAMES + 1));
        assert_eq!(all(), [Tag::NONE, tag, Tag::NONE]);
        tags.clear(frame(8 * AREA_FRAMES));
        assert_eq!(all(), [Tag::NONE; 3]);
    }

    #[test]
    fn blocks_from_the_order_of_an_area_on_are_whole_areas() {
        let smallest = Order::all().find(|order| is_of_areas(*order));
        assert_eq!(smallest.map(Order::pages), Some(AREA_FRAMES));
        assert!(is_of_areas(Order::MAX));
    }
}
