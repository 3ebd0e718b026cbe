//! Where the metadata of a space lies in its region, and which part of it belongs to a section.
//!
//! ```text
//! | space | bit sets | buddy ... | owners | tags | committed frames | later sections |
//!         |<------- head ------->|<------- a part for each section ---------------->|
//! ```
//!
//! # Concepts
//! - The **head** is mapped when the space is made: the sets of areas and of open units, and the
//!   buddy's own data up to its page map.
//! - The other parts have entries for each frame or section. The entries of a section are mapped
//!   when the section is first used. A space of one section maps all of them at once.

use core::ops::Range;

use page_frame::{FrameRange, PAGE_SIZE};

use crate::frame_set::FrameSet;
use crate::space::areas;
use crate::space::sections::SECTION_FRAMES;
use crate::system::os_error::OsError;

/// The sizes that the buddy gives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BuddySizes {
    /// Bytes of all its metadata but that of later sections.
    pub(crate) bytes: usize,
    /// Offset of the page map, which comes last: a word for each frame, then a byte for each.
    pub(crate) page_map_at: usize,
    /// Bytes of the metadata of a later section.
    pub(crate) section_bytes: usize,
}

/// The offsets of the parts in the region, in bytes. Each part begins at a whole page, except
/// the buddy's own data in the head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) area_sets: [usize; 2],
    /// The set of open units.
    pub(crate) open: usize,
    pub(crate) buddy: usize,
    /// Bytes of the buddy's metadata.
    pub(crate) buddy_bytes: usize,
    owners: usize,
    tags: usize,
    pub(crate) committed: usize,
    later: usize,
    /// Bytes between the metadata of two later sections.
    later_stride: usize,
    /// The end of the region.
    pub(crate) end: usize,
    is_one_section: bool,
}

impl Layout {
    /// Plans the metadata of a space with the frames `all` in `units`. Only their numbers matter,
    /// and where they lie in a word of bits.
    ///
    /// # Errors
    /// [`OsError::INVALID`] for sizes that overflow.
    pub(crate) fn new(
        all: FrameRange,
        units: FrameRange,
        sizes: BuddySizes,
        sections: usize,
    ) -> Result<Self, OsError> {
        let set_bytes = FrameSet::bytes(areas::numbers(all));
        let space_bytes = all.frames() * PAGE_SIZE;
        let area_sets = [0, 1].map(|set| space_bytes + set * set_bytes);
        let open = space_bytes + 2 * set_bytes;
        // The page map begins at a whole page.
        let owners = whole(open + FrameSet::bytes(units) + sizes.page_map_at)?;
        let tags = owners + all.frames() * size_of::<usize>();
        let committed = whole(owners + (sizes.bytes - sizes.page_map_at))?;
        let later = whole(committed + FrameSet::bytes(all))?;
        let later_stride = whole(sizes.section_bytes)?;
        let end = later_stride.checked_mul(sections - 1).and_then(|bytes| bytes.checked_add(later));
        Ok(Self {
            area_sets,
            open,
            buddy: owners - sizes.page_map_at,
            buddy_bytes: sizes.bytes,
            owners,
            tags,
            committed,
            later,
            later_stride,
            end: end.ok_or(OsError::INVALID)?,
            is_one_section: sections == 1,
        })
    }

    /// Returns the head: what every space has mapped.
    pub(crate) fn head(&self) -> Range<usize> {
        self.area_sets[0]..if self.is_one_section { self.end } else { self.owners }
    }

    /// Returns the parts of section `number`, of which the frames `range` are used, counted from
    /// the first frame of the space.
    pub(crate) fn of_section(&self, number: usize, range: Range<usize>) -> [Range<usize>; 4] {
        if self.is_one_section {
            return [const { 0..0 }; 4];
        }
        let part = |at: usize, bits: usize| {
            let first = at + range.start * bits / 8;
            let end = (at + range.end * bits / 8).next_multiple_of(PAGE_SIZE);
            first - first % PAGE_SIZE..end
        };
        let later = match number {
            0 => 0..0,
            _ => self.later_section(number)..self.later_section(number) + self.later_stride,
        };
        [
            part(self.owners, usize::BITS as usize),
            part(self.tags, 8),
            part(self.committed, 1),
            later,
        ]
    }

    /// Returns whether the space has more than one section.
    pub(crate) const fn has_later_sections(&self) -> bool {
        !self.is_one_section
    }

    /// Returns the offset of the metadata of the later section `number`, from 1 on.
    pub(crate) fn later_section(&self, number: usize) -> usize {
        self.later + (number - 1) * self.later_stride
    }
}

const _: () = assert!(SECTION_FRAMES / 8 % PAGE_SIZE == 0, "sections share no page of a part");

fn whole(bytes: usize) -> Result<usize, OsError> {
    bytes.checked_next_multiple_of(PAGE_SIZE).ok_or(OsError::INVALID)
}

#[cfg(test)]
mod tests {
    use super::*;
    use page_frame::FrameNumber;

    #[test]
    fn parts_of_sections_are_whole_pages_apart() {
        let start = 5 * SECTION_FRAMES;
        let end = FrameNumber::new(start + 8 * SECTION_FRAMES);
        let all = FrameRange::new(FrameNumber::new(start), end);
        let units = FrameRange::new(FrameNumber::new(start / 64), FrameNumber::new(end.get() / 64));
        let page_map = all.frames() * 9;
        let sizes = BuddySizes { bytes: 1088 + page_map, page_map_at: 1088, section_bytes: 40_000 };
        let layout = Layout::new(all, units, sizes, 8).expect("no overflow");
        assert_eq!(layout.buddy % 64, 0);
        assert_eq!((layout.buddy + 1088) % PAGE_SIZE, 0);
        let whole = |number| number * SECTION_FRAMES..(number + 1) * SECTION_FRAMES;
        let mut parts: Vec<_> =
            (1..8).flat_map(|number| layout.of_section(number, whole(number))).collect();
        parts.extend(
            layout.of_section(0, 256..16 << 10).into_iter().filter(|part| !part.is_empty()),
        );
        parts.push(layout.head());
        parts.sort_by_key(|part| part.start);
        assert!(parts.iter().all(|part| part.start % PAGE_SIZE == 0 && part.end % PAGE_SIZE == 0));
        assert!(parts.is_sorted_by(|one, other| one.end <= other.start));
        assert!(parts[0].start >= all.frames() * PAGE_SIZE);
        assert_eq!(parts.last().map(|part| part.end), Some(layout.end));
    }
}
