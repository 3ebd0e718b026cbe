//! How blocks leave a CPU slot and go home.
//!
//! # Concepts
//! Blocks that follow one another in one word make a **word** of frames, which goes home in one atomic operation.
//!
//! # Concurrency
//! Runs inside the slot or by whoever took it over; takes no lock. The bits are changed as `section.rs` describes.
//!
//! # Costs
//! One atomic operation for each word of frames that goes home; two where the word was full or the area is to be counted again.

use page_frame::{Cpu, Fault, FaultKind, FrameNumber, FrameRange, Order};

use crate::bitmap::area::Freed;
use crate::bits::{WORD_BITS, WORD_ORDER, mask};
use crate::percpu::slot::{CpuSlot, LARGEST, Word};
use crate::unwind::FreeRestOnUnwind;
use crate::{FramePool, Observe};

impl<C: Cpu, O: Observe> FramePool<'_, C, O> {
    /// Brings the older half of the ready blocks of `order` home.
    pub(crate) fn flush_ready(&self, slot: &mut CpuSlot, order: Order) {
        let half = slot.count_ready(order.index()).div_ceil(2);
        let (blocks, count) = slot.take_ready(order.index(), half);
        self.bring_all_home(order, &blocks[..count]);
    }

    /// Brings everything that `slot` keeps home, its owned areas too; returns how many frames it kept.
    pub(crate) fn drain_slot(&self, slot: &mut CpuSlot) -> usize {
        let mut frames = 0;
        for order in Order::all().take(LARGEST + 1) {
            let (ready, count) = slot.take_ready(order.index(), usize::MAX);
            let mut ready = ready;
            let ready = &mut ready[..count];
            ready.sort_unstable();
            self.bring_all_home(order, ready);
            frames += count * order.pages();
        }
        let rest = slot.take_rest();
        if rest.frames != 0 {
            self.bring_word_home(rest, Order::ZERO);
        }
        frames += rest.frames.count_ones() as usize;
        for group in 0..crate::bitmap::placement::GROUPS {
            if let Some(area) = slot.owned(group) {
                slot.set_owned(group, None);
                self.zone.release_owned(area);
            }
        }
        frames
    }

    /// Brings blocks of `order` home. Should a hook or the observer panic, the rest goes home without a word to anybody.
    fn bring_all_home(&self, order: Order, blocks: &[usize]) {
        let mut guard = FreeRestOnUnwind { zone: &self.zone, order, rest: blocks };
        while let [first, others @ ..] = guard.rest {
            if u32::from(order.get()) >= WORD_ORDER {
                guard.rest = others;
                self.bring_block_home(FrameNumber::new(*first), order);
                continue;
            }
            let (word, twice, others) = first_word(order, guard.rest);
            guard.rest = others;
            self.bring_word_home(word, order);
            if let Some(frame) = twice {
                self.report_double_free(frame, order);
            }
        }
    }

    /// Brings the frames of `word`, blocks of `order`, home.
    #[inline(always)]
    fn bring_word_home(&self, word: Word, order: Order) {
        let start = FrameNumber::new(word.start);
        let is_taken = self.zone.place(start).is_some_and(|(place, section)| {
            section.clear(place.area, place.frame / WORD_BITS, word.frames) != Freed::Already
        });
        // Time to gather or not: it is the next in turn to do so who has left something there.
        self.zone.left.note(start, word.frames.count_ones() as usize);
        if !is_taken {
            self.report_double_free(start, order);
        }
        let blocks = word.frames.count_ones() as usize >> order.get();
        self.zone.note_clear_word(&self.observer, start, word.frames, blocks);
    }

    fn bring_block_home(&self, start: FrameNumber, order: Order) {
        if !self.zone.free_block(start, order.get().into()) {
            self.report_double_free(start, order);
        }
        let end = FrameNumber::new(start.get() + order.pages());
        self.zone.note_release(&self.observer, FrameRange::new(start, end));
    }

    /// Two CPUs freed the same block at the same time: both passed the check of the tag, and the bits tell.
    #[cold]
    pub(crate) fn report_double_free(&self, frame: FrameNumber, order: Order) {
        let order = order.index();
        (self.fault_hook)(&Fault::new(FaultKind::DoubleFree, frame.get(), order, order));
    }
}

/// Joins those of `blocks`, of `order` below a word's and not empty, that follow one another in one word: the word, a block that
/// stood there twice, and the blocks behind.
#[inline]
fn first_word(order: Order, blocks: &[usize]) -> (Word, Option<FrameNumber>, &[usize]) {
    let block = mask(0, order.get().into());
    let start = blocks[0] & !(WORD_BITS - 1);
    let (mut frames, mut twice, mut count) = (0, None, 0);
    for other in blocks.iter().take_while(|other| **other & !(WORD_BITS - 1) == start) {
        let bits = block << (other % WORD_BITS);
        if frames & bits != 0 {
            twice = Some(FrameNumber::new(*other));
        }
        frames |= bits;
        count += 1;
    }
    (Word { start, frames }, twice, &blocks[count..])
}
