//! Building an allocator in one piece of zeroed memory. The plan computes the layout, and the same
//! plan carves the memory.

use core::alloc::Layout;
use core::ptr::NonNull;

use page_frame::sync::{AtomicU8, slice_in, slice_in_mut};
use page_frame::{FrameNumber, FrameRange, PAGE_SHIFT, PageMapArray, PerCpuSlot};

use crate::bitmap::Bitmap;
use crate::bitmap::bits::{AREA_FRAMES, SECTION_FRAMES, WORD_BITS};
use crate::bitmap::hints::Bounds;
use crate::bitmap::section::Section;
use crate::bitmap::section_table::{SectionCell, SectionTable, merged, section_number};
use crate::frames::area_tags::AreaTags;
use crate::frames::deferred_free::{DeferredFrees, Flags};
use crate::frames::tags::Tags;
use crate::metadata::section::fill;
use crate::percpu::cached_count::CachedCount;
use crate::percpu::slot::CpuSlot;
use crate::zeroed_memory::ZeroedMemory;

mod error;
pub(crate) mod section;

pub use crate::metadata::error::BuildError;

/// The parts of an allocator, in their metadata.
pub(crate) struct Carved<'m> {
    pub(crate) bitmap: Bitmap<'m>,
    pub(crate) tags: Tags<'m>,
    pub(crate) deferred: DeferredFrees<'m>,
    pub(crate) slots: &'m mut [PerCpuSlot<CpuSlot>],
    pub(crate) counts: &'m [CachedCount],
}

/// Builds the parts of an allocator of the frames in `ranges`, with room for the frames in `room`,
/// and `slots` CPU slots. It calls `map_start` with the first frame of the span, which returns the
/// address of that frame in the page map.
///
/// # Errors
/// [`BuildError`] as for [`Plan::new`], and [`BuildError::MetadataTooSmall`].
///
/// # Safety
/// 1. The pointer that `map_start` returns is page-aligned. All code that gets pointers from the
///    map may use them for the memory of the frames of the span.
pub(crate) unsafe fn build<'m>(
    metadata: ZeroedMemory<'m>,
    ranges: &[FrameRange],
    room: FrameRange,
    slots: usize,
    map_start: impl FnOnce(FrameNumber) -> NonNull<u8>,
) -> Result<Carved<'m>, BuildError> {
    let plan = Plan::new(ranges, room, slots)?;
    let needed = plan.layout().size();
    if metadata.bytes() < needed {
        return Err(BuildError::MetadataTooSmall { needed, given: metadata.bytes() });
    }
    let map_start = map_start(plan.span.start);
    // SAFETY: clause 1 of `carve`: `ZeroedMemory` is zero, aligned to 64 and ours during `'m`, and
    // the test of `needed` has checked its size. Clause 2: the plan was made of these ranges.
    // Clause 3: clause 1 of this function.
    Ok(unsafe { plan.carve(metadata.start(), ranges, map_start) })
}

/// Sizes and offsets of the parts of the metadata.
pub(crate) struct Plan {
    first_section: usize,
    sections: usize,
    span: FrameRange,
    slots: usize,
    table_at: usize,
    sections_at: usize,
    ranges_at: usize,
    slots_at: usize,
    counters_at: usize,
    bounds_at: usize,
    lines_at: usize,
    entries_at: usize,
    hints_at: usize,
    areas: usize,
    counts_at: usize,
    flags_at: usize,
    area_tags_at: usize,
    map_at: usize,
    total: usize,
}

