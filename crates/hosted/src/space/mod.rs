//! The address space for all pages: one mapping, divided into sections. Each section is free, or
//! belongs to the buddy or to a multi-section run.

pub(crate) mod mapping;
pub(crate) mod sections;

use page_frame::sync::Lock;
use page_frame::{Cpu, FrameNumber, FrameRange};

use crate::os_error::OsError;
use crate::threads::Threads;
use mapping::Mapped;
use sections::{SECTION_FRAMES, Sections};

/// Address space, and the table of its sections. Dropping it unmaps all of it.
#[derive(Debug)]
pub(crate) struct Space {
    sections: Lock<Sections>,
    mapping: Mapped,
}

impl Space {
    /// Reserves `bytes` bytes, a power of two, and opens the section that the buddy begins with.
    pub(crate) fn reserve(bytes: usize) -> Result<Self, OsError> {
        let mapping = Mapped::reserve_closed(bytes)?;
        let sections = Sections::new(mapping.frames());
        mapping.exclude_from_dumps();
        mapping.open(sections.first())?;
        Ok(Self { sections: Lock::new(sections), mapping })
    }

    /// Returns the mapping.
    pub(crate) const fn mapping(&self) -> &Mapped {
        &self.mapping
    }

    /// Returns a copy of the table of sections.
    pub(crate) fn sections(&self) -> Sections {
        self.locked(|sections| *sections)
    }

    /// Gives the buddy its next section: opens it and calls `add` with its number and frames.
    /// Returns whether there was a section and `add` returned true.
    pub(crate) fn grow(&self, add: impl FnOnce(usize, FrameRange) -> bool) -> bool {
        self.locked(|sections| {
            let Some((number, range)) = sections.take_lowest() else { return false };
            let added = self.mapping.open(range).is_ok() && add(number, range);
            if !added {
                sections.put_back(number..number + 1);
            }
            added
        })
    }

    /// Opens whole sections for a run of `pages` pages; returns their frames.
    pub(crate) fn open_sections(&self, pages: usize) -> Option<FrameRange> {
        self.locked(|sections| {
            let (numbers, range) = sections.take_highest(pages.div_ceil(SECTION_FRAMES))?;
            if self.mapping.open(range).is_err() {
                sections.put_back(numbers);
                return None;
            }
            Some(range)
        })
    }

    /// Decommits the sections of the multi-section run `range` and makes them free.
    ///
    /// # Safety
    /// 1. `range` is a multi-section run that no code uses any more.
    pub(crate) unsafe fn close_sections(&self, range: FrameRange) {
        // SAFETY: clause 1: no code uses the frames. If the system refuses, the sections stay
        // taken.
        if unsafe { self.mapping.close(range) }.is_ok() {
            self.locked(|sections| sections.put_back_frames(range));
        }
    }

    /// Returns whether the space is large enough for multi-section runs.
    pub(crate) fn has_multi_section_runs(&self) -> bool {
        self.locked(|sections| sections.has_multi_section_runs())
    }

    /// Returns whether `frame` lies in a multi-section run.
    pub(crate) fn is_multi_section(&self, frame: FrameNumber) -> bool {
        self.locked(|sections| sections.is_multi_section(frame))
    }

    /// Acquires the lock and calls `change` with the table of sections. A signal handler that
    /// interrupts the holder and needs a section itself deadlocks.
    fn locked<R>(&self, change: impl FnOnce(&mut Sections) -> R) -> R {
        let mut round = 0;
        loop {
            if let Some(mut sections) = self.sections.try_lock() {
                return change(&mut sections);
            }
            Threads.wait(round);
            round += 1;
        }
    }
}
