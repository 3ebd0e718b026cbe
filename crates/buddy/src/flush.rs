//! How blocks leave a CPU slot: which of those that wait become ready, and how the rest goes home.
//!
//! # Concepts
//! - Blocks that were freed one after the other in one word make a **word** of frames, which goes home in one atomic operation.
//! - The **gate** keeps what lies where memory is dense. Caches that hand out last what was freed first would otherwise freeze
//!   the holes where they are, and no area would ever be whole again.
//! - Words are looked at one **ahead** of the one that goes: its loads overlap with the atomic operation that they would
//!   otherwise wait for.
//!
//! # Concurrency
//! Runs inside the slot or by whoever took it over; takes no lock. The bits are changed as `section.rs` describes.
//!
//! # Costs
//! One atomic operation for each word of frames that goes home; two where the word was full or the area is to be counted again.

use page_frame::{Cpu, Fault, FaultKind, FrameNumber, FrameRange, Order, PhysMap};

use crate::area::Freed;
use crate::cached::MOBILITY;
use crate::cpu_slot::{CpuSlot, LARGEST, Word};
use crate::run::{WORD_BITS, WORD_ORDER, mask};
use crate::section::{Section, is_worth_keeping};
use crate::zone::Place;
use crate::{Buddy, Observe};

/// A word of frames, and what is to be seen where it lies.
struct Look<'z, 'm> {
    word: Word,
    at: Option<(Place, &'z Section<'m>)>,
    seen: (usize, u8),
}

impl<'m, M: PhysMap, C: Cpu, O: Observe> Buddy<'m, M, C, O> {
    /// Looks at the blocks of `order`, below a word's, that wait: those that are worth keeping become ready, as far as there is
    /// room; the rest goes home.
    pub(crate) fn sort_waiting(&self, slot: &mut CpuSlot, order: Order) {
        let Some((waiting, ready)) = slot.both(order.index()) else { return };
        let block = mask(0, order.get().into());
        self.each_look(waiting.words().iter().copied(), |look| {
            let mut going = look.word.frames;
            let mut room = ready.room();
            if room > 0 && !is_worth_keeping(look.seen, MOBILITY) {
                room = 0;
            }
            while room > 0 && going != 0 {
                let bit = going.trailing_zeros() as usize;
                let pushed = ready.push(look.word.start + bit);
                debug_assert!(pushed, "there is room");
                going &= !(block << bit);
                room -= 1;
            }
            if going != 0 {
                self.bring_home(&look, going, order);
            }
        });
        waiting.clear();
    }

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
            let Some((waiting, _)) = slot.both(order.index()) else { continue };
            self.each_look(waiting.words().iter().copied(), |look| {
                frames += look.word.frames.count_ones() as usize;
                self.bring_home(&look, look.word.frames, order);
            });
            waiting.clear();
        }
        let rest = slot.take_rest();
        if rest.frames != 0 {
            self.bring_home(&self.look(rest), rest.frames, Order::ZERO);
        }
        frames += rest.frames.count_ones() as usize;
        for group in 0..crate::kind::GROUPS {
            if let Some(area) = slot.owned(group) {
                slot.set_owned(group, None);
                self.zone.release_owned(area);
            }
        }
        frames
    }

    /// Brings blocks of `order` home.
    fn bring_all_home(&self, order: Order, blocks: &[usize]) {
        if u32::from(order.get()) < WORD_ORDER {
            let words = self.words(order, blocks);
            self.each_look(words, |look| self.bring_home(&look, look.word.frames, order));
            return;
        }
        blocks.iter().for_each(|start| self.bring_block_home(FrameNumber::new(*start), order));
    }

    /// Joins blocks of `order`, below a word's, that follow one another in one word.
    fn words(&self, order: Order, blocks: &[usize]) -> impl Iterator<Item = Word> {
        let block = mask(0, order.get().into());
        let mut rest = blocks.iter().copied().peekable();
        core::iter::from_fn(move || {
            let first = rest.next()?;
            let start = first & !(WORD_BITS - 1);
            let mut frames = block << (first % WORD_BITS);
            while let Some(other) = rest.next_if(|other| other & !(WORD_BITS - 1) == start) {
                let bits = block << (other % WORD_BITS);
                if frames & bits != 0 {
                    self.report_double_free(FrameNumber::new(other), order);
                }
                frames |= bits;
            }
            Some(Word { start, frames })
        })
    }

    /// Calls `each` with every one of `words` after a look at the next one.
    #[inline(always)]
    fn each_look<'z>(
        &'z self,
        mut words: impl Iterator<Item = Word>,
        mut each: impl FnMut(Look<'z, 'm>),
    ) {
        let mut ahead = None;
        loop {
            let after = words.next().map(|word| self.look(word));
            match core::mem::replace(&mut ahead, after) {
                Some(look) => each(look),
                None if ahead.is_none() => return,
                None => {}
            }
        }
    }

    #[inline(always)]
    fn look(&self, word: Word) -> Look<'_, 'm> {
        let at = self.zone.place(FrameNumber::new(word.start));
        let seen = at
            .map_or((0, 0), |(place, section)| section.glance(place.area, place.frame / WORD_BITS));
        Look { word, at, seen }
    }

    /// Brings `frames` of the word looked at home, blocks of `order`.
    #[inline(always)]
    fn bring_home(&self, look: &Look<'_, 'm>, frames: usize, order: Order) {
        let is_taken = look.at.is_some_and(|(place, section)| {
            section.clear(place.area, place.frame / WORD_BITS, frames) != Freed::Already
        });
        let start = FrameNumber::new(look.word.start);
        if !is_taken {
            self.report_double_free(start, order);
        }
        self.zone.note_clear_word(&self.observer, start, frames, order.get().into());
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
    fn report_double_free(&self, frame: FrameNumber, order: Order) {
        let order = order.index();
        (self.fault_hook)(&Fault::new(FaultKind::DoubleFree, frame.get(), order, order));
    }
}
