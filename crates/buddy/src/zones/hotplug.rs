//! Memory that comes and goes at run time: sections added, ranges taken offline and brought online again.
//!
//! # Concepts
//! - A buddy built **with room** has places in its table, and entries in its page map, for frames that may come later.
//! - A section that is **added** brings its metadata along, as the frames from the start are in use.
//! - A section that was added is **removed** when all of it is offline: its frames and its metadata are the caller's again.
//! - Going **offline** works area by area: it takes all frames of a range, like one large allocation, and tags them. What
//!   is in the way is somebody's block; the error says which frame, so that the caller moves its content and tries again.
//!
//! # Concurrency
//! Adding holds one try-lock of the table; see `table.rs` for how the section is published. Removing is for when nobody else is
//! inside the buddy, which an exclusive reference proves, or a machine that has stopped its other CPUs. The rest is takes and
//! frees.

use core::fmt;

use page_frame::{Cpu, FrameNumber, FrameRange, Tag};

use crate::bitmap::area::AREA_FRAMES;
use crate::bitmap::section::SECTION_FRAMES;
use crate::bitmap::{open_section, parts, section_of, withhold_absent};
use crate::build;
use crate::{FramePool, Observe, ZeroedMemory};

/// Why memory neither came nor went. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HotplugError {
    /// The range is empty, or crosses into another section.
    NotOneSection,
    /// The buddy was built without room for these frames.
    NoRoom,
    /// The section has frames already, or somebody is adding to the table at this moment.
    Occupied,
    /// Some of the frames are not the buddy's.
    Absent,
    /// The section was there from the start, and shares its metadata with others.
    FromStart,
    /// The range begins or ends inside an area, where memory does not.
    PartOfArea,
    /// The memory given for the section's metadata is too small.
    MetadataTooSmall {
        /// How many bytes the layout has.
        needed: usize,
        /// How many bytes there are from the first cache line on.
        given: usize,
    },
    /// The frame is in use; or, coming online, it was not offline.
    InUse {
        /// The first such frame.
        frame: FrameNumber,
    },
}

impl fmt::Display for HotplugError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOneSection => f.write_str("the range is not inside one section of 1 GiB"),
            Self::NoRoom => f.write_str("the buddy was built without room for these frames"),
            Self::Occupied => f.write_str("the section has frames already"),
            Self::Absent => f.write_str("some of the frames are not there"),
            Self::FromStart => f.write_str("the section was there from the start"),
            Self::PartOfArea => f.write_str("the range begins or ends inside an area"),
            Self::MetadataTooSmall { needed, given } => {
                write!(f, "the metadata needs {needed} bytes, and {given} are there")
            }
            Self::InUse { frame } => write!(f, "{frame} is in use"),
        }
    }
}

impl core::error::Error for HotplugError {}

impl<'m, C: Cpu, O: Observe> FramePool<'m, C, O> {
    /// Adds the frames of `range`, all of them free, see [`FrameAllocator::add_section`](crate::FrameAllocator::add_section).
    pub(crate) fn add_section(
        &self,
        metadata: ZeroedMemory<'m>,
        range: FrameRange,
    ) -> Result<(), HotplugError> {
        let number = section_of(range.start);
        if range.is_empty() || section_of(FrameNumber::new(range.end.get() - 1)) != number {
            return Err(HotplugError::NotOneSection);
        }
        let span = self.zone.span();
        let place = self.zone.place_of(range.start).ok_or(HotplugError::NoRoom)?;
        if range.start < span.start || span.end < range.end {
            return Err(HotplugError::NoRoom);
        }
        let _adding = self.zone.adding.try_lock().ok_or(HotplugError::Occupied)?;
        if place.get().is_some() {
            return Err(HotplugError::Occupied);
        }
        let (needed, given) = (build::section_layout().size(), metadata.bytes());
        if given < needed {
            return Err(HotplugError::MetadataTooSmall { needed, given });
        }
        let index = number - self.zone.first_section;
        // SAFETY: clause 1: `ZeroedMemory` is zero, aligned to 64 and ours during `'m`, or until `remove_section` has emptied the
        // place, after which nobody follows it; and it is large enough, as was checked above.
        let section = unsafe { build::added_section(metadata.start(), self.zone.bounds, index) };
        let base = number * SECTION_FRAMES;
        withhold_absent(section, base, &[range]);
        place.put(section, range);
        // Hints after the pointer: whoever follows one finds the section.
        open_section(section, base, &[range]);
        self.zone.note_release(&self.observer, range);
        Ok(())
    }

