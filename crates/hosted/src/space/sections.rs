//! The table of sections: each section belongs to the buddy or to a multi-section run, or is free.
//!
//! # Concepts
//! A **section** is 1 GiB of the space. The buddy takes sections from the lower end, one at a time,
//! and never gives one back. Of the first section it gets only a part, so that a small heap has
//! little metadata. A **multi-section run** is too large for the buddy: it takes
//! neighbouring sections from the upper end and frees them later.

use core::ops::Range;

use page_frame::{FrameNumber, FrameRange, Order};

use crate::system::mapping::MAX_ALIGNMENT;

/// The order of a section: 1 GiB.
pub(crate) const SECTION_ORDER: Order = Order::new(18).unwrap();
// The space is aligned to a section, so that each section is a block of this order.
const _: () = assert!(SECTION_ORDER.get() <= MAX_ALIGNMENT.get());
/// The frames of a section.
pub(crate) const SECTION_FRAMES: usize = SECTION_ORDER.pages();
/// The frames of the first section that the buddy begins with: 63 MiB, from the middle of an area
/// on. The system backs only whole areas by huge pages. So a heap that fits into the rest of that
/// area gets no huge page, without a call of `madvise`.
const FIRST: Range<usize> = 256..16 << 10;
/// Maximum number of sections: 1 TiB of space.
const MAX_SECTIONS: usize = 1024;
const WORD_BITS: usize = usize::BITS as usize;

/// A bit for each section.
type Bits = [usize; MAX_SECTIONS / WORD_BITS];
const NONE: Bits = [0; MAX_SECTIONS / WORD_BITS];

/// The table of the sections of a space.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sections {
    all: FrameRange,
    count: usize,
    buddy: Bits,
    multi_section: Bits,
    /// The sections whose metadata is mapped.
    described: Bits,
}

impl Sections {
    /// Makes the table of the space `all`. The buddy has the first section, or all of a space
    /// smaller than two sections.
    pub(crate) fn new(all: FrameRange) -> Self {
        let count = all.frames() / SECTION_FRAMES;
        let count = if count < 2 { 1 } else { count.min(MAX_SECTIONS) };
        let mut sections = Self { count, ..Self::none(all) };
        set(&mut sections.buddy, 0, true);
        sections
    }

    /// Makes a table without sections.
    pub(crate) fn none(all: FrameRange) -> Self {
        Self { all, count: 0, buddy: NONE, multi_section: NONE, described: NONE }
    }

    /// Returns the number of sections.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Returns the frames that the buddy begins with.
    pub(crate) fn first(&self) -> FrameRange {
        self.of_buddy(0)
    }

    /// Returns the frames that the buddy has, or would have, of the section of `frame`.
    pub(crate) fn limits(&self, frame: FrameNumber) -> FrameRange {
        self.of_buddy((frame.get() - self.all.start.get()) / SECTION_FRAMES)
    }

    fn of_buddy(&self, number: usize) -> FrameRange {
        let at = |frame| FrameNumber::new(self.all.start.get() + frame);
        match number {
            _ if self.count < 2 => self.all,
            0 => FrameRange::new(at(FIRST.start), at(FIRST.end)),
            _ => self.range(number..number + 1),
        }
    }

    /// Returns whether the metadata of section `number` is mapped.
    pub(crate) fn is_described(&self, number: usize) -> bool {
        is_set(&self.described, number)
    }

    /// Notes that the metadata of section `number` is mapped.
    pub(crate) fn set_described(&mut self, number: usize) {
        set(&mut self.described, number, true);
    }

