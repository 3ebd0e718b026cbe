//! The frames of a section that do not exist. They are taken before the section is published: by
//! their bits in an area that has other frames; an area without any is allocated whole, for ever.
//! So the bits of such an area are never written, and cost no memory that the system gives at the
//! first write.

use page_frame::{FrameNumber, FrameRange};

use crate::bitmap::bits::{AREA_FRAMES, SECTION_AREAS, SECTION_FRAMES};
use crate::bitmap::entry::Entry;
use crate::bitmap::hints::UNUSED;
use crate::bitmap::section::Section;

impl Section<'_> {
    /// Takes for ever each frame of the section that lies in none of `ranges`. `base` is the first
    /// frame of the section.
    pub(crate) fn reserve_absent(&self, base: usize, ranges: &[FrameRange]) {
        if is_whole_section(base, ranges) {
            return;
        }
        for (area, line) in self.lines.iter().enumerate() {
            let start = FrameNumber::new(base + area * AREA_FRAMES);
            let whole = FrameRange::new(start, FrameNumber::new(start.get() + AREA_FRAMES));
            let present = ranges.iter().map(|range| range.intersection(whole));
            let mut present = present.filter(|present| !present.is_empty()).peekable();
            if present.peek().is_none() {
                self.entries.set_unpublished(area, Entry::WHOLE);
                continue;
            }
            let mut next = start;
            for present in present {
                line.reserve(next.get() - start.get(), present.start.get() - start.get());
                next = present.end;
            }
            line.reserve(next.get() - start.get(), AREA_FRAMES);
        }
    }

    /// Publishes every area of the section, which begins at `base` and has the frames in `ranges`.
    /// In a section without holes this reads no bits, so that their memory stays untouched until
    /// the first use.
    pub(crate) fn publish_all(&self, base: usize, ranges: &[FrameRange]) {
        match is_whole_section(base, ranges) {
            true => self.hints.set_all(UNUSED),
            false => {
                for area in (0..SECTION_AREAS).filter(|area| has_frames(base, *area, ranges)) {
                    match self.lines[area].is_clear() {
                        true => self.hints.set(UNUSED, area),
                        false => _ = self.publish(area),
                    }
                }
            }
        }
    }
}

/// Returns whether an area of the section that begins at `base` has frames in `ranges`.
fn has_frames(base: usize, area: usize, ranges: &[FrameRange]) -> bool {
    let (start, end) = (base + area * AREA_FRAMES, base + (area + 1) * AREA_FRAMES);
    ranges.iter().any(|range| range.start.get() < end && start < range.end.get())
}

/// Returns whether all frames of the section that begins at `base` are in one of `ranges`.
fn is_whole_section(base: usize, ranges: &[FrameRange]) -> bool {
    ranges.iter().any(|range| range.start.get() <= base && base + SECTION_FRAMES <= range.end.get())
}

#[cfg(all(test, not(loom)))]
mod tests {
    extern crate std;

    use std::boxed::Box;

    use page_frame::sync::Zeroable;

    use super::*;
    use crate::bitmap::bits::AREA_WORDS;
    use crate::bitmap::entry::Entries;
    use crate::bitmap::hints::{Bounds, EMPTY, HINT_WORDS, HintMaps, Hints};
    use crate::bitmap::section::Lines;

    /// Mutations that it catches: an absent area that stays open, or whose bits are written; a
    /// present area that is whole; absent frames of a present area that stay free.
    #[test]
    fn nothing_is_taken_from_areas_without_frames_and_their_bits_are_untouched() {
        let lines: Box<Lines> = Box::new(Zeroable::zero());
        let entries: Box<Entries> = Box::new(Zeroable::zero());
        let maps: Box<HintMaps> = Box::new(Zeroable::zero());
        let bounds = Bounds::new();
        let section = Section::new(&lines, &entries, Hints::new(&maps, &bounds, 0));
        let at = |frame| FrameNumber::new(7 * SECTION_FRAMES + frame);
        let range = FrameRange::new(at(AREA_FRAMES + 5), at(3 * AREA_FRAMES));
        section.reserve_absent(7 * SECTION_FRAMES, &[range]);
        section.publish_all(7 * SECTION_FRAMES, &[range]);
        for area in (0..SECTION_AREAS).filter(|area| !(1..3).contains(area)) {
            assert!(lines[area].is_clear());
            assert_eq!(section.taken(area), [usize::MAX; AREA_WORDS]);
            assert!(!section.claim(area) && !section.take_at(area, 0, 0));
            assert!(section.take(area, 0).is_none() && section.take_word(area).is_none());
        }
        assert_eq!(lines[1].free_frames(), AREA_FRAMES - 5);
        assert!(section.claim(2), "all of its frames exist");
        let hinted: usize = EMPTY
            .flat_map(|map| (0..HINT_WORDS).map(move |word| (map, word)))
            .map(|(map, word)| section.hints.word(map, word).count_ones() as usize)
            .sum();
        assert_eq!(hinted, 1, "area 2; area 1 is not empty");
    }
}
