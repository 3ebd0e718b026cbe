//! The address space for all pages, divided into sections. Each section is free, or belongs to the
//! buddy or to a multi-section run.
//!
//! # Concepts
//! The buddy has whole sections, but only the **open** units of them are mapped. A unit is 256 KiB.
//! Units are opened when the buddy returns a block in them for the first time. A block smaller than
//! a quarter of an area opens its whole area, and some areas that follow. A larger run opens its
//! own units only: runs begin at areas and would leave the rest of the last one unused. Where the
//! system refuses, the block is freed again and the request fails.
//!
//! # Invariants
//! - I1: a unit that is in `open` is mapped with access, as far as it lies in the frames of the
//!   buddy. Only code that owns all of its frames unmaps it.
//! - I2: the metadata of the sections in use is mapped: the page map has entries for their frames.

pub(crate) mod areas;
pub(crate) mod metadata;
pub(crate) mod region;
mod residency;
pub(crate) mod sections;
pub(crate) mod units;

use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use page_frame::sync::Lock;
use page_frame::{Cpu, FrameNumber, FrameRange, Order, PAGE_SIZE};

use crate::frame_set::FrameSet;
use crate::system::os_error::OsError;
use crate::threads::Threads;
use crate::threads::tls;
use areas::AREA;
use metadata::{BuddySizes, Layout};
use region::Region;
use sections::{SECTION_FRAMES, Sections};
use units::{UNIT, frames_of_units, units};

/// A block of fewer frames opens all of its area.
pub(crate) const SMALL_BLOCK: usize = AREA / 4;
const UNITS_PER_AREA: usize = AREA / UNIT;
/// Units that are opened ahead of need are at most this part of all open ones.
const AHEAD_DIVISOR: usize = 8;
/// Maximum of units that are opened ahead of need: 16 MiB.
const MAX_AHEAD: usize = 8 * UNITS_PER_AREA;

/// Address space, and the table of its sections. Dropping it unmaps all of it but multi-section
/// runs that were not freed.
#[derive(Debug)]
pub(crate) struct Space {
    sections: Lock<Sections>,
    /// The thread that holds `sections`; zero while none does.
    holder: AtomicUsize,
    /// The open units, by number. Changed under `sections`.
    open: FrameSet,
    open_count: AtomicUsize,
    layout: Layout,
    region: Region,
}

impl Space {
    /// Makes a space of `bytes` bytes, a power of two, with metadata for the buddy, which asks for
    /// `sizes` when it is given the frames of the space and those that it begins with.
    ///
    /// # Errors
    /// The error of the system, or of `sizes`.
    pub(crate) fn new(
        bytes: usize,
        sizes: impl Fn(FrameRange, FrameRange) -> Result<BuddySizes, OsError>,
    ) -> Result<Self, OsError> {
        // The layout is the same wherever the region lies, as it lies at a multiple of its largest
        // block. It is planned for frames from zero on, and one section for the null address.
        let start = FrameNumber::new(SECTION_FRAMES);
        let end = start.get().checked_add(bytes / PAGE_SIZE).ok_or(OsError::INVALID)?;
        let all = FrameRange::new(start, FrameNumber::new(end));
        let sections = Sections::new(all);
        let layout = Layout::new(all, units(all), sizes(all, sections.first())?, sections.count())?;
        let region = match Region::claim(bytes, layout.end, layout.head()) {
            Ok(region) => region,
            Err(_) => Region::reserve(bytes, layout.end, layout.head())?,
        };
        if sections.later() == 0 {
            region.forbid_huge_in(layout.head());
        }
        let sections = Sections::new(region.frames());
        // SAFETY: the offset lies in the region.
        let memory = unsafe { region.start().add(layout.open) };
        // SAFETY: clause 1: the head of a new region is zero and mapped; the set has a part of its
        // own, and is dropped with the region.
        let open = unsafe { FrameSet::new_in(memory, units(region.frames())) };
        let (holder, open_count) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let sections = Lock::new(sections);
        let space = Self { sections, holder, open, open_count, layout, region };
        let described = space.locked(|sections| space.describe(sections, 0, sections.first()));
        described.ok_or(OsError::INVALID)??;
        Ok(space)
    }

