//! What a CPU keeps: stacks of blocks, and which areas it owns.
//!
//! # Concepts
//! Of each order up to the area's a slot keeps blocks that are **ready**: they are handed out, the last first. They come from
//! refills, or were freed where refills come from or where memory is dense. What is freed elsewhere, or when there is no room,
//! is left where it is (`left.rs`) or goes home.
//!
//! The **home** of an order is the area that it was last refilled from. Single frames of a refill that are more than can be
//! ready stay behind as bits, the **rest** of their word.
//!
//! # Invariants
//! - I1: `ready <= end <= PLACES` for each order, and the places below `ready` have ready blocks.
//! - I2: a slot that is not set up is all zero: it has no block, room for none, and every block is at home.
//!
//! # Concurrency
//! None of its own: the slot belongs to whoever entered it or took it over. For everybody else what it keeps is taken.

use page_frame::FrameNumber;
use page_frame::sync::{AtomicUsize, Ordering, Zeroable, in_register};

use crate::bitmap::area::{AREA_FRAMES, AREA_ORDER};
use crate::bitmap::placement::GROUPS;

/// The largest order that slots keep.
pub(crate) const LARGEST: usize = AREA_ORDER as usize;
/// How many orders slots keep.
const ORDERS: usize = LARGEST + 1;
/// The most blocks of an order that are ready.
pub(crate) const MOST_READY: usize = ready(0);
/// Places for blocks of each order: a power of two, so that a place needs no check.
const PLACES: usize = 32;

/// How many blocks of `order` are ready at most: guesses, about what random requests of all orders make of them, and no more
/// than 16 MiB of one order.
const fn ready(order: usize) -> usize {
    match order {
        LARGEST => 8,
        0 => 32,
        1..=4 => 16,
        5 => 12,
        6 | 7 => 8,
        _ => 4,
    }
}

/// Single frames of a word: the frame that bit 0 stands for, and the frames as bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word {
    pub(crate) start: usize,
    pub(crate) frames: usize,
}

impl Word {
    const ZERO: Self = Self { start: 0, frames: 0 };
}

/// The ready blocks of one order.
#[derive(Debug)]
#[repr(C)]
struct Blocks {
    ready: usize,
    end: usize,
    /// Blocks are at home where `frame & home_bits == home`.
    home_bits: usize,
    home: usize,
    /// How many blocks others were told of.
    told: usize,
    /// First frames.
    places: [usize; PLACES],
}

impl Blocks {
    const NONE: Self =
        Self { ready: 0, end: 0, home_bits: 0, home: 0, told: 0, places: [0; PLACES] };

    fn new(order: usize, choosy: bool) -> Self {
        const { assert!(ready(0) <= PLACES, "I1") };
        let home_bits = if choosy && order < LARGEST { !(AREA_FRAMES - 1) } else { 0 };
        let home = if home_bits == 0 { 0 } else { usize::MAX };
        Self { end: ready(order), home_bits, home, ..Self::NONE }
    }

    /// How many more can be ready.
    #[inline]
    fn room(&self) -> usize {
        self.end - self.ready
    }

    /// Keeps the block at `start`; false when there is no room.
    #[inline]
    fn push(&mut self, start: usize) -> bool {
        let has_room = self.ready < self.end;
        if has_room {
            self.places[self.ready % PLACES] = start;
            self.ready += 1;
        }
        has_room
    }
}

/// Everything that a CPU keeps.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct CpuSlot {
    blocks: [Blocks; ORDERS],
    /// The rest of the word that single frames were last refilled from.
    rest: Word,
    /// For each order group the area that is owned for it: its first frame, and one; 0 for none.
    owned: [usize; GROUPS],
    is_set_up: bool,
}

// SAFETY: clause 1: integers and a `bool`, zero and false.
unsafe impl Zeroable for CpuSlot {
    fn zero() -> Self {
        Self {
            blocks: [Blocks::NONE; ORDERS],
            rest: Word::ZERO,
            owned: [0; GROUPS],
            is_set_up: false,
        }
    }
}

/// Hits.
impl CpuSlot {
    /// Returns the blocks of `order`, below [`ORDERS`].
    #[inline(always)]
    fn blocks_of(&mut self, order: usize) -> &mut Blocks {
        let blocks = in_register(&raw mut self.blocks[order]).cast_mut();
        // SAFETY: the address of our own, exclusively borrowed.
        unsafe { &mut *blocks }
    }

