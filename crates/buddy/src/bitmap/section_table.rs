//! The table of sections, to which sections can be added at run time, and the ranges of frames that
//! exist.
//!
//! # Concepts
//! A section without frames costs its **cell** in the table and nothing else. A section that is
//! **added** at run time brings its own metadata, and one range of frames. Sections that exist from
//! the start share the allocator's metadata and its list of ranges.
//!
//! # Concurrency
//! To add a section, the caller builds it where no other CPU sees it, writes its range, and stores
//! the pointer (Release). A load of the pointer (Acquire) sees all of that. A section is
//! **removed** only while no other call is inside the allocator: readers hold plain references, and
//! counting them would cost every request.

use core::marker::PhantomData;

use page_frame::sync::{AtomicPtr, AtomicUsize, Guard, Lock, Ordering, Zeroable};
use page_frame::{FrameNumber, FrameRange};

use crate::bitmap::bits::{AREA_FRAMES, SECTION_FRAMES};
use crate::bitmap::section::Section;

/// Room for this many areas is much: 8 GiB. A guess.
const MUCH_ROOM: usize = 4096;
/// Room for this many times the areas that exist is much: a guess.
const MUCH_GROWTH: usize = 32;

/// The cell of a section in the table.
#[derive(Debug)]
pub(crate) struct SectionCell<'m> {
    /// Null while there is no section.
    section: AtomicPtr<Section<'m>>,
    /// The frames of a section that was added; empty for a section from the start.
    added_start: AtomicUsize,
    added_end: AtomicUsize,
    /// A cell may be sent and shared where references to sections may be. The field `section` makes
    /// `'m` invariant: with a shorter lifetime `put` could store a section that is dropped before
    /// the table.
    sections_are_shared: PhantomData<&'m Section<'m>>,
}

// SAFETY: clause 1: three atomics, each valid when zero, and a value without bytes. Zero bytes are
// an empty cell.
unsafe impl Zeroable for SectionCell<'_> {
    fn zero() -> Self {
        Self {
            section: Zeroable::zero(),
            added_start: Zeroable::zero(),
            added_end: Zeroable::zero(),
            sections_are_shared: PhantomData,
        }
    }
}

impl<'m> SectionCell<'m> {
    /// Puts a section from the start into an empty cell of a table that no other CPU sees yet.
    pub(crate) fn put_from_start(&self, section: &'m Section<'m>) {
        // Relaxed: who hands the table to other CPUs orders it.
        self.section.store(core::ptr::from_ref(section).cast_mut(), Ordering::Relaxed);
    }

    /// Returns the section, if there is one.
    #[inline]
    pub(crate) fn get(&self) -> Option<&'m Section<'m>> {
        // Acquire: pairs with the Release in `put`; sees the section as it was built.
        let section = self.section.load(Ordering::Acquire);
        // SAFETY: null, or a reference that lives until `take` and is never written through:
        // `put_from_start`, `put` and `take` store nothing else. By clause 1 of `take`, no
        // reference from here is used after it.
        unsafe { section.as_ref() }
    }

    /// As [`SectionTable::put`].
    fn put(&self, section: &'m Section<'m>, range: FrameRange) {
        // Relaxed: published by the store of the pointer.
        self.added_start.store(range.start.get(), Ordering::Relaxed);
        self.added_end.store(range.end.get(), Ordering::Relaxed);
        // Release: pairs with the Acquire in `get`.
        self.section.store(core::ptr::from_ref(section).cast_mut(), Ordering::Release);
    }

    /// Empties the cell of a section that was added; returns its frames. The section's metadata is
    /// unused from then on.
    ///
    /// # Safety
    /// 1. No reference from `get` exists, and none is made before this returns. All later calls
    ///    happen after this call.
    pub(crate) unsafe fn take(&self) -> Option<FrameRange> {
        let range = self.added()?;
        // Relaxed: clause 1 orders it for all other CPUs.
        self.section.store(core::ptr::null_mut(), Ordering::Relaxed);
        Some(range)
    }

    /// Returns the frames of a section that was added.
    pub(crate) fn added(&self) -> Option<FrameRange> {
        // The Acquire load in `get` orders the Relaxed loads that follow.
        self.get()?;
        let bound = |at: &AtomicUsize| FrameNumber::new(at.load(Ordering::Relaxed));
        let range = FrameRange::new(bound(&self.added_start), bound(&self.added_end));
        (!range.is_empty()).then_some(range)
    }
}

/// The position of a frame in its section.
#[derive(Clone, Copy)]
pub(crate) struct Position {
    pub(crate) area: usize,
    /// In the area.
    pub(crate) frame: usize,
}