impl Plan {
    /// Plans the metadata of `ranges` (ascending, not overlapping, not empty), of `room` for more
    /// frames, and of `slots` CPU slots.
    ///
    /// # Errors
    /// [`BuildError::NoFrames`], [`BuildError::Unordered`] or [`BuildError::TooLarge`].
    pub(crate) fn new(
        ranges: &[FrameRange],
        room: FrameRange,
        slots: usize,
    ) -> Result<Self, BuildError> {
        let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else {
            return Err(BuildError::NoFrames);
        };
        let mut end = None;
        for (index, range) in ranges.iter().enumerate() {
            if range.is_empty() || end.is_some_and(|end| range.start < end) {
                return Err(BuildError::Unordered { index });
            }
            end = Some(range.end);
        }
        let mut span = FrameRange::new(first.start, last.end);
        if !room.is_empty() {
            span = FrameRange::new(span.start.min(room.start), span.end.max(room.end));
        }
        // A larger frame has no address. Below this bound, no sum of frames and bytes overflows.
        if span.end.get() > usize::MAX >> PAGE_SHIFT {
            return Err(BuildError::TooLarge);
        }
        let last_frame = FrameNumber::new(span.end.get() - 1);
        let first_section = section_number(span.start);
        let table = section_number(last_frame) - first_section + 1;
        let present = present_sections(ranges);
        let areas = last_frame.get() / AREA_FRAMES - span.start.get() / AREA_FRAMES + 1;

        let mut total = 0_usize;
        let mut part = |count: usize, bytes: usize| {
            let at = total;
            let end = count.checked_mul(bytes).and_then(|bytes| at.checked_add(bytes));
            let end = end.and_then(|end| end.checked_next_multiple_of(64));
            total = end.filter(|end| *end <= isize::MAX as usize).ok_or(BuildError::TooLarge)?;
            Ok(at)
        };
        let table_at = part(table, size_of::<SectionCell<'_>>())?;
        let sections_at = part(present, size_of::<Section<'_>>().next_multiple_of(64))?;
        let ranges_at = part(merged(ranges.iter().copied()).count(), size_of::<FrameRange>())?;
        let slots_at = part(slots, size_of::<PerCpuSlot<CpuSlot>>())?;
        let counters_at = part(slots, size_of::<CachedCount>())?;
        let bounds_at = part(1, size_of::<Bounds>())?;
        let [line_bytes, entry_bytes, hint_bytes] = Section::part_bytes();
        let lines_at = part(present, line_bytes)?;
        let entries_at = part(present, entry_bytes)?;
        let hints_at = part(present, hint_bytes)?;
        let counts_at = part(areas, size_of::<AtomicU8>())?;
        let flags_at = part(areas.div_ceil(WORD_BITS), size_of::<Flags>())?;
        let area_tags_at = part(areas, size_of::<AtomicU8>())?;
        let map_at = part(1, PageMapArray::metadata_bytes(span.frames()))?;
        Ok(Self {
            first_section,
            sections: table,
            span,
            slots,
            table_at,
            sections_at,
            ranges_at,
            slots_at,
            counters_at,
            bounds_at,
            lines_at,
            entries_at,
            hints_at,
            areas,
            counts_at,
            flags_at,
            area_tags_at,
            map_at,
            total,
        })
    }

    /// Returns size and alignment of the metadata.
    pub(crate) fn layout(&self) -> Layout {
        Layout::from_size_align(self.total, 64).expect("`new` kept the total within `isize::MAX`")
    }

    /// Returns the offset of the page map, which is the last part.
    pub(crate) const fn page_map_offset(&self) -> usize {
        self.map_at
    }

    /// Builds everything in `metadata`.
    ///
    /// # Safety
    /// 1. `metadata` is valid for reads and writes of [`layout`](Self::layout) during `'m`, zero,
    ///    and used by no other code; of the page map at least the entries of the frames that the
    ///    allocator has ([`ZeroedMemory::from_zeroed`]).
    /// 2. `ranges` are the ranges that were planned.
    /// 3. `map_start` is page-aligned. All code that gets pointers from the map may use them for
    ///    the memory of the span's frames.
    unsafe fn carve<'m>(
        &self,
        metadata: NonNull<u8>,
        ranges: &[FrameRange],
        map_start: NonNull<u8>,
    ) -> Carved<'m> {
        // SAFETY: clause 1: callers of `at` pass offsets of the plan, which put every part inside
        // the total.
        let at = |offset: usize| unsafe { metadata.add(offset) };
        let mut each = merged(ranges.iter().copied());
        let mut next = |_| each.next().expect("clause 2: the ranges that were counted");
        let count = merged(ranges.iter().copied()).count();
        // SAFETY: clause 1: room for the merged ranges, aligned to 64.
        let ranges = unsafe { fill(at(self.ranges_at), count, &mut next) };
        // SAFETY: clause 1: room for the bounds, aligned to 64.
        let bounds = &unsafe { fill(at(self.bounds_at), 1, |_| Bounds::new()) }[0];
        // SAFETY: clause 1: zeroed room for the table, aligned to 64.
        let table: &[SectionCell<'_>] = unsafe { slice_in(at(self.table_at), self.sections) };
        let has_frames = |index: &usize| has_frames(self.first_section + index, ranges);
        for (number, index) in (0..self.sections).filter(has_frames).enumerate() {
            let place =
                at(self.sections_at + number * size_of::<Section<'_>>().next_multiple_of(64));
            // SAFETY: clause 1: the plan counted the sections that are present.
            let section = || unsafe { self.section(metadata, number, bounds, index) };
            // SAFETY: clause 1: room for a section, aligned to 64.
            let section = &unsafe { fill(place, 1, |_| section()) }[0];
            let base = (self.first_section + index) * SECTION_FRAMES;
            section.reserve_absent(base, ranges);
            section.publish_all(base, ranges);
            table[index].put_from_start(section);
        }
        // SAFETY: clause 1: zeroed room for the slots, aligned to 64.
        let slots = unsafe { slice_in_mut(at(self.slots_at), self.slots) };
        // SAFETY: clause 1: zeroed room for a count of each slot, aligned to 64.
        let counts = unsafe { slice_in(at(self.counters_at), self.slots) };
        // SAFETY: clause 1: zeroed room for the map; clause 3 for the address.
        let map = unsafe { PageMapArray::new_in(map_start, self.span.frames(), at(self.map_at)) };
        // SAFETY: clause 1: zeroed room for a count of each area, aligned to 64.
        let area_counts = unsafe { slice_in(at(self.counts_at), self.areas) };
        // SAFETY: clause 1: zeroed room for a bit of each area, aligned to 64.
        let flags = unsafe { slice_in(at(self.flags_at), self.areas.div_ceil(WORD_BITS)) };
        // SAFETY: clause 1: zeroed room for a tag of each area, aligned to 64.
        let area_tags = unsafe { slice_in(at(self.area_tags_at), self.areas) };
        let first_area = self.span.start.get() / AREA_FRAMES;
        let area_tags = AreaTags::new(first_area, area_tags);
        Carved {
            bitmap: Bitmap::new(SectionTable::new(table, ranges, self.span), bounds),
            tags: Tags::new(map, area_tags, self.span.start, map_start.addr().get()),
            deferred: DeferredFrees::new(first_area, area_counts, flags),
            slots,
            counts,
        }
    }

    /// Makes the section with `index` in the table, in the metadata of the `number`th present
    /// section.
    ///
    /// # Safety
    /// 1. Clause 1 of [`carve`](Self::carve), and `number` is below the number of planned sections.
    unsafe fn section<'m>(
        &self,
        metadata: NonNull<u8>,
        number: usize,
        bounds: &'m Bounds,
        index: usize,
    ) -> Section<'m> {
        let [line_bytes, entry_bytes, hint_bytes] = Section::part_bytes();
        let lines = self.lines_at + number * line_bytes;
        let entries = self.entries_at + number * entry_bytes;
        let hints = self.hints_at + number * hint_bytes;
        // SAFETY: clause 1: the plan has room for each part of this section, aligned like every
        // part.
        unsafe { section::section(metadata, [lines, entries, hints], bounds, index) }
    }
}

/// Returns how many sections have frames of `ranges`, which ascend. O(ranges), however far apart
/// they are.
fn present_sections(ranges: &[FrameRange]) -> usize {
    let (mut count, mut counted_to) = (0, 0);
    for range in ranges {
        let first = section_number(range.start).max(counted_to);
        let end = section_number(FrameNumber::new(range.end.get() - 1)) + 1;
        count += end - first.min(end);
        counted_to = end;
    }
    count
}

/// Returns whether the section `number` has frames of `ranges`.
fn has_frames(number: usize, ranges: &[FrameRange]) -> bool {
    let start = FrameNumber::new(number * SECTION_FRAMES);
    let whole = FrameRange::new(start, FrameNumber::new(start.get() + SECTION_FRAMES));
    ranges.iter().any(|range| !range.intersection(whole).is_empty())
}
