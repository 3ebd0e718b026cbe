//! The allocators as shrinkers: they can return the frames of CPU slots and of deferred frees.

use page_frame::{Cpu, Shrink};

use crate::allocator::buddy::Buddy;
use crate::allocator::frame_allocator::FrameAllocator;
use crate::trace::Trace;

/// Other parts of a system, like another zone, call it when they run out of memory. The allocator
/// itself drains before it fails.
impl<M, C, T, const CHECKED: bool> Shrink for Buddy<'_, M, C, T, CHECKED>
where
    M: Sync,
    C: Cpu + Sync,
    T: Trace + Sync,
{
    /// Returns the number of frames that the slots held when each was last refilled or drained.
    /// Costs one load for each slot. Deferred frees are not included.
    fn reclaimable(&self) -> usize {
        self.cached_frames()
    }

    /// Drains the slots that no CPU is inside of, then reconciles areas, until `target_pages`
    /// frames are returned; returns their number.
    fn shrink(&self, target_pages: usize) -> usize {
        self.drain_until(target_pages)
    }
}

/// As for [`Buddy`].
impl<C, T, const CHECKED: bool> Shrink for FrameAllocator<'_, C, T, CHECKED>
where
    C: Cpu + Sync,
    T: Trace + Sync,
{
    fn reclaimable(&self) -> usize {
        self.cached_frames()
    }

    fn shrink(&self, target_pages: usize) -> usize {
        self.drain_until(target_pages)
    }
}
