//! Where a buddy's metadata goes: one piece of zeroed memory, its layout computed before and carved by the same code.

use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;

use page_frame::sync::{AtomicU8, AtomicUsize, Lock, array_in, slice_in, slice_in_mut};
use page_frame::{FrameNumber, FrameRange, PAGE_SHIFT, PageMapArray, PerCpuSlot};

use crate::bitmap::area::{AREA_FRAMES, Line};
use crate::bitmap::hints::{HINT_WORDS, Hints};
use crate::bitmap::placement::{KINDS, MAPS};
use crate::bitmap::search::Bounds;
use crate::bitmap::section::{SECTION_AREAS, SECTION_FRAMES, Section};
use crate::bitmap::section_table::Place;
use crate::bitmap::{Zone, open_section, section_of, withhold_absent};
use crate::bits::WORD_BITS;
use crate::deferred_free::Left;
use crate::percpu::slot::{CpuSlot, Kept};

/// How many areas there are for each kind, at least, where areas have kinds: a guess.
const KIND_AREAS: usize = 4;

/// Why no buddy could be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// There is no frame at all.
    NoFrames,
    /// The range at this index is empty, or does not begin above the end of the one before.
    Unordered {
        /// The range's index.
        index: usize,
    },
    /// The metadata would not fit the address space.
    TooLarge,
    /// The memory given for the metadata is too small.
    MetadataTooSmall {
        /// How many bytes the layout has.
        needed: usize,
        /// How many bytes there are from the first cache line on.
        given: usize,
    },
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFrames => f.write_str("there are no frames"),
            Self::Unordered { index } => {
                write!(f, "range {index} is empty or not above the one before")
            }
            Self::TooLarge => f.write_str("the metadata is larger than the address space"),
            Self::MetadataTooSmall { needed, given } => {
                write!(f, "the metadata needs {needed} bytes, and {given} are there")
            }
        }
    }
}

impl core::error::Error for BuildError {}

/// A pool's parts, in their metadata.
pub(crate) struct Carved<'m> {
    pub(crate) zone: Zone<'m>,
    pub(crate) slots: &'m mut [PerCpuSlot<CpuSlot>],
    pub(crate) kept: &'m [Kept],
    pub(crate) map: PageMapArray<'m>,
}

/// Sizes of the parts of the metadata, and where they begin.
pub(crate) struct Plan {
    first_section: usize,
    sections: usize,
    span: FrameRange,
    slots: usize,
    table_at: usize,
    sections_at: usize,
    ranges_at: usize,
    slots_at: usize,
    kept_at: usize,
    bounds_at: usize,
    lines_at: usize,
    entries_at: usize,
    hints_at: usize,
    areas: usize,
    counts_at: usize,
    gathering_at: usize,
    map_at: usize,
    total: usize,
}

