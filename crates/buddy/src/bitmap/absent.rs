//! The frames of a section that do not exist. They are taken before the section is published.

use page_frame::{FrameNumber, FrameRange};

use crate::bitmap::bits::{AREA_FRAMES, SECTION_AREAS, SECTION_FRAMES};
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
                line.reserve_all();
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