    /// Removes a section as [`FrameAllocator::remove_section`](crate::FrameAllocator::remove_section) does, while all other users
    /// of the pool are stopped.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// 1. No other call of this buddy is under way, in another context or below this one; none begins before this one has
    ///    returned; and those that begin later happen after it.
    /// 2. None of its iterators goes on afterwards.
    pub unsafe fn remove_section_while_stopped(
        &self,
        frame: FrameNumber,
    ) -> Result<FrameRange, HotplugError> {
        let place = self.zone.place_of(frame).ok_or(HotplugError::Absent)?;
        let section = place.get().ok_or(HotplugError::Absent)?;
        let range = place.added().ok_or(HotplugError::FromStart)?;
        // What a slot owns it would go on to take from: blocks that are offline are in none.
        self.drain();
        let is_used = |start: &FrameNumber| {
            let area = start.get() % SECTION_FRAMES / AREA_FRAMES;
            self.frame_tag(*start) != Tag::OFFLINE || section.is_owned(area)
        };
        let starts = || parts(range).map(|(start, _)| start);
        if let Some(frame) = starts().find(is_used) {
            return Err(HotplugError::InUse { frame });
        }
        starts().for_each(|start| self.set_tag(start, Tag::NONE));
        // SAFETY: clauses 1 and 2: references to sections live in calls and iterators; `section` is not used below.
        let removed = unsafe { place.take() };
        debug_assert_eq!(removed, Some(range), "nobody else is here to change it");
        Ok(range)
    }

    /// Takes all frames of `range` out of use, whole areas as far as memory goes. Frames that CPU slots keep come home
    /// first.
    ///
    /// O(areas of the range), after taking over the slots of idle CPUs.
    ///
    /// # Errors
    /// [`HotplugError::Absent`], [`HotplugError::PartOfArea`], or [`HotplugError::InUse`] with the first frame that is:
    /// its owner has to move.
    pub fn offline(&self, range: FrameRange) -> Result<(), HotplugError> {
        self.check_areas(range)?;
        self.drain();
        if !self.zone.take_range(&self.observer, range) {
            let mut frames = (range.start.get()..range.end.get()).map(FrameNumber::new);
            let in_the_way = frames.find(|frame| self.zone.is_taken(*frame));
            return Err(HotplugError::InUse { frame: in_the_way.unwrap_or(range.start) });
        }
        parts(range).for_each(|(start, _)| self.set_tag(start, Tag::OFFLINE));
        Ok(())
    }

    /// Brings frames that are offline back into use. O(areas of the range).
    ///
    /// # Errors
    /// [`HotplugError::Absent`], [`HotplugError::PartOfArea`], or [`HotplugError::InUse`] with the first frame that was not
    /// offline.
    pub(crate) fn online(&self, range: FrameRange) -> Result<(), HotplugError> {
        self.check_areas(range)?;
        let starts = || parts(range).map(|(start, _)| start);
        // Of two who bring the same area online at once, one gets it.
        let is_used = |start: &FrameNumber| {
            !self.map.exchange_tag_at(self.map_index(*start), Tag::OFFLINE, Tag::NONE)
        };
        if let Some(frame) = starts().find(is_used) {
            let ours = starts().take_while(|start| *start < frame);
            ours.for_each(|start| self.set_tag(start, Tag::OFFLINE));
            return Err(HotplugError::InUse { frame });
        }
        let released = self.release(range);
        debug_assert!(released == Some(true), "frames that are offline are taken, and areas whole");
        Ok(())
    }

    /// Whether `range` is the buddy's and consists of whole areas, or of all that is there of one.
    fn check_areas(&self, range: FrameRange) -> Result<(), HotplugError> {
        if range.is_empty() || !self.zone.has(range) {
            return Err(HotplugError::Absent);
        }
        let begins = range.start.get() % AREA_FRAMES == 0
            || self.zone.ranges().any(|own| own.start == range.start);
        let ends = range.end.get() % AREA_FRAMES == 0
            || self.zone.ranges().any(|own| own.end == range.end);
        if begins && ends { Ok(()) } else { Err(HotplugError::PartOfArea) }
    }
}
