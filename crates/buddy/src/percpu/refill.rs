//! The way through the CPU slot: what happens when it has no block ready, or no room.
//!
//! # Concepts
//! A refill asks the area that the slot owns for that order group, with what was left in it, then acquires another, then takes
//! one block wherever the hints lead. All of it runs inside the slot and takes no lock, so a context that runs on
//! top goes the way without a slot, and cannot block. How blocks leave the slot is `flush.rs`'s business.
//!
//! # Costs
//! A refill of single frames is one atomic swap for up to a word of them, one of orders below a word's is one atomic
//! operation for up to half a stack, one of whole areas a compare-exchange each and one fence. When the owned area has
//! nothing more: a compare-exchange, a store with a fence, and a search.

use page_frame::{Cpu, FrameNumber, FrameRange, Order, Tag, TagPlace};

use crate::bitmap::area::{AREA_FRAMES, AREA_ORDER};
use crate::bitmap::placement::Mobility;
use crate::bits::{WORD_ORDER, spread};
use crate::frame_pool::MOST_AREAS;
use crate::percpu::slot::{CpuSlot, LARGEST, Word};
use crate::unwind::{FreeAllOnUnwind, FreeOnUnwind, FreeRestOnUnwind, FreeWordOnUnwind};
use crate::{FramePool, Observe};

/// How often a refill acquires another area after finding nothing in the one it had: others take from owned areas too,
/// when they find nothing elsewhere.
const ACQUIRE_RETRIES: usize = 3;
/// What slots keep is of this mobility; the rest takes bits directly.
pub(crate) const MOBILITY: Mobility = Mobility::Unmovable;

