//! A real buddy over frames without memory: it has real metadata, and a buddy never accesses its
//! frames.

use std::io;
use std::ops::Deref;

use buddy::{EventCounts, FrameAllocator, Mode, ZeroedMemory};
use hosted::Mapped;
use page_frame::{Cpu, FrameNumber, FrameRange};

/// A buddy that owns its metadata.
pub struct Simulated<C> {
    // Declared before the memory of its metadata, so dropped first.
    buddy: FrameAllocator<'static, C, EventCounts>,
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
        let layout = FrameAllocator::<C>::metadata_layout(ranges, cpu.slots());
        let metadata = Mapped::reserve(layout.map_err(io::Error::other)?.size())?;
        // SAFETY: mapped memory is zero and page-aligned. It outlives the allocator, as `_metadata`
        // is declared after `buddy`, so dropped later.
        let zeroed = unsafe { ZeroedMemory::from_zeroed(metadata.start(), metadata.bytes()) };
        let buddy = FrameAllocator::new_in(zeroed, ranges, cpu, mode);
        let buddy = buddy.map_err(io::Error::other)?.with_trace(EventCounts::new());
        Ok(Self { buddy, _metadata: metadata })
    }
}

impl<C> Deref for Simulated<C> {
    type Target = FrameAllocator<'static, C, EventCounts>;

    fn deref(&self) -> &Self::Target {
        &self.buddy
    }
}
