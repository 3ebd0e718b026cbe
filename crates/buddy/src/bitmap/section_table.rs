//! The table of sections, which can be filled at run time, and the ranges of frames that there are.
//!
//! # Concepts
//! A section that has no frames costs its **place** in the table and nothing else. A section that is **added** later brings
//! its metadata along, and one range of frames; sections from the start share the zone's metadata and list of ranges.
//!
//! # Concurrency
//! Adding is: build the section where nobody sees it, write its range, store the pointer (Release). Whoever loads the
//! pointer (Acquire) sees all of that. A section is **removed** while nobody is inside the buddy: readers hold plain references,
//! and counting them would cost every request what is needed once in a machine's life.

use core::marker::PhantomData;

use page_frame::sync::{AtomicPtr, AtomicUsize, Ordering};
use page_frame::{FrameNumber, FrameRange};

use crate::bitmap::Zone;
use crate::bitmap::section::Section;

/// A section's place in the table.
#[derive(Debug)]
pub(crate) struct Place<'m> {
    /// Null while there is none.
    section: AtomicPtr<Section<'m>>,
    /// The frames that came with a section added later; empty for those from the start.
    added_start: AtomicUsize,
    added_end: AtomicUsize,
    /// A `Place` may be sent and shared where references to sections may be. `'m` is invariant by the pointer above: a shorter
    /// one would let `put` store a section that goes before the table.
    sections_are_shared: PhantomData<&'m Section<'m>>,
}

impl<'m> Place<'m> {
    /// Makes the place of a section from the start, or of none.
    pub(crate) fn new(section: Option<&'m Section<'m>>) -> Self {
        let section = section
            .map_or(core::ptr::null_mut(), |section| core::ptr::from_ref(section).cast_mut());
        Self {
            section: AtomicPtr::new(section),
            added_start: AtomicUsize::new(0),
            added_end: AtomicUsize::new(0),
            sections_are_shared: PhantomData,
        }
    }

    /// Returns the section, if there is one.
    #[inline]
    pub(crate) fn get(&self) -> Option<&'m Section<'m>> {
        // Acquire: pairs with the Release in `put`; sees the section as it was built.
        let section = self.section.load(Ordering::Acquire);
        // SAFETY: `new`, `put` and `take` store null, or a reference that lives until `take` and is never written through;
        // and clause 1 of `take`: whoever has one from here is done with it by then.
        unsafe { section.as_ref() }
    }

    /// Puts a section that brings `range` into a place without one. The caller is alone in doing so.
    pub(crate) fn put(&self, section: &'m Section<'m>, range: FrameRange) {
        // Relaxed: published by the store of the pointer.
        self.added_start.store(range.start.get(), Ordering::Relaxed);
        self.added_end.store(range.end.get(), Ordering::Relaxed);
        // Release: pairs with the Acquire in `get` and `added`.
        self.section.store(core::ptr::from_ref(section).cast_mut(), Ordering::Release);
    }

    /// Empties the place of a section that was added; returns its frames. The section's metadata is not used any more.
    ///
    /// # Safety
    /// 1. Nobody has a reference from `get`, or gets one before this returns. What they do later happens after this call.
    pub(crate) unsafe fn take(&self) -> Option<FrameRange> {
        let range = self.added()?;
        // Relaxed: clause 1 orders it for everybody else.
        self.section.store(core::ptr::null_mut(), Ordering::Relaxed);
        Some(range)
    }

    /// Returns the frames that came with a section added later.
    pub(crate) fn added(&self) -> Option<FrameRange> {
        // The load in `get` orders those below.
        self.get()?;
        let bound = |at: &AtomicUsize| FrameNumber::new(at.load(Ordering::Relaxed));
        let range = FrameRange::new(bound(&self.added_start), bound(&self.added_end));
        (!range.is_empty()).then_some(range)
    }
}

/// The frames there are.
impl Zone<'_> {
    /// Iterates over the ranges of frames, ascending: those from the start and those added, merged.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = FrameRange> {
        let mut from_start = self.from_start.iter().copied().peekable();
        let mut added = self.table.iter().filter_map(Place::added).peekable();
        core::iter::from_fn(move || match (from_start.peek(), added.peek()) {
            (Some(one), Some(other)) if other.start < one.start => added.next(),
            (Some(_), _) => from_start.next(),
            (None, _) => added.next(),
        })
    }

    /// Whether every frame of `range` is one of the zone's, and all are of one range.
    pub(crate) fn has(&self, range: FrameRange) -> bool {
        let holds = |own: FrameRange| own.start <= range.start && range.end <= own.end;
        self.from_start.iter().copied().any(holds)
            || self.place_of(range.start).and_then(Place::added).is_some_and(holds)
    }

    /// Returns how many frames there are.
    pub(crate) fn frames(&self) -> usize {
        self.ranges().map(|range| range.frames()).sum()
    }
}