impl<C: Cpu, O: Observe> FramePool<'_, C, O> {
    /// Takes a block out of the CPU's slot.
    #[inline(always)]
    pub(crate) fn pop(&self, order: Order) -> Option<FrameNumber> {
        if order.index() > LARGEST {
            return None;
        }
        self.slots.enter_known().ok()?.pop(order.index())
    }

    /// Puts an allocated block into the CPU's slot, and clears its tag at `tag`, or leaves it where it is; false when neither was
    /// possible.
    ///
    /// It calls nothing, but for leaving in the end: so its hits need no stack.
    #[inline(always)]
    pub(crate) fn push(&self, frame: FrameNumber, order: Order, tag: TagPlace<'_>) -> bool {
        if order.index() > LARGEST {
            return false;
        }
        let Ok(mut slot) = self.slots.enter_known() else { return false };
        let is_kept = slot.push(frame, order.index(), || self.is_worth_keeping(frame));
        if is_kept {
            // Inside the slot: once outside, the block may be handed out again, and has another tag.
            tag.set(Tag::NONE);
            return true;
        }
        drop(slot);
        self.leave(frame, order, tag)
    }

    /// Whether a freed block at `frame` may stay in a slot.
    #[inline(always)]
    fn is_worth_keeping(&self, frame: FrameNumber) -> bool {
        self.zone.is_worth_keeping(frame, MOBILITY)
    }

    /// Takes a block from areas, past a slot that has none or by way of it.
    pub(crate) fn allocate_refilling(&self, order: Order) -> Option<FrameNumber> {
        if order.index() > LARGEST {
            return self.take_hinted(order);
        }
        let Ok(mut slot) = self.slots.enter() else { return self.take_hinted(order) };
        slot.set_up(self.has_owners);
        let frame = slot.pop(order.index()).or_else(|| self.refill(&mut slot, order));
        self.kept[slot.id().index()].add(slot.change(order.index()));
        frame
    }

    /// Takes as many blocks as `blocks` has room for by way of the slot, entered once; returns how many.
    pub(crate) fn pop_many(&self, order: Order, blocks: &mut [FrameNumber]) -> usize {
        if order.index() > LARGEST {
            return 0;
        }
        let Ok(mut slot) = self.slots.enter() else { return 0 };
        slot.set_up(self.has_owners);
        let mut taken = FreeAllOnUnwind { pool: self, order, blocks, had: 0 };
        while taken.had < taken.blocks.len() {
            let kept = slot.pop(order.index());
            let Some(frame) = kept.or_else(|| self.refill(&mut slot, order)) else { break };
            taken.push(frame);
        }
        self.kept[slot.id().index()].add(slot.change(order.index()));
        taken.forget()
    }

    /// Keeps a freed block, whose tag is cleared, after making room for it; false when it goes home instead.
    pub(crate) fn free_flushing(&self, frame: FrameNumber, order: Order) -> bool {
        let index = order.index();
        if index > LARGEST {
            return false;
        }
        let Ok(mut slot) = self.slots.enter() else { return false };
        slot.set_up(self.has_owners);
        let mut kept = slot.push(frame, index, || self.is_worth_keeping(frame));
        let tag = self.map.place_at(self.map_index(frame));
        kept = kept || tag.is_some_and(|tag| self.leave(frame, order, tag));
        if !kept && (slot.is_at_home(frame, index) || self.is_worth_keeping(frame)) {
            let end = FrameNumber::new(frame.get() + order.pages());
            let undo = FreeOnUnwind::new(&self.zone, FrameRange::new(frame, end));
            self.flush_ready(&mut slot, order);
            _ = undo.forget();
            kept = slot.push_ready(frame, index);
        }
        self.kept[slot.id().index()].add(slot.change(index));
        kept
    }

    /// Fills the slot and takes a block out of what it got.
    fn refill(&self, slot: &mut CpuSlot, order: Order) -> Option<FrameNumber> {
        match u32::from(order.get()) {
            0 => self.refill_frames(slot),
            AREA_ORDER => self.refill_areas(slot),
            below if below < WORD_ORDER => self.refill_blocks(slot, order),
            _ => self.take_hinted(order),
        }
    }

    fn refill_frames(&self, slot: &mut CpuSlot) -> Option<FrameNumber> {
        let mut word = slot.take_rest();
        if word.frames == 0 {
            let owned = self.take_owned(slot, 0, |area| self.zone.take_owned_word(area));
            let (start, frames) = owned.or_else(|| self.zone.take_word(MOBILITY))?;
            let undo = FreeWordOnUnwind::new(&self.zone, start, frames);
            let pieces = frames.count_ones() as usize;
            self.zone.note_take_word(&self.observer, start, frames, pieces);
            undo.forget();
            word = Word { start: start.get(), frames };
        }
        let rest = slot.fill(FrameNumber::new(word.start), word.frames, 0);
        slot.set_rest(Word { frames: rest, ..word });
        slot.pop(0)
    }

    fn refill_blocks(&self, slot: &mut CpuSlot, order: Order) -> Option<FrameNumber> {
        let small = u32::from(order.get());
        let limit = slot.room(order.index()) / 2;
        let take = |area| self.zone.take_owned_runs(area, small, limit);
        let Some((word, starts)) = self.take_owned(slot, small, take) else {
            return self.take_hinted(order);
        };
        let pieces = starts.count_ones() as usize;
        let frames = spread(starts, small);
        let undo = FreeWordOnUnwind::new(&self.zone, word, frames);
        self.zone.note_take_word(&self.observer, word, frames, pieces);
        undo.forget();
        let rest = slot.fill(word, starts, order.index());
        debug_assert!(rest == 0, "no more were taken than there is room for");
        slot.pop(order.index())
    }

    fn refill_areas(&self, slot: &mut CpuSlot) -> Option<FrameNumber> {
        let mut areas = [0; MOST_AREAS];
        // An observer hears of one claim after the other, each as it leaves the rest.
        let batch = if O::IS_USED && O::HEARS_BLOCKS { 1 } else { self.area_batch };
        let claimed = self.zone.claim_batch(&mut areas[..batch]);
        let order = Order::new(AREA_ORDER as u8).expect("areas are smaller than the largest block");
        let mut claimed = FreeRestOnUnwind { zone: &self.zone, order, rest: &areas[..claimed] };
        while let [others @ .., area] = claimed.rest {
            let area = FrameNumber::new(*area);
            self.zone.note_take(&self.observer, area, order);
            claimed.rest = others;
            let pushed = slot.push_ready(area, LARGEST);
            debug_assert!(pushed, "an empty stack has room for a batch");
            // The next refill is likely to claim what follows: its tags are on their way meanwhile.
            self.map.prefetch_tag_at(self.map_index(area) + batch * AREA_FRAMES);
        }
        slot.pop(LARGEST)
    }

    /// Calls `take` with the area that the slot owns for blocks of `order`, and with others while that yields nothing.
    fn take_owned<R>(
        &self,
        slot: &mut CpuSlot,
        order: u32,
        mut take: impl FnMut(FrameNumber) -> Option<R>,
    ) -> Option<R> {
        let group = self.zone.kind_for(order, MOBILITY).index();
        for _ in 0..=ACQUIRE_RETRIES {
            if let Some(area) = slot.owned(group) {
                let taken = take(area).or_else(|| {
                    let gathered = self.gather_area(area);
                    if gathered > 0 { take(area) } else { None }
                });
                if taken.is_some() {
                    return taken;
                }
                slot.set_owned(group, None);
                self.zone.release_owned(area);
            }
            self.gather_next();
            if !self.has_owners {
                return None;
            }
            slot.set_owned(group, Some(self.zone.acquire(order, MOBILITY)?));
        }
        None
    }
}
