//! The way through the CPU slot: what happens when it is empty or full.
//!
//! # Concepts
//! A refill asks the area that the slot owns for that kind, then acquires another, then takes one block wherever the hints
//! lead. A flush brings the older half home. Both run inside the slot and take no lock, so a context that runs on top of
//! them goes the way without a slot, and cannot block.
//!
//! # Costs
//! A refill of single frames is one atomic swap for up to a word of them, one of orders below a word's is one atomic
//! operation for up to half a stack, one of whole areas a compare-exchange each and one fence. When the owned area has
//! nothing more: a compare-exchange, a store with a fence, and a search.

use page_frame::{Cpu, Fault, FaultKind, FrameNumber, FrameRange, Order, PhysMap, Tag};

use crate::area::AREA_ORDER;
use crate::cpu_slot::{Blocks, CpuSlot, LARGEST};
use crate::kind::Mobility;
use crate::run::{WORD_ORDER, spread};
use crate::{Buddy, Observe};

/// How often a refill acquires another area after finding nothing in the one it had: others take from owned areas too,
/// when they find nothing elsewhere.
const ACQUIRE_RETRIES: usize = 3;
/// How many areas a refill of whole areas claims at most.
const AREA_BATCH: usize = 4;
/// What slots keep is of this mobility; the rest takes bits directly.
const MOBILITY: Mobility = Mobility::Unmovable;