/// All sections between the first and the last frame.
#[derive(Debug)]
pub(crate) struct SectionTable<'m> {
    /// The number of the section in the first cell.
    first: usize,
    cells: &'m [SectionCell<'m>],
    /// No cell from this index on ever had a section. Searches end here: a table with room for a
    /// terabyte has a thousand cells, and a small heap uses one.
    used: AtomicUsize,
    /// The frames that exist from the start, ascending.
    from_start: &'m [FrameRange],
    /// From the first frame to the last that exists or may be added.
    span: FrameRange,
    /// Held while a section is added. A call tries this lock and never waits for it.
    adding: Lock<()>,
    /// Held during a claim of several sections for one block. A call tries this lock and never
    /// waits for it.
    pub(super) claims: Lock<()>,
}

impl<'m> SectionTable<'m> {
    /// Makes the table of `span`. Its first cell is for the section of the first frame.
    pub(crate) fn new(
        cells: &'m [SectionCell<'m>],
        from_start: &'m [FrameRange],
        span: FrameRange,
    ) -> Self {
        let first = section_number(span.start);
        let end = from_start.last().map_or(first, |last| section_end(*last));
        let (used, adding, claims) = (AtomicUsize::new(end - first), Lock::new(()), Lock::new(()));
        Self { first, cells, used, from_start, span, adding, claims }
    }

    /// Returns the range from the first frame to the last that exists or may be added, holes
    /// included.
    #[inline]
    pub(crate) fn span(&self) -> FrameRange {
        self.span
    }

    /// Returns the number of cells.
    pub(super) fn len(&self) -> usize {
        self.cells.len()
    }

    /// Returns the cells up to the last that ever had a section.
    #[inline]
    fn used(&self) -> &'m [SectionCell<'m>] {
        // Relaxed: a call that begins after a section was added sees the new number. To a call at
        // the same time the section may be absent.
        &self.cells[..self.used.load(Ordering::Relaxed)]
    }

    /// Puts a section with the frames of `range` into its empty cell. The caller holds the table's
    /// lock.
    pub(crate) fn put(&self, section: &'m Section<'m>, range: FrameRange) {
        let index = self.index(range.start);
        self.cells[index].put(section, range);
        // Relaxed: as in `used`.
        self.used.fetch_max(index + 1, Ordering::Relaxed);
    }

    /// Iterates over the sections from cell `first` on: the index of each, its first frame, and
    /// itself.
    pub(super) fn sections_from(
        &self,
        first: usize,
    ) -> impl Iterator<Item = (usize, usize, &'m Section<'m>)> {
        self.used().iter().enumerate().skip(first).filter_map(move |(index, cell)| {
            cell.get().map(|section| (index, (self.first + index) * SECTION_FRAMES, section))
        })
    }

    /// Iterates over the sections, each with its first frame.
    pub(crate) fn sections(&self) -> impl Iterator<Item = (usize, &'m Section<'m>)> {
        self.sections_from(0).map(|(_, base, section)| (base, section))
    }

    /// Returns the section that `frame` lies in, and its position there.
    #[inline]
    pub(crate) fn locate(&self, frame: FrameNumber) -> Option<(Position, &'m Section<'m>)> {
        let in_section = frame.get() % SECTION_FRAMES;
        let position = Position { area: in_section / AREA_FRAMES, frame: in_section % AREA_FRAMES };
        self.cell(frame)?.get().map(|section| (position, section))
    }

    /// Returns the cell of the section that `frame` lies in.
    #[inline]
    pub(crate) fn cell(&self, frame: FrameNumber) -> Option<&'m SectionCell<'m>> {
        self.cells.get(self.index(frame))
    }

    /// Returns the index of the cell of the section that `frame` lies in. It is out of range for
    /// frames outside the span.
    #[inline]
    pub(crate) fn index(&self, frame: FrameNumber) -> usize {
        section_number(frame).wrapping_sub(self.first)
    }

    /// Tries to lock the table for adding a section; `None` while another call holds the lock.
    pub(crate) fn try_lock(&self) -> Option<Guard<'_, ()>> {
        self.adding.try_lock()
    }

    /// Returns whether another call is claiming several sections at this moment.
    pub(crate) fn is_being_claimed(&self) -> bool {
        self.claims.is_locked()
    }

    /// Iterates over the ranges of frames that exist, ascending: those from the start and those
    /// added. Ranges that touch are one.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = FrameRange> {
        let mut from_start = self.from_start.iter().copied().peekable();
        let mut added = self.used().iter().filter_map(SectionCell::added).peekable();
        merged(core::iter::from_fn(move || match (from_start.peek(), added.peek()) {
            (Some(one), Some(other)) if other.start < one.start => added.next(),
            (Some(_), _) => from_start.next(),
            (None, _) => added.next(),
        }))
    }

    /// Returns whether all frames of `range` exist.
    #[inline]
    pub(crate) fn has(&self, range: FrameRange) -> bool {
        let holds = |own: FrameRange| own.start <= range.start && range.end <= own.end;
        self.from_start.iter().copied().any(holds)
            || self.cell(range.start).and_then(SectionCell::added).is_some_and(holds)
            || is_in_several_sections(range) && self.has_across(range)
    }

    /// Returns whether ranges that touch have all frames of `range`.
    #[cold]
    #[inline(never)]
    fn has_across(&self, range: FrameRange) -> bool {
        self.ranges().any(|own| own.start <= range.start && range.end <= own.end)
    }

    /// Returns whether the span is one range that exists from the start.
    #[inline]
    pub(crate) fn is_one_range(&self) -> bool {
        self.from_start == [self.span]
    }

    /// Returns the number of areas that exist from the start. O(ranges).
    pub(crate) fn first_areas(&self) -> usize {
        self.from_start.iter().map(|range| range.frames()).sum::<usize>() / AREA_FRAMES
    }

    /// Returns the number of areas that an allocator plans for: those that exist from the start, or
    /// with room for many more, all that there is room for. A heap begins small and grows.
    pub(crate) fn planned_areas(&self) -> usize {
        let (first, room) = (self.first_areas(), self.span.frames() / AREA_FRAMES);
        if room >= MUCH_ROOM && room >= MUCH_GROWTH * first { room } else { first }
    }

    /// Returns the number of frames.
    pub(crate) fn frames(&self) -> usize {
        self.ranges().map(|range| range.frames()).sum()
    }
}

