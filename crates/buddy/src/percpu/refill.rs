//! Refills of a CPU slot that has no block of the wanted order.
//!
//! # Concepts
//! A refill takes blocks from the area that the slot owns for the order group. When the area is
//! full, it reconciles the area's deferred frees and tries again. If the area stays full, the slot
//! acquires another one. Where there are few areas for each used slot, the slot releases the area
//! after the refill, and the next refill searches again for one of the fullest. If it finds no
//! area, the refill searches by hints, for a word of single frames or one block. All of this runs
//! inside the slot and waits for no lock.
//!
//! # Costs
//! A refill of single frames is one atomic swap for up to a word of them. A refill of orders below
//! a word's is one atomic operation for up to half a stack. A refill of whole areas is a
//! compare-exchange for each area and one fence. When the owned area is full, a compare-exchange, a
//! store with a fence, and a search come on top: so at each refill where slots keep no areas.

use page_frame::{Cpu, FrameNumber, Order};

use crate::bitmap::bits::{AREA_ORDER, WORD_ORDER, spread};
use crate::bitmap::section::MAX_CLAIM_BATCH;
use crate::frames::Frames;
use crate::percpu::drain::release_area;
use crate::percpu::slot::{CpuSlot, FrameWord, MAX_CACHED_ORDER};
use crate::percpu::{Caches, MOBILITY};
use crate::trace::Trace;

/// Maximum number of newly acquired areas that a refill tries: other CPUs may empty an owned area
/// first, when they find nothing elsewhere. The refill may acquire one more and leave it to the
/// next, where slots keep areas.
const MAX_ACQUIRED: usize = 3;

impl<C: Cpu> Caches<'_, C> {
    /// Refills the slot, and allocates a block of `order`.
    pub(super) fn refill<T: Trace>(
        &self,
        frames: &Frames<'_, T>,
        slot: &mut CpuSlot,
        order: Order,
    ) -> Option<FrameNumber> {
        match u32::from(order.get()) {
            0 => self.refill_frames(frames, slot),
            AREA_ORDER => self.refill_areas(frames, slot),
            below if below < WORD_ORDER => self.refill_blocks(frames, slot, order),
            _ => self.take_hinted(frames, slot, order),
        }
    }

    /// Takes one block of `order`, which is below the area's order, and makes the block's area the
    /// refill area.
    fn take_hinted<T: Trace>(
        &self,
        frames: &Frames<'_, T>,
        slot: &mut CpuSlot,
        order: Order,
    ) -> Option<FrameNumber> {
        let block = frames.take_hinted(order, MOBILITY, &mut slot.home)?;
        slot.set_refill_area(block, order.index());
        Some(block)
    }

    /// Refills the stack with the remainder, or with all free frames of a word.
    fn refill_frames<T: Trace>(
        &self,
        frames: &Frames<'_, T>,
        slot: &mut CpuSlot,
    ) -> Option<FrameNumber> {
        let mut word = slot.take_remainder();
        if word.frames == 0 {
            let bitmap = frames.bitmap();
            let owned = self.take_owned(frames, slot, 0, |area| bitmap.take_owned_word(area));
            let (start, taken) = owned.or_else(|| bitmap.take_word(MOBILITY, &mut slot.home))?;
            frames.trace_word_for_slot(start, taken, taken.count_ones() as usize);
            word = FrameWord { start: start.get(), frames: taken };
        }
        let rest = slot.fill(FrameNumber::new(word.start), word.frames, 0);
        slot.set_remainder(FrameWord { frames: rest, ..word });
        slot.pop(0)
    }

    /// Refills up to half of the stack with blocks of `order` (below a word's). Where slots own no
    /// areas, it takes at most as many blocks as there are areas for each used slot.
    fn refill_blocks<T: Trace>(
        &self,
        frames: &Frames<'_, T>,
        slot: &mut CpuSlot,
        order: Order,
    ) -> Option<FrameNumber> {
        let small = u32::from(order.get());
        let limit = self.block_batch(slot.room(order.index()) / 2);
        let take = |area| frames.bitmap().take_owned_runs(area, small, limit);
        let Some((word, starts)) = self.take_owned(frames, slot, small, take) else {
            return self.take_hinted(frames, slot, order);
        };
        frames.trace_word_for_slot(word, spread(starts, small), starts.count_ones() as usize);
        let rest = slot.fill(word, starts, order.index());
        debug_assert!(rest == 0, "no more were taken than there is room for");
        slot.pop(order.index())
    }

    /// Refills with a batch of whole areas.
    fn refill_areas<T: Trace>(
        &self,
        frames: &Frames<'_, T>,
        slot: &mut CpuSlot,
    ) -> Option<FrameNumber> {
        let mut areas = [0; MAX_CLAIM_BATCH];
        // Block events are computed after each claim, so with them areas are claimed one by one.
        let batch = if T::IS_ENABLED && T::HAS_BLOCK_EVENTS { 1 } else { self.area_batch() };
        let claimed = frames.bitmap().claim_batch(&mut areas[..batch], &mut slot.home);
        let order = Order::new(AREA_ORDER as u8).expect("areas are smaller than the largest block");
        let mut claimed = frames.rest_guard(order, &areas[..claimed]);
        while let [others @ .., area] = claimed.rest {
            let area = FrameNumber::new(*area);
            frames.trace_take(area, order);
            claimed.rest = others;
            let pushed = slot.push(area, MAX_CACHED_ORDER);
            debug_assert!(pushed, "an empty stack has room for a batch");
        }
        slot.pop(MAX_CACHED_ORDER)
    }

    /// Calls `take` with the area that the slot owns for blocks of `order`, and with newly acquired
    /// areas until it returns a value. Where slots keep no areas, it releases the area afterwards.
    fn take_owned<T: Trace, R>(
        &self,
        frames: &Frames<'_, T>,
        slot: &mut CpuSlot,
        order: u32,
        take: impl Fn(FrameNumber) -> Option<R>,
    ) -> Option<R> {
        let group = frames.bitmap().placement_for(order, MOBILITY).index();
        for _ in 0..=MAX_ACQUIRED {
            if let Some(area) = slot.owned(group) {
                let taken = take(area)
                    .or_else(|| if frames.reconcile_area(area) > 0 { take(area) } else { None });
                if taken.is_none() || !self.keeps_areas() {
                    release_area(frames, slot, group);
                }
                if taken.is_some() {
                    return taken;
                }
            }
            frames.reconcile_next();
            let acquired = frames.bitmap().acquire(order, MOBILITY, &mut slot.home)?;
            slot.set_owned(group, Some(acquired));
        }
        if !self.keeps_areas() {
            release_area(frames, slot, group);
        }
        None
    }
}