impl<M: PhysMap, C: Cpu, O: Observe> Buddy<'_, M, C, O> {
    /// Takes a block out of the CPU's slot.
    #[inline(always)]
    pub(crate) fn pop(&self, order: Order) -> Option<FrameNumber> {
        let mut slot = self.slots.enter().ok()?;
        match slot.blocks.get_mut(order.index().wrapping_sub(1)) {
            Some(blocks) => blocks.pop(),
            None if order == Order::ZERO => slot.pop_frame(),
            None => None,
        }
    }

    /// Puts a block into the CPU's slot; false when it does not belong there, or there is no room.
    #[inline(always)]
    pub(crate) fn push(&self, frame: FrameNumber, order: Order) -> bool {
        let Ok(mut slot) = self.slots.enter() else { return false };
        match slot.blocks.get_mut(order.index().wrapping_sub(1)) {
            Some(blocks) => blocks.is_at_home(frame) && blocks.push(frame),
            None if order == Order::ZERO => slot.push_frame(frame),
            None => false,
        }
    }

    /// Takes a block from areas, past a slot that has none or by way of it.
    pub(crate) fn allocate_refilling(&self, order: Order) -> Option<FrameNumber> {
        if order.index() > LARGEST {
            return self.take_hinted(order);
        }
        let Ok(mut slot) = self.slots.enter() else { return self.take_hinted(order) };
        let frame = self.refill(&mut slot, order);
        self.kept[slot.id().index()].set(slot.estimate());
        frame
    }

    /// Takes as many blocks as `blocks` has room for by way of the slot, entered once; returns how many.
    pub(crate) fn pop_many(&self, order: Order, blocks: &mut [FrameNumber]) -> usize {
        if order.index() > LARGEST {
            return 0;
        }
        let Ok(mut slot) = self.slots.enter() else { return 0 };
        let mut had = 0;
        while had < blocks.len() {
            let kept = match order.index().checked_sub(1) {
                Some(index) => slot.blocks[index].pop(),
                None => slot.pop_frame(),
            };
            let Some(frame) = kept.or_else(|| self.refill(&mut slot, order)) else { break };
            self.set_tag(frame, Tag::block(order));
            blocks[had] = frame;
            had += 1;
        }
        self.kept[slot.id().index()].set(slot.estimate());
        had
    }

    /// Keeps a block that the slot had no room for, or that is not from where its refills come; false when it goes home
    /// instead.
    pub(crate) fn free_flushing(&self, frame: FrameNumber, order: Order) -> bool {
        let small = u32::from(order.get());
        if small > AREA_ORDER || (0 < small && small < AREA_ORDER && !self.is_kept(frame, small)) {
            return false;
        }
        let Ok(mut slot) = self.slots.enter() else { return false };
        let kept = match small {
            0 => slot.push_frame(frame),
            _ => slot.blocks[order.index() - 1].push(frame),
        };
        if kept {
            return true;
        }
        let kept = match small {
            0 => {
                self.flush_words(&mut slot);
                slot.push_frame(frame)
            }
            _ => {
                self.flush_blocks(&mut slot, order, Blocks::capacity(order.index()) / 2);
                slot.blocks[order.index() - 1].push(frame)
            }
        };
        self.kept[slot.id().index()].set(slot.estimate());
        kept
    }

    /// Whether a freed block goes to the slot. Where slots own no areas there is too little memory to be choosy.
    fn is_kept(&self, frame: FrameNumber, order: u32) -> bool {
        !self.has_owners || self.zone.is_worth_keeping(frame, order, MOBILITY)
    }

    /// Brings everything that `slot` keeps home, its owned areas too; returns how many frames it kept.
    pub(crate) fn drain_slot(&self, slot: &mut CpuSlot) -> usize {
        let mut frames = 0;
        while let Some(word) = slot.drain_word() {
            frames += word.frames.count_ones() as usize;
            self.bring_word_home(FrameNumber::new(word.start), word.frames);
        }
        for order in Order::all().skip(1).take(LARGEST) {
            loop {
                let flushed = self.flush_blocks(slot, order, usize::MAX);
                if flushed == 0 {
                    break;
                }
                frames += flushed * order.pages();
            }
        }
        for owned in &mut slot.owned {
            if let Some(area) = owned.take() {
                self.zone.release_owned(area);
            }
        }
        frames
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
        let last = slot.last_freed().map(|word| FrameNumber::new(word.start));
        if last.is_some_and(|word| self.zone.is_worth_keeping(word, 0, MOBILITY)) {
            slot.recycle();
            return slot.pop_frame();
        }
        let owned = self.take_owned(slot, 0, |area| self.zone.take_owned_word(area));
        match owned.or_else(|| self.zone.take_word(MOBILITY)) {
            Some((word, frames)) => {
                let pieces = frames.count_ones() as usize;
                self.zone.note_take_word(&self.observer, word, frames, pieces);
                slot.refill(word, frames);
            }
            None => _ = slot.recycle(),
        }
        slot.pop_frame()
    }

    fn refill_blocks(&self, slot: &mut CpuSlot, order: Order) -> Option<FrameNumber> {
        let capacity = Blocks::capacity(order.index());
        let small = u32::from(order.get());
        let take = |area| self.zone.take_owned_runs(area, small, capacity / 2);
        let Some((word, mut starts)) = self.take_owned(slot, small, take) else {
            return self.take_hinted(order);
        };
        let pieces = starts.count_ones() as usize;
        self.zone.note_take_word(&self.observer, word, spread(starts, small), pieces);
        let blocks = &mut slot.blocks[order.index() - 1];
        blocks.settle_in(word);
        while starts != 0 {
            let highest = starts.ilog2();
            starts &= !(1 << highest);
            let pushed = blocks.push(FrameNumber::new(word.get() + highest as usize));
            debug_assert!(pushed, "an empty stack has room for half of its capacity");
        }
        blocks.pop()
    }

    fn refill_areas(&self, slot: &mut CpuSlot) -> Option<FrameNumber> {
        let mut areas = [0; AREA_BATCH];
        // An observer hears of one claim after the other, each as it leaves the rest.
        let batch = if O::IS_USED { 1 } else { AREA_BATCH };
        let claimed = self.zone.claim_batch(&mut areas[..batch]);
        let blocks = &mut slot.blocks[LARGEST - 1];
        for area in areas[..claimed].iter().rev() {
            let area = FrameNumber::new(*area);
            let order =
                Order::new(AREA_ORDER as u8).expect("areas are smaller than the largest block");
            self.zone.note_take(&self.observer, area, order);
            let pushed = blocks.push(area);
            debug_assert!(pushed, "an empty stack has room for a batch");
        }
        blocks.pop()
    }

    /// Calls `take` with the area that the slot owns for blocks of `order`, and with others while that yields nothing.
    fn take_owned<R>(
        &self,
        slot: &mut CpuSlot,
        order: u32,
        mut take: impl FnMut(FrameNumber) -> Option<R>,
    ) -> Option<R> {
        let owned = &mut slot.owned[self.zone.kind_for(order, MOBILITY).index()];
        for _ in 0..=ACQUIRE_RETRIES {
            if let Some(area) = *owned {
                let taken = take(area);
                if taken.is_some() {
                    return taken;
                }
                *owned = None;
                self.zone.release_owned(area);
            }
            if !self.has_owners {
                return None;
            }
            *owned = Some(self.zone.acquire(order, MOBILITY)?);
        }
        None
    }

    fn flush_words(&self, slot: &mut CpuSlot) {
        for word in slot.older_words() {
            self.bring_word_home(FrameNumber::new(word.start), word.frames);
        }
    }

    fn bring_word_home(&self, word: FrameNumber, frames: usize) {
        if !self.zone.clear_word(word, frames) {
            self.report_double_free(word, 0);
        }
        self.zone.note_clear_word(&self.observer, word, frames);
    }

    /// Brings up to `number` of the oldest blocks of `order` home; returns how many.
    fn flush_blocks(&self, slot: &mut CpuSlot, order: Order, number: usize) -> usize {
        let mut older = [0; 8];
        let count = slot.blocks[order.index() - 1].older(number, &mut older);
        for start in &older[..count] {
            let start = FrameNumber::new(*start);
            if !self.zone.free_block(start, order.get().into()) {
                self.report_double_free(start, order.index());
            }
            let end = FrameNumber::new(start.get() + order.pages());
            self.zone.note_release(&self.observer, FrameRange::new(start, end));
        }
        count
    }

    /// Two CPUs freed the same block at the same time: both passed the check of the tag, and the bits tell.
    #[cold]
    fn report_double_free(&self, frame: FrameNumber, order: usize) {
        (self.fault_hook)(&Fault::new(FaultKind::DoubleFree, frame.get(), order, order));
    }
}