/// Iterates over `ranges`, which ascend, with those that touch each other joined: blocks may cross
/// the border of two.
pub(crate) fn merged(ranges: impl Iterator<Item = FrameRange>) -> impl Iterator<Item = FrameRange> {
    let mut ranges = ranges.peekable();
    core::iter::from_fn(move || {
        let mut range = ranges.next()?;
        while let Some(next) = ranges.next_if(|next| next.start == range.end) {
            range.end = next.end;
        }
        Some(range)
    })
}

/// Returns whether `range`, which is not empty, has frames of more than one section.
fn is_in_several_sections(range: FrameRange) -> bool {
    section_number(range.start) + 1 != section_end(range)
}

/// Returns the number of the section after the last that has frames of `range`, which is not empty.
fn section_end(range: FrameRange) -> usize {
    section_number(FrameNumber::new(range.end.get() - 1)) + 1
}

/// Returns the number of the section that `frame` lies in.
pub(crate) fn section_number(frame: FrameNumber) -> usize {
    frame.get() / SECTION_FRAMES
}

#[cfg(all(test, not(loom)))]
mod tests {
    extern crate std;

    use std::boxed::Box;
    use std::vec::Vec;

    use page_frame::sync::Zeroable;

    use super::*;
    use crate::bitmap::entry::Entries;
    use crate::bitmap::hints::{Bounds, HintMaps, Hints};
    use crate::bitmap::section::Lines;

    /// Mutations that it catches: a search that ends before the last section; a number of used
    /// cells that falls when a section is added below others; one that counts all cells.
    #[test]
    fn searches_end_at_the_last_section_that_was_added() {
        let lines: Box<Lines> = Box::new(Zeroable::zero());
        let entries: Box<Entries> = Box::new(Zeroable::zero());
        let maps: Box<HintMaps> = Box::new(Zeroable::zero());
        let bounds = Bounds::new();
        let section = Section::new(&lines, &entries, Hints::new(&maps, &bounds, 0));
        let cells: [SectionCell<'_>; 9] = Zeroable::zero();
        let sections = |first: usize, end: usize| {
            let [start, end] = [first, end].map(|at| FrameNumber::new((5 + at) * SECTION_FRAMES));
            FrameRange::new(start, end)
        };
        let first = [sections(0, 2)];
        for cell in &cells[..2] {
            cell.put_from_start(&section);
        }
        let table = SectionTable::new(&cells, &first, sections(0, 9));
        let found = || table.sections_from(0).map(|(index, ..)| index).collect::<Vec<_>>();
        assert_eq!((table.used().len(), found()), (2, [0, 1].into()));
        for (added, used, now) in [(6, 7, [0, 1, 6].to_vec()), (3, 7, [0, 1, 3, 6].to_vec())] {
            table.put(&section, sections(added, added + 1));
            assert_eq!((table.used().len(), found()), (used, now));
        }
        assert!(table.ranges().eq([sections(0, 2), sections(3, 4), sections(6, 7)]));
        assert_eq!((table.first_areas(), table.frames()), (1024, 4 * SECTION_FRAMES));
    }
}