    /// Returns the addresses of the space and of its metadata.
    pub(crate) const fn mapping(&self) -> &Region {
        &self.region
    }

    /// Returns where the metadata lies in the region.
    pub(crate) const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Returns the address of the byte at `offset` of the region.
    pub(crate) fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset <= self.layout.end, "{offset} is in the region");
        // SAFETY: inside the region by the assertion.
        unsafe { self.region.start().add(offset) }
    }

    /// Returns a copy of the table of sections. A thread that interrupted the holder of the table's
    /// lock gets an empty one.
    pub(crate) fn sections(&self) -> Sections {
        self.locked(|sections| *sections).unwrap_or_else(|| Sections::none(self.region.frames()))
    }

    /// Returns whether the memory of `range` is accessible.
    #[inline]
    pub(crate) fn is_open(&self, range: FrameRange) -> bool {
        let units = units(range);
        self.open.count(units) == units.frames()
    }

    /// Makes all of the area of `range`, frames of the buddy, accessible, and allows huge pages in
    /// it. Returns the area; `None` if a part of it is open already, or is not the buddy's, or the
    /// system refuses.
    pub(crate) fn open_area(&self, range: FrameRange) -> Option<FrameRange> {
        let area = areas::areas(range).next()?;
        self.locked(|sections| {
            let is_whole = area.intersection(sections.limits(range.start)) == area;
            if !is_whole || self.open.count(units(area)) > 0 {
                return None;
            }
            self.region.map(self.region.offsets(area)).ok()?;
            // Before another thread can write to the area.
            self.region.allow_huge(area);
            self.open.insert(units(area));
            self.open_count.fetch_add(UNITS_PER_AREA, Ordering::Relaxed);
            Some(area)
        })?
    }

    /// Makes the memory of `range`, frames of the buddy in one section, accessible.
    ///
    /// # Errors
    /// The error of the system: there is no address space or no memory left.
    pub(crate) fn open(&self, range: FrameRange) -> Result<(), OsError> {
        let opened = self.locked(|sections| {
            let limits = sections.limits(range.start);
            let needed = units(range);
            if range.frames() >= SMALL_BLOCK {
                let mapped = self.map_closed(needed, limits);
                return mapped.or_else(|error| self.extend_to(needed, limits, error));
            }
            let first = needed.start.get() / UNITS_PER_AREA * UNITS_PER_AREA;
            let ahead = (self.open_count.load(Ordering::Relaxed) / AHEAD_DIVISOR).min(MAX_AHEAD);
            let end = (needed.end.get() + ahead).next_multiple_of(UNITS_PER_AREA);
            let wide = FrameRange::new(
                FrameNumber::new(first.max(units(limits).start.get())),
                FrameNumber::new(end.min(units(limits).end.get())),
            );
            let mapped = self.map_closed(wide, limits).or_else(|_| self.map_closed(needed, limits));
            mapped.or_else(|error| self.extend_to(needed, limits, error))
        });
        opened.unwrap_or(Err(OsError::AGAIN))
    }

    /// Maps the units of `wanted`, by number, that are not open, as far as they lie in `limits`.
    fn map_closed(&self, wanted: FrameRange, limits: FrameRange) -> Result<(), OsError> {
        let is_open = |at: usize| {
            self.open.count(FrameRange::new(FrameNumber::new(at), FrameNumber::new(at + 1))) == 1
        };
        let (mut at, end) = (wanted.start.get(), wanted.end.get());
        while at < end {
            if is_open(at) {
                at += 1;
                continue;
            }
            let run_end = (at..end).find(|at| is_open(*at)).unwrap_or(end);
            let run = FrameRange::new(FrameNumber::new(at), FrameNumber::new(run_end));
            let frames = frames_of_units(run).intersection(limits);
            self.region.map(self.region.offsets(frames))?;
            self.open.insert(run);
            self.open_count.fetch_add(run_end - at, Ordering::Relaxed);
            // The system puts huge pages only where all of an area is mapped.
            if areas::areas(frames).any(|area| self.open.count(units(area)) == UNITS_PER_AREA) {
                self.region.forbid_huge(frames);
            }
            at = run_end;
        }
        Ok(())
    }

    /// Extends the mapping of the last open unit before `needed` up to the end of `needed`. The
    /// system has refused a mapping with `error`: the process may have used up its mappings.
    fn extend_to(
        &self,
        needed: FrameRange,
        limits: FrameRange,
        error: OsError,
    ) -> Result<(), OsError> {
        let number = |at: usize| FrameRange::new(FrameNumber::new(at), FrameNumber::new(at + 1));
        let first = units(limits).start.get();
        let open = (first..needed.start.get()).rev().find(|at| self.open.count(number(*at)) == 1);
        let Some(open) = open.filter(|_| error == OsError::NO_MEMORY) else { return Err(error) };
        let closed = FrameRange::new(FrameNumber::new(open + 1), needed.end);
        let frames = frames_of_units(closed).intersection(limits);
        // SAFETY: clause 1: the last page of the open unit before (I1).
        unsafe { self.region.extend(self.region.offsets(frames)) }?;
        self.open.insert(closed);
        self.open_count.fetch_add(closed.frames(), Ordering::Relaxed);
        self.region.forbid_huge(frames);
        Ok(())
    }

    /// Returns the number of pages in open units.
    pub(crate) fn open_pages(&self) -> usize {
        self.open_count.load(Ordering::Relaxed) * UNIT
    }

    /// Iterates over the frames of the open units of `limits`.
    pub(crate) fn open_units(&self, limits: FrameRange) -> impl Iterator<Item = FrameRange> {
        let numbers = units(limits);
        (numbers.start.get()..numbers.end.get()).filter_map(move |number| {
            let number = FrameRange::new(FrameNumber::new(number), FrameNumber::new(number + 1));
            let is_open = self.open.count(number) == 1;
            is_open.then(|| frames_of_units(number).intersection(limits))
        })
    }

    /// Unmaps an open unit. Returns whether that succeeded.
    ///
    /// # Safety
    /// 1. The caller owns all frames of `unit`, and no code needs their content.
    pub(crate) unsafe fn close(&self, unit: FrameRange) -> bool {
        let closed = self.locked(|_| {
            // SAFETY: clause 1, and I1: the unit is mapped.
            let is_unmapped = unsafe { self.region.unmap(self.region.offsets(unit)) }.is_ok();
            if is_unmapped {
                self.open_count.fetch_sub(self.open.remove(units(unit)), Ordering::Relaxed);
            }
            is_unmapped
        });
        closed.unwrap_or(false)
    }

    /// Gives the buddy its next section: calls `add` with its number and frames. Returns whether
    /// there was a section and `add` returned true.
    pub(crate) fn grow(&self, add: impl FnOnce(usize, FrameRange) -> bool) -> bool {
        let grown = self.locked(|sections| {
            let Some((number, range)) = sections.take_lowest() else { return false };
            let added = self.describe(sections, number, range).is_ok() && add(number, range);
            if !added {
                sections.put_back(number..number + 1);
            }
            added
        });
        grown.unwrap_or(false)
    }

    /// Maps whole sections for a run of `pages` pages; returns the frames of the run.
    pub(crate) fn open_sections(&self, pages: usize, alignment: Order) -> Option<FrameRange> {
        self.locked(|sections| {
            let (numbers, whole) =
                sections.take_highest(pages.div_ceil(SECTION_FRAMES), alignment)?;
            let end = FrameNumber::new(whole.start.get() + pages);
            let range = FrameRange::new(whole.start, end);
            let first = FrameRange::new(whole.start, whole.end.min(section_end(whole.start)));
            let is_described = self.describe(sections, numbers.start, first).is_ok();
            if !is_described || self.region.map(self.region.offsets(range)).is_err() {
                sections.put_back(numbers);
                return None;
            }
            self.region.forbid_huge(range);
            Some(range)
        })?
    }

    /// Maps `range`, the next frames of the sections of a multi-section run. Returns whether that
    /// succeeded.
    pub(crate) fn extend_sections(&self, range: FrameRange) -> bool {
        let is_mapped = self.region.map(self.region.offsets(range)).is_ok();
        if is_mapped {
            self.region.forbid_huge(range);
        }
        is_mapped
    }

    /// Unmaps `range`, the last frames of a multi-section run. Returns whether that succeeded.
    ///
    /// # Safety
    /// 1. No code uses `range` any more.
    pub(crate) unsafe fn cut_sections(&self, range: FrameRange) -> bool {
        // SAFETY: clause 1, and the run was mapped by `open_sections` and `extend_sections`.
        unsafe { self.region.unmap(self.region.offsets(range)) }.is_ok()
    }

    /// Unmaps the multi-section run `range` and makes its sections free.
    ///
    /// # Safety
    /// 1. `range` is a multi-section run that no code uses any more.
    pub(crate) unsafe fn close_sections(&self, range: FrameRange) {
        // SAFETY: clause 1 is clause 1 of `cut_sections`.
        if unsafe { self.cut_sections(range) } {
            self.locked(|sections| sections.put_back_frames(range));
            return;
        }
        // The system has no room for one more mapping: the sections stay taken, without memory.
        let start = self.at(self.region.offsets(range).start);
        // SAFETY: clause 1: mapped, and no code needs the content.
        let _ = unsafe { self.region.decommit(start, range.frames() * PAGE_SIZE) };
    }

    /// Returns whether the space is large enough for multi-section runs.
    pub(crate) fn has_multi_section_runs(&self) -> bool {
        self.layout.has_later_sections()
    }

    /// Returns whether `frame` lies in a multi-section run.
    pub(crate) fn is_multi_section(&self, frame: FrameNumber) -> bool {
        self.locked(|sections| sections.is_multi_section(frame)).unwrap_or(false)
    }

    /// Maps the metadata of section `number`, which has the frames `range`, unless it is mapped.
    fn describe(
        &self,
        sections: &mut Sections,
        number: usize,
        range: FrameRange,
    ) -> Result<(), OsError> {
        if sections.is_described(number) {
            return Ok(());
        }
        let parts = self.layout.of_section(number, self.numbered_from_zero(range));
        for (mapped, part) in parts.iter().enumerate().filter(|(_, part)| !part.is_empty()) {
            if let Err(error) = self.region.map(part.clone()) {
                for part in parts[..mapped].iter().filter(|part| !part.is_empty()) {
                    // SAFETY: mapped just above, and not used.
                    let _ = unsafe { self.region.unmap(part.clone()) };
                }
                return Err(error);
            }
        }
        if number > 0 {
            self.region.forbid_huge_in(parts[0].clone());
        }
        sections.set_described(number);
        Ok(())
    }

    /// Returns the frames `range`, counted from the first frame of the space.
    fn numbered_from_zero(&self, range: FrameRange) -> Range<usize> {
        let first = self.region.frames().start.get();
        range.start.get() - first..range.end.get() - first
    }

    /// Acquires the lock and calls `change` with the table of sections. Returns `None` to a signal
    /// handler that interrupted the holder.
    fn locked<R>(&self, change: impl FnOnce(&mut Sections) -> R) -> Option<R> {
        let mut round = 0;
        let mut sections = loop {
            if let Some(sections) = self.sections.try_lock() {
                break sections;
            }
            // Relaxed: only the running thread stores its own identity.
            if self.holder.load(Ordering::Relaxed) == tls::identity() {
                return None;
            }
            Threads.wait(round);
            round += 1;
        };
        self.holder.store(tls::identity(), Ordering::Relaxed);
        let outcome = change(&mut sections);
        self.holder.store(0, Ordering::Relaxed);
        drop(sections);
        Some(outcome)
    }
}

impl Drop for Space {
    /// Unmaps the parts of a claimed region. A reserved one is unmapped as a whole.
    fn drop(&mut self) {
        if self.region.is_reserved() {
            return;
        }
        let table = self.sections();
        let unmap = |part: Range<usize>| {
            // SAFETY: clause 1: mapped by this value; the code that used it is gone.
            let _ = unsafe { self.region.unmap(part) };
        };
        for limits in table.in_buddy() {
            for unit in self.open_units(limits) {
                unmap(self.region.offsets(unit));
            }
        }
        table.described().for_each(|(number, range)| {
            let parts = self.layout.of_section(number, self.numbered_from_zero(range));
            parts.into_iter().filter(|part| !part.is_empty()).for_each(unmap);
        });
        // The head last, as it has the set of open areas.
        unmap(self.layout.head());
    }
}

fn section_end(frame: FrameNumber) -> FrameNumber {
    FrameNumber::new((frame.get() / SECTION_FRAMES + 1) * SECTION_FRAMES)
}