impl Plan {
    /// Plans the metadata of `ranges` (ascending, apart, not empty), of room for more frames, and of `slots` CPU slots.
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
            if range.is_empty() || end.is_some_and(|end| range.start <= end) {
                return Err(BuildError::Unordered { index });
            }
            end = Some(range.end);
        }
        let mut span = FrameRange::new(first.start, last.end);
        if !room.is_empty() {
            span = FrameRange::new(span.start.min(room.start), span.end.max(room.end));
        }
        // Above are no addresses, and below no sum of frames and bytes overflows.
        if span.end.get() > usize::MAX >> PAGE_SHIFT {
            return Err(BuildError::TooLarge);
        }
        let last_frame = FrameNumber::new(span.end.get() - 1);
        let first_section = section_of(span.start);
        let table = section_of(last_frame) - first_section + 1;
        let present = present_sections(first_section, table, ranges).count();
        let areas = last_frame.get() / AREA_FRAMES - span.start.get() / AREA_FRAMES + 1;

        let mut total = 0_usize;
        let mut part = |count: usize, bytes: usize| {
            let at = total;
            let end = count.checked_mul(bytes).and_then(|bytes| at.checked_add(bytes));
            let end = end.and_then(|end| end.checked_next_multiple_of(64));
            total = end.filter(|end| *end <= isize::MAX as usize).ok_or(BuildError::TooLarge)?;
            Ok(at)
        };
        let table_at = part(table, size_of::<Place<'_>>())?;
        let sections_at = part(present, size_of::<Section<'_>>().next_multiple_of(64))?;
        let ranges_at = part(ranges.len(), size_of::<FrameRange>())?;
        let slots_at = part(slots, size_of::<PerCpuSlot<CpuSlot>>())?;
        let kept_at = part(slots, size_of::<Kept>())?;
        let bounds_at = part(1, size_of::<Bounds>())?;
        let lines_at = part(present, SECTION_AREAS * size_of::<Line>())?;
        let entries_at = part(present, SECTION_AREAS * size_of::<AtomicU8>())?;
        let hints_at = part(present, MAPS * size_of::<[AtomicUsize; HINT_WORDS]>())?;
        let counts_at = part(areas, size_of::<AtomicU8>())?;
        let gathering_at = part(areas.div_ceil(WORD_BITS), size_of::<AtomicUsize>())?;
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
            kept_at,
            bounds_at,
            lines_at,
            entries_at,
            hints_at,
            areas,
            counts_at,
            gathering_at,
            map_at,
            total,
        })
    }

    /// Returns size and alignment of the metadata.
    pub(crate) fn layout(&self) -> Layout {
        Layout::from_size_align(self.total, 64).expect("`new` kept the total within `isize::MAX`")
    }

    /// Returns the range from the first frame to the last that may ever be there.
    pub(crate) fn span(&self) -> FrameRange {
        self.span
    }

    /// Builds everything in `metadata`.
    ///
    /// # Safety
    /// 1. `metadata` is valid for reads and writes of [`layout`](Self::layout) during `'m`, zero, and nobody else's.
    /// 2. `ranges` are those that were planned.
    /// 3. `map_start` is page-aligned. Whoever asks the map for pointers may use it for all memory behind the span's frames.
    pub(crate) unsafe fn carve<'m>(
        &self,
        metadata: NonNull<u8>,
        ranges: &[FrameRange],
        map_start: NonNull<u8>,
    ) -> Carved<'m> {
        // SAFETY: clause 1, for this and each `at` below: the plan put every part inside the total.
        let at = |offset: usize| unsafe { metadata.add(offset) };
        // SAFETY: clause 1: room for the ranges, aligned to 64.
        let ranges = unsafe { fill(at(self.ranges_at), ranges.len(), |index| ranges[index]) };
        // SAFETY: clause 1: room for the bounds, aligned to 64.
        let bounds = &unsafe { fill(at(self.bounds_at), 1, |_| Bounds::new()) }[0];
        let mut present = 0;
        let mut section = |index: usize| {
            present_sections(self.first_section + index, 1, ranges).next()?;
            let number = present;
            present += 1;
            let place =
                at(self.sections_at + number * size_of::<Section<'_>>().next_multiple_of(64));
            // SAFETY: clause 1: the plan counted the sections that are present.
            let section = || unsafe { self.section(metadata, number, bounds, index) };
            // SAFETY: clause 1: room for a section, aligned to 64.
            let section = &unsafe { fill(place, 1, |_| section()) }[0];
            let base = (self.first_section + index) * SECTION_FRAMES;
            withhold_absent(section, base, ranges);
            open_section(section, base, ranges);
            Some(section)
        };
        // SAFETY: clause 1: room for the table, aligned to 64.
        let table =
            unsafe { fill(at(self.table_at), self.sections, |index| Place::new(section(index))) };
        // SAFETY: clause 1: zeroed room for the slots, aligned to 64.
        let slots = unsafe { slice_in_mut(at(self.slots_at), self.slots) };
        // SAFETY: clause 1: zeroed room for a count of each slot, aligned to 64.
        let kept = unsafe { slice_in(at(self.kept_at), self.slots) };
        // SAFETY: clause 1: zeroed room for the map; clause 3 for the address.
        let map = unsafe { PageMapArray::new_in(map_start, self.span.frames(), at(self.map_at)) };
        // SAFETY: clause 1: zeroed room for a count of each area, aligned to 64.
        let counts = unsafe { slice_in(at(self.counts_at), self.areas) };
        // SAFETY: clause 1: zeroed room for a bit of each area, aligned to 64.
        let gathering = unsafe { slice_in(at(self.gathering_at), self.areas.div_ceil(WORD_BITS)) };
        let frames: usize = ranges.iter().map(|range| range.frames()).sum();
        let has_kinds = frames / AREA_FRAMES >= KINDS * KIND_AREAS;
        let zone = Zone {
            first_section: self.first_section,
            table,
            has_kinds,
            bounds,
            from_start: ranges,
            span: self.span,
            adding: Lock::new(()),
            left: Left {
                first_area: self.span.start.get() / AREA_FRAMES,
                counts,
                gathering,
                turn: AtomicUsize::new(0),
            },
        };
        Carved { zone, slots, kept, map }
    }

    /// Makes the metadata of the section that is the `number`th of those present.
    ///
    /// # Safety
    /// 1. As `carve`, clause 1, and `number` is below the number of sections planned.
    unsafe fn section<'m>(
        &self,
        metadata: NonNull<u8>,
        number: usize,
        bounds: &'m Bounds,
        index: usize,
    ) -> Section<'m> {
        let lines = self.lines_at + number * SECTION_AREAS * size_of::<Line>();
        let entries = self.entries_at + number * SECTION_AREAS * size_of::<AtomicU8>();
        let hints = self.hints_at + number * MAPS * size_of::<[AtomicUsize; HINT_WORDS]>();
        // SAFETY: clause 1: the plan has room for so many in each section, aligned as every part, and this is its number's.
        unsafe { section(metadata, [lines, entries, hints], bounds, index) }
    }
}

