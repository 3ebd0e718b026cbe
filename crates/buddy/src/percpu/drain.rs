//! Drains: they return the blocks of a CPU slot to their areas.
//!
//! # Concurrency
//! A drain runs inside the slot, on its own CPU or on one that took it over, and takes no lock.
//!
//! # Costs
//! One atomic operation for each word with returned frames; two where the word was full or the area
//! is counted again.

use page_frame::{Cpu, CpuId, FrameNumber, Order};

use crate::bitmap::placement::ORDER_GROUPS;
use crate::frames::Frames;
use crate::frames::area_tags::is_of_areas;
use crate::percpu::Caches;
use crate::percpu::slot::{CpuSlot, MAX_CACHED_ORDER};
use crate::trace::Trace;

impl<C: Cpu> Caches<'_, C> {
    /// Drains slots one by one, by take-over, until `target` frames have returned to their areas;
    /// returns the number of frames.
    ///
    /// It skips slots that a CPU is inside of. Where the machine refuses the fence that a take-over
    /// needs, it enters the caller's own slot instead.
    pub(crate) fn drain_until<T: Trace>(&self, frames: &Frames<'_, T>, target: usize) -> usize {
        let mut returned = 0;
        let mut drain = |id: CpuId, slot: &mut CpuSlot| {
            if returned < target {
                returned += drain_slot(frames, slot);
                let change: isize =
                    (0..=MAX_CACHED_ORDER).map(|order| slot.take_change(order)).sum();
                self.counts[id.index()].add(change);
            }
        };
        let outcome = self.slots.take_over(|_| true, &mut drain);
        if outcome.skipped > 0 {
            if let Ok(mut slot) = self.slots.enter() {
                drain(slot.id(), &mut slot);
            }
        }
        returned
    }

    /// Releases the areas that the CPU's slot owns, so that its next refills prefer areas that have
    /// become empty.
    pub(crate) fn release_owned_areas<T>(&self, frames: &Frames<'_, T>) {
        if let Ok(mut slot) = self.slots.enter() {
            release_owned(frames, &mut slot);
        }
    }

    /// Returns the older half of the cached blocks of `order` to their areas.
    pub(super) fn drain_older_half<T: Trace>(
        &self,
        frames: &Frames<'_, T>,
        slot: &mut CpuSlot,
        order: Order,
    ) {
        let half = slot.len(order.index()).div_ceil(2);
        let (blocks, count) = slot.take_oldest(order.index(), half);
        frames.return_blocks(order, &blocks[..count]);
        if is_of_areas(order) {
            // The next drain probably returns these. Each return ends in an atomic operation, which
            // waits for the stores before it, so what they change is fetched early.
            for area in slot.cached(order.index()) {
                frames.bitmap().prefetch_area(FrameNumber::new(*area));
            }
        }
    }
}

/// Returns all blocks of `slot` to their areas, and releases its owned areas; returns the number of
/// frames.
fn drain_slot<T: Trace>(frames: &Frames<'_, T>, slot: &mut CpuSlot) -> usize {
    let mut returned = 0;
    for order in Order::all().take(MAX_CACHED_ORDER + 1) {
        let (mut blocks, count) = slot.take_oldest(order.index(), usize::MAX);
        // Sorted, so that neighbours return in one atomic operation.
        blocks[..count].sort_unstable();
        frames.return_blocks(order, &blocks[..count]);
        returned += count * order.pages();
    }
    let remainder = slot.take_remainder();
    if remainder.frames != 0 {
        frames.return_word(FrameNumber::new(remainder.start), remainder.frames, Order::ZERO);
    }
    returned += remainder.frames.count_ones() as usize;
    release_owned(frames, slot);
    returned
}

/// Releases the owned areas of `slot`. Its next refills search for areas again.
fn release_owned<T>(frames: &Frames<'_, T>, slot: &mut CpuSlot) {
    (0..ORDER_GROUPS).for_each(|group| release_area(frames, slot, group));
}

/// Releases the area that `slot` owns for blocks of the order group, if it owns one.
pub(super) fn release_area<T>(frames: &Frames<'_, T>, slot: &mut CpuSlot, group: usize) {
    if let Some(area) = slot.owned(group) {
        slot.set_owned(group, None);
        frames.bitmap().release_owned(area);
    }
}
