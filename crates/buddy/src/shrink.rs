//! The frames in CPU slots, and those freed that are not home yet, as something that can be given back.

use page_frame::{Cpu, PhysMap, Shrink};

use crate::{Buddy, FrameAllocator, Observe};

/// A buddy's own last resort drains its slots already; as a shrinker it serves whoever else runs out, another zone or a
/// system that wants whole areas free.
impl<M: PhysMap + Sync, C: Cpu + Sync, O: Observe + Sync> Shrink for Buddy<'_, M, C, O> {
    /// Returns how many frames the slots held when each was last filled or drained. One load for each slot, no lock. What was
    /// freed and is not home yet comes on top.
    fn reclaimable(&self) -> usize {
        self.kept_frames()
    }

    /// Drains the slots of CPUs that are outside theirs, then brings home what was left in areas, until `target_pages` frames came home; returns how many did.
    fn shrink(&self, target_pages: usize) -> usize {
        self.drain_until(target_pages)
    }
}

/// As for [`Buddy`].
impl<C: Cpu + Sync, O: Observe + Sync> Shrink for FrameAllocator<'_, C, O> {
    /// Returns how many frames the slots held when each was last filled or drained. One load for each slot, no lock. What was
    /// freed and is not home yet comes on top.
    fn reclaimable(&self) -> usize {
        self.kept_frames()
    }

    /// Drains the slots of CPUs that are outside theirs, then brings home what was left in areas, until `target_pages` frames came home; returns how many did.
    fn shrink(&self, target_pages: usize) -> usize {
        self.drain_until(target_pages)
    }
}