    /// Takes out the ready block of `order` that came last.
    #[inline(always)]
    pub(crate) fn pop(&mut self, order: usize) -> Option<FrameNumber> {
        let blocks = self.blocks_of(order);
        let below = blocks.ready.checked_sub(1)?;
        blocks.ready = below;
        // SAFETY: I1: `ready`, which is one more, is at most the number of places.
        Some(FrameNumber::new(*unsafe { blocks.places.get_unchecked(below) }))
    }

    /// Keeps the block of `order` at `start` as a ready one if there is room, and it lies at home or is worth keeping; false
    /// otherwise.
    #[inline(always)]
    pub(crate) fn push(
        &mut self,
        start: FrameNumber,
        order: usize,
        is_worth_keeping: impl FnOnce() -> bool,
    ) -> bool {
        let blocks = self.blocks_of(order);
        let ready = blocks.ready;
        if ready == blocks.end {
            return false;
        }
        if start.get() & blocks.home_bits != blocks.home && !is_worth_keeping() {
            return false;
        }
        blocks.ready = ready + 1;
        // SAFETY: I1: `ready` is not `end`, so it is below the number of places.
        *unsafe { blocks.places.get_unchecked_mut(ready) } = start.get();
        true
    }
}

/// Refills and flushes.
impl CpuSlot {
    /// Gives the orders their room, the first time. Where it is not `choosy`, blocks are at home anywhere.
    #[inline]
    pub(crate) fn set_up(&mut self, choosy: bool) {
        if !self.is_set_up {
            self.blocks = core::array::from_fn(|order| Blocks::new(order, choosy));
            self.is_set_up = true;
        }
    }

    /// Whether the block of `order` at `start` lies where refills come from.
    #[inline]
    pub(crate) fn is_at_home(&self, start: FrameNumber, order: usize) -> bool {
        start.get() & self.blocks[order].home_bits == self.blocks[order].home
    }

    /// Keeps the block of `order` at `start` as ready, wherever it lies; false when there is no room.
    #[inline]
    pub(crate) fn push_ready(&mut self, start: FrameNumber, order: usize) -> bool {
        self.blocks[order].push(start.get())
    }

    /// Makes the blocks of `order`, of which none is ready, ready that begin at the bits `starts` of the word at `word`: the
    /// lowest, as many as there is room for, and of those the lowest on top. Returns the other starts.
    #[inline]
    pub(crate) fn fill(&mut self, word: FrameNumber, mut starts: usize, order: usize) -> usize {
        let blocks = &mut self.blocks[order];
        debug_assert!(blocks.ready == 0, "only an empty stack is filled");
        blocks.home = word.get() & blocks.home_bits;
        let count = (starts.count_ones() as usize).min(blocks.end);
        blocks.ready = count;
        for place in blocks.places[..count].iter_mut().rev() {
            *place = word.get() + starts.trailing_zeros() as usize;
            starts &= starts - 1;
        }
        starts
    }

    /// How many more blocks of `order` can be ready.
    #[inline]
    pub(crate) fn room(&self, order: usize) -> usize {
        self.blocks[order].room()
    }

    /// How many blocks of `order` are ready.
    #[inline]
    pub(crate) fn count_ready(&self, order: usize) -> usize {
        self.blocks[order].ready
    }

    /// Takes out the `number` ready blocks of `order`, or all there are, that came first, the first first; returns them and how
    /// many there were.
    #[inline]
    pub(crate) fn take_ready(
        &mut self,
        order: usize,
        number: usize,
    ) -> ([usize; MOST_READY], usize) {
        let mut taken = [0; MOST_READY];
        let blocks = &mut self.blocks[order];
        let count = number.min(blocks.ready);
        taken[..count].copy_from_slice(&blocks.places[..count]);
        blocks.places.copy_within(count..blocks.ready, 0);
        blocks.ready -= count;
        (taken, count)
    }

    /// Takes out the rest of the word that single frames were last refilled from; none are left when it has no bit.
    #[inline]
    pub(crate) fn take_rest(&mut self) -> Word {
        let nothing = Word { frames: 0, ..self.rest };
        core::mem::replace(&mut self.rest, nothing)
    }

    /// Keeps the rest of a word.
    #[inline]
    pub(crate) fn set_rest(&mut self, rest: Word) {
        self.rest = rest;
    }