    /// Iterates over the sections whose metadata is mapped: their numbers and frames.
    pub(crate) fn described(&self) -> impl Iterator<Item = (usize, FrameRange)> + '_ {
        let numbers = (0..self.count).filter(|number| self.is_described(*number));
        numbers.map(|number| (number, self.of_buddy(number)))
    }

    /// Returns the number of sections except the first. The buddy may get all of them.
    pub(crate) fn later(&self) -> usize {
        self.count - 1
    }

    /// Gives the buddy the lowest free section; returns its number and frames.
    pub(crate) fn take_lowest(&mut self) -> Option<(usize, FrameRange)> {
        let number = (0..self.count).find(|number| self.is_free(*number))?;
        set(&mut self.buddy, number, true);
        Some((number, self.range(number..number + 1)))
    }

    /// Gives the highest `count` neighbouring free sections whose start is aligned to `alignment`
    /// to a multi-section run; returns their numbers and frames.
    pub(crate) fn take_highest(
        &mut self,
        count: usize,
        alignment: Order,
    ) -> Option<(Range<usize>, FrameRange)> {
        let mut free = 0;
        for number in (0..self.count).rev() {
            free = if self.is_free(number) { free + 1 } else { 0 };
            let numbers = number..number + count;
            if free >= count && self.range(numbers.clone()).start.is_aligned_to(alignment) {
                numbers.clone().for_each(|number| set(&mut self.multi_section, number, true));
                return Some((numbers.clone(), self.range(numbers)));
            }
        }
        None
    }

    /// Makes the sections with these numbers free.
    pub(crate) fn put_back(&mut self, numbers: Range<usize>) {
        for number in numbers {
            set(&mut self.buddy, number, false);
            set(&mut self.multi_section, number, false);
        }
    }

    /// Makes the sections of the multi-section run `range` free.
    pub(crate) fn put_back_frames(&mut self, range: FrameRange) {
        let first = (range.start.get() - self.all.start.get()) / SECTION_FRAMES;
        self.put_back(first..first + range.frames().div_ceil(SECTION_FRAMES));
    }

    /// Returns whether `frame` lies in a multi-section run.
    pub(crate) fn is_multi_section(&self, frame: FrameNumber) -> bool {
        let offset = frame.get().wrapping_sub(self.all.start.get());
        let number = offset / SECTION_FRAMES;
        number < self.count && is_set(&self.multi_section, number)
    }

    /// Iterates over the sections of the buddy, lowest first.
    pub(crate) fn in_buddy(self) -> impl Iterator<Item = FrameRange> + Clone {
        let numbers = (0..self.count).filter(move |number| is_set(&self.buddy, *number));
        numbers.map(move |number| self.of_buddy(number))
    }

    fn is_free(&self, number: usize) -> bool {
        !is_set(&self.buddy, number) && !is_set(&self.multi_section, number)
    }

    fn range(&self, numbers: Range<usize>) -> FrameRange {
        let frame = |number| FrameNumber::new(self.all.start.get() + number * SECTION_FRAMES);
        FrameRange::new(frame(numbers.start), frame(numbers.end))
    }
}

fn is_set(bits: &Bits, number: usize) -> bool {
    bits[number / WORD_BITS] >> (number % WORD_BITS) & 1 == 1
}

fn set(bits: &mut Bits, number: usize, to: bool) {
    let bit = 1 << (number % WORD_BITS);
    let word = &mut bits[number / WORD_BITS];
    *word = if to { *word | bit } else { *word & !bit };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buddy_takes_sections_from_below_and_runs_from_above() {
        let start = FrameNumber::new(7 * SECTION_FRAMES);
        let end = FrameNumber::new(15 * SECTION_FRAMES);
        let mut sections = Sections::new(FrameRange::new(start, end));
        let first = sections.first();
        assert_eq!(first.start.get() - start.get(), 256);
        assert_eq!(first.end.get() - start.get(), 64 << 8);
        assert_eq!(sections.limits(first.start), first);
        let second = FrameNumber::new(start.get() + SECTION_FRAMES);
        assert_eq!(sections.limits(second).frames(), SECTION_FRAMES);
        assert_eq!(sections.take_lowest().map(|(number, _)| number), Some(1));
        let (numbers, range) =
            sections.take_highest(3, Order::ZERO).expect("six of eight are free");
        assert_eq!((numbers.clone(), range.end), (5..8, end));
        assert!(sections.is_multi_section(range.start) && !sections.is_multi_section(start));
        assert!(sections.take_highest(4, Order::ZERO).is_none());
        assert_eq!(sections.take_lowest().map(|(number, _)| number), Some(2));
        sections.put_back_frames(FrameRange::new(range.start, FrameNumber::new(end.get() - 5)));
        assert!(!sections.is_multi_section(range.start));
        assert_eq!(sections.take_highest(5, Order::ZERO).map(|(numbers, _)| numbers), Some(3..8));
        assert!(sections.take_lowest().is_none());
        assert_eq!(sections.in_buddy().count(), 3);
        sections.put_back(3..8);
        let two = SECTION_ORDER.larger().expect("below the largest");
        // Free are the sections from 10 to 14 of the machine; the pair 13 and 14 is not aligned.
        for expected in [12, 10] {
            let (_, range) = sections.take_highest(2, two).expect("two aligned pairs");
            assert_eq!(range.start.get(), expected * SECTION_FRAMES);
        }
        assert!(sections.take_highest(1, two).is_some_and(|(numbers, _)| numbers == (7..8)));
        assert!(sections.take_highest(1, Order::ZERO).is_none());
    }
}