/// Returns size and alignment of what a section needs that is added later: itself, then its lines, entries and hints.
pub(crate) fn section_layout() -> Layout {
    let hints = MAPS * size_of::<[AtomicUsize; HINT_WORDS]>();
    let bytes = added_at()[2] + hints;
    Layout::from_size_align(bytes, 64).expect("some tens of KiB")
}

/// Where lines, entries and hints of an added section begin.
fn added_at() -> [usize; 3] {
    let lines = size_of::<Section<'_>>().next_multiple_of(64);
    let entries = lines + SECTION_AREAS * size_of::<Line>();
    let hints = (entries + SECTION_AREAS * size_of::<AtomicU8>()).next_multiple_of(64);
    [lines, entries, hints]
}

/// Makes a section in metadata of its own, all its frames free and none published.
///
/// # Safety
/// 1. `metadata` is valid for reads and writes of [`section_layout`] during `'m`, zero, and nobody else's.
pub(crate) unsafe fn added_section<'m>(
    metadata: NonNull<u8>,
    bounds: &'m Bounds,
    index: usize,
) -> &'m Section<'m> {
    // SAFETY: clause 1: the layout has room for each part.
    let section = || unsafe { section(metadata, added_at(), bounds, index) };
    // SAFETY: clause 1: the section itself comes first.
    let sections = unsafe { fill(metadata, 1, |_| section()) };
    &sections[0]
}

/// Makes the section `index` of a table, with lines, entries and hints at the offsets `at` of `metadata`.
///
/// # Safety
/// 1. At each offset `metadata` is valid, for reads and writes during `'m`, of what a section has of it, aligned to 64, zero,
///    and nobody else's.
unsafe fn section<'m>(
    metadata: NonNull<u8>,
    at: [usize; 3],
    bounds: &'m Bounds,
    index: usize,
) -> Section<'m> {
    // SAFETY: clause 1, for the three offsets.
    let [lines, entries, hints] = at.map(|at| unsafe { metadata.add(at) });
    // SAFETY: the lines of a section, as clause 1 has room for; the parts do not overlap.
    let lines = unsafe { array_in(lines) };
    // SAFETY: behind the lines, as clause 1 has room for.
    let entries = unsafe { array_in(entries) };
    // SAFETY: behind the entries, as clause 1 has room for.
    let maps = unsafe { array_in(hints) };
    let hints = Hints { maps, bounds, section: index };
    Section { lines, entries, hints, claims: Lock::new(()), undos: AtomicUsize::new(0) }
}

/// Writes `count` values at `memory` and returns them.
///
/// # Safety
/// 1. `memory` is aligned for `T`, valid for writes of `count` values during `'m`, and nobody else's.
unsafe fn fill<'m, T>(
    memory: NonNull<u8>,
    count: usize,
    mut value: impl FnMut(usize) -> T,
) -> &'m [T] {
    let first = memory.cast::<T>();
    for index in 0..count {
        // SAFETY: clause 1: below `count`.
        let place = unsafe { first.add(index) };
        // SAFETY: clause 1: aligned, and valid for a value at each index.
        unsafe { place.write(value(index)) };
    }
    // SAFETY: clause 1; all values were written above.
    unsafe { core::slice::from_raw_parts(first.as_ptr(), count) }
}

/// Iterates over the numbers of those of `count` sections from `first` that have frames.
fn present_sections(
    first: usize,
    count: usize,
    ranges: &[FrameRange],
) -> impl Iterator<Item = usize> {
    (first..first + count).filter(|section| {
        let start = FrameNumber::new(section * SECTION_FRAMES);
        let whole = FrameRange::new(start, FrameNumber::new(start.get() + SECTION_FRAMES));
        ranges.iter().any(|range| !range.intersection(whole).is_empty())
    })
}