    /// Returns the first frame of the area that is owned for order group `group`.
    #[inline]
    pub(crate) fn owned(&self, group: usize) -> Option<FrameNumber> {
        self.owned[group].checked_sub(1).map(FrameNumber::new)
    }

    /// Notes which area is owned for order group `group`.
    pub(crate) fn set_owned(&mut self, group: usize, area: Option<FrameNumber>) {
        self.owned[group] = area.map_or(0, |area| area.get() + 1);
    }

    /// Returns by how many frames the blocks of `order` have become more since this was last asked. The rest of a word does not
    /// count.
    #[inline]
    pub(crate) fn change(&mut self, order: usize) -> isize {
        let blocks = &mut self.blocks[order];
        let now = blocks.ready;
        let before = core::mem::replace(&mut blocks.told, now);
        (now as isize - before as isize) << order
    }
}

/// How many frames a slot holds, where others may read it. On a line of its own.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Kept(AtomicUsize);

// SAFETY: clause 1: one atomic, valid when zero, and padding.
unsafe impl Zeroable for Kept {
    fn zero() -> Self {
        Self(Zeroable::zero())
    }
}

impl Kept {
    #[inline]
    pub(crate) fn get(&self) -> usize {
        // Relaxed: an estimate; nothing is published by it.
        self.0.load(Ordering::Relaxed)
    }

    /// Called by whoever has the slot, its owner or a taker.
    #[inline]
    pub(crate) fn add(&self, frames: isize) {
        // Relaxed: as above; nobody else writes.
        self.0.store(self.get().wrapping_add_signed(frames), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(choosy: bool) -> CpuSlot {
        let mut slot = CpuSlot::zero();
        assert!(slot.pop(0).is_none() && !slot.push_ready(FrameNumber::new(0), 0), "I2");
        assert!(!slot.push(FrameNumber::new(1), 0, || true), "I2");
        slot.set_up(choosy);
        slot
    }

    #[test]
    fn stacks_share_no_place_and_give_back_what_came_last() {
        let mut slot = slot(false);
        let block =
            |order: usize, number: usize| FrameNumber::new((number * ORDERS + order) << order);
        for order in 0..ORDERS {
            let pushed =
                (0..).take_while(|number| slot.push_ready(block(order, *number), order)).count();
            assert_eq!(pushed, ready(order));
        }
        for order in 0..ORDERS {
            for number in (0..ready(order)).rev() {
                assert_eq!(slot.pop(order), Some(block(order, number)));
            }
            assert_eq!(slot.pop(order), None);
        }
    }

    #[test]
    fn blocks_are_kept_at_home_and_where_memory_is_dense() {
        let mut slot = slot(true);
        assert_eq!(slot.fill(FrameNumber::new(3 * AREA_FRAMES + 64), 1 << 8, 1), 0);
        let home = FrameNumber::new(3 * AREA_FRAMES + 2);
        assert!(slot.push(home, 1, || false));
        let away = |number: usize| FrameNumber::new(5 * AREA_FRAMES + 2 * number);
        assert!(!slot.push(away(0), 1, || false) && slot.push(away(0), 1, || true));
        let kept = (1..).take_while(|number| slot.push(away(*number), 1, || true)).count();
        assert_eq!(kept, ready(1) - 3, "as many as there is room for");
        assert!(!slot.push(home, 1, || true), "there is no room");
        for number in (0..=kept).rev() {
            assert_eq!(slot.pop(1), Some(away(number)));
        }
        assert_eq!(slot.pop(1), Some(home));
        assert_eq!(slot.pop(1), Some(FrameNumber::new(3 * AREA_FRAMES + 72)));
        assert_eq!(slot.pop(1), None);
    }

    #[test]
    fn the_oldest_half_leaves_and_the_rest_stays_in_order() {
        let mut slot = slot(false);
        (0..6).for_each(|frame| assert!(slot.push_ready(FrameNumber::new(frame), 0)));
        let (blocks, count) = slot.take_ready(0, 4);
        assert_eq!(blocks[..count], [0, 1, 2, 3]);
        assert_eq!(slot.pop(0), Some(FrameNumber::new(5)));
        assert_eq!(slot.pop(0), Some(FrameNumber::new(4)));
        assert_eq!(slot.pop(0), None);
    }
}
