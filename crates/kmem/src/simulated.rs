//! A real buddy over frames that are only numbers: real metadata, no memory behind the frames, as a buddy never touches
//! them.

use std::io;
use std::ops::Deref;
use std::ptr::NonNull;

use buddy::{Buddy, EventCounts, Mode};
use hosted::Mapped;
use page_frame::{Cpu, DirectMap, FrameNumber, FrameRange, PAGE_SIZE};

/// A buddy that owns its metadata.
pub struct Simulated<C> {
    // Declared before the memory that it stands in, so dropped first.
    buddy: Buddy<'static, DirectMap, C, EventCounts>,
    _metadata: Mapped,
}

impl<C: Cpu> Simulated<C> {
    /// Returns a buddy over frames 0 to `frames`.
    ///
    /// # Errors
    /// No frames, or no memory for the metadata.
    pub fn new(frames: usize, cpu: C, mode: Mode) -> io::Result<Self> {
        let all = FrameRange::new(FrameNumber::new(0), FrameNumber::new(frames));
        Self::with_ranges(&[all], cpu, mode)
    }

    /// Returns a buddy over `ranges`, which ascend and do not touch.
    ///
    /// # Errors
    /// No frames, or no memory for the metadata.
    pub fn with_ranges(ranges: &[FrameRange], cpu: C, mode: Mode) -> io::Result<Self> {
        let layout = Buddy::<DirectMap, C>::metadata_layout(ranges, cpu.slots());
        let metadata = Mapped::reserve(layout.map_err(io::Error::other)?.size())?;
        let root = NonNull::new(std::ptr::without_provenance_mut(PAGE_SIZE))
            .expect("a page size is not zero");
        let first = ranges.first().map_or(FrameNumber::new(0), |range| range.start);
        // SAFETY: frames are only numbers here; no pointer of the map is used.
        let map = unsafe { DirectMap::from_root(root, first) };
        // SAFETY: mapped memory is zero and page-aligned, and stays until after the buddy's drop, as it moves with it
        // and is declared behind it.
        let buddy = unsafe { Buddy::new_in(metadata.start(), ranges, map, cpu, mode) };
        let buddy = buddy.map_err(io::Error::other)?.with_observer(EventCounts::new());
        Ok(Self { buddy, _metadata: metadata })
    }
}

impl<C> Deref for Simulated<C> {
    type Target = Buddy<'static, DirectMap, C, EventCounts>;

    fn deref(&self) -> &Self::Target {
        &self.buddy
    }
}
