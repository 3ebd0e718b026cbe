//! What a CPU keeps: stacks of blocks, and which areas it owns.
//!
//! # Concepts
//! For each order up to the area's a slot has two stacks.
//! - **Ready** blocks are handed out, the last first: those of a refill, those freed where refills come from, and those
//!   that the gate let through.
//! - **Waiting** blocks were freed elsewhere. They are looked at together, when there are many of them or none is ready:
//!   what lies where memory is dense becomes ready, the rest goes home, neighbours in one operation.
//!
//! The **home** of a stack is the area that it was last refilled from. Which of the two stacks a freed block goes to is
//! arithmetic on its number, so that the way of a block through the slot has no branch that depends on the order or on where
//! the block lies.
//!
//! All places are one array of 256, so that a byte names a place and needs no check.
//!
//! # Invariants
//! - I1: `bottom <= top <= end` for each stack, and no two stacks share a place between `bottom` and `end`.
//! - I2: a slot that is not set up is all zero: it has no block, and room for none.
//!
//! # Concurrency
//! None of its own: the slot belongs to whoever entered it or took it over. For everybody else what it keeps is taken.

use page_frame::FrameNumber;
use page_frame::sync::{AtomicUsize, Ordering, Zeroable};

use crate::area::{AREA_FRAMES, AREA_ORDER};
use crate::kind::GROUPS;
use crate::run::WORD_ORDER;

/// The largest order that slots keep.
pub(crate) const LARGEST: usize = AREA_ORDER as usize;
/// How many orders slots keep.
const ORDERS: usize = LARGEST + 1;
/// The most blocks that wait, and so the most that are looked at together.
pub(crate) const MOST_WAITING: usize = waiting(0);
/// The most blocks of an order that a slot keeps.
pub(crate) const MOST_KEPT: usize = ready(0) + waiting(0);
/// Places for blocks: as many as a byte tells apart.
const PLACES: usize = 256;

const _: () = assert!(all_places() < PLACES, "`end` fits in a byte");

/// How many blocks of `order` are ready at most. Single frames: a word of them. The rest: guesses, about what 64 random
/// requests of all orders ask for, and no more than 16 MiB.
const fn ready(order: usize) -> usize {
    match order {
        LARGEST => 8,
        0 => 64,
        1 => 32,
        2 => 24,
        3 => 16,
        4 => 12,
        5 => 8,
        _ => 4,
    }
}

/// How many blocks of `order` wait at most: none from a word's order on, which cannot be brought home together.
const fn waiting(order: usize) -> usize {
    match order {
        order if order >= WORD_ORDER as usize => 0,
        0 => 32,
        1 => 16,
        2 | 3 => 8,
        _ => 4,
    }
}

const fn all_places() -> usize {
    let (mut order, mut places) = (0, 0);
    while order < ORDERS {
        places += ready(order) + waiting(order);
        order += 1;
    }
    places
}

/// A stack's places. Of four bytes, so that the machine can index it.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(4))]
struct Stack {
    top: u8,
    bottom: u8,
    end: u8,
}

/// Where blocks of one order are as good as at home: `frame & bits == start`.
#[derive(Clone, Copy, Debug)]
struct Home {
    start: usize,
    bits: usize,
}

/// Everything that a CPU keeps.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct CpuSlot {
    /// For each order the ready stack and the waiting one.
    stacks: [Stack; 2 * ORDERS],
    homes: [Home; ORDERS],
    /// First frames of blocks.
    places: [usize; PLACES],
    /// For each order group the area that is owned for it: its first frame, and one; 0 for none.
    owned: [usize; GROUPS],
    /// For each order how many blocks others were told of.
    told: [u8; ORDERS],
    is_set_up: bool,
}

// SAFETY: clause 1: integers and a `bool`, zero and false.
unsafe impl Zeroable for CpuSlot {
    fn zero() -> Self {
        Self {
            stacks: [Stack { top: 0, bottom: 0, end: 0 }; 2 * ORDERS],
            homes: [Home { start: 0, bits: 0 }; ORDERS],
            places: [0; PLACES],
            owned: [0; GROUPS],
            told: [0; ORDERS],
            is_set_up: false,
        }
    }
}

/// Hits.
impl CpuSlot {
    /// Takes out the ready block of `order` that came last.
    #[inline(always)]
    pub(crate) fn pop(&mut self, order: usize) -> Option<FrameNumber> {
        debug_assert!(order < ORDERS);
        let stack = &mut self.stacks[2 * order];
        if stack.top == stack.bottom {
            return None;
        }
        let top = stack.top.wrapping_sub(1);
        stack.top = top;
        Some(FrameNumber::new(self.places[usize::from(top)]))
    }

    /// Keeps the block of `order` at `start`; false when there is no room where it belongs.
    #[inline(always)]
    pub(crate) fn push(&mut self, start: FrameNumber, order: usize) -> bool {
        debug_assert!(order < ORDERS);
        let home = self.homes[order];
        let elsewhere = usize::from(start.get() & home.bits != home.start);
        self.push_to(2 * order + elsewhere, start)
    }

    #[inline(always)]
    fn push_to(&mut self, stack: usize, start: FrameNumber) -> bool {
        let stack = &mut self.stacks[stack];
        if stack.top == stack.end {
            return false;
        }
        let top = stack.top;
        stack.top = top.wrapping_add(1);
        self.places[usize::from(top)] = start.get();
        true
    }
}

/// Refills and flushes.
impl CpuSlot {
    /// Gives the stacks their places, the first time. Where it is not `choosy`, blocks are at home anywhere.
    pub(crate) fn set_up(&mut self, choosy: bool) {
        if self.is_set_up {
            return;
        }
        let mut next = 0;
        for order in 0..ORDERS {
            for (stack, places) in [(2 * order, ready(order)), (2 * order + 1, waiting(order))] {
                let end = next + places as u8;
                self.stacks[stack] = Stack { top: next, bottom: next, end };
                next = end;
            }
            let bits = if choosy && order < LARGEST { !(AREA_FRAMES - 1) } else { 0 };
            self.homes[order] = Home { start: if bits == 0 { 0 } else { usize::MAX }, bits };
        }
        self.is_set_up = true;
    }

    /// Notes that blocks of `order` come from the area of `frame`.
    pub(crate) fn settle_in(&mut self, frame: FrameNumber, order: usize) {
        self.homes[order].start = frame.get() & self.homes[order].bits;
    }

    /// Whether blocks of `order` wait at all before they go home.
    pub(crate) const fn can_wait(order: usize) -> bool {
        waiting(order) > 0
    }

    /// Whether the block of `order` at `start` lies where refills come from.
    pub(crate) fn is_at_home(&self, start: FrameNumber, order: usize) -> bool {
        let home = self.homes[order];
        start.get() & home.bits == home.start
    }

    /// Keeps the block of `order` at `start` as ready, wherever it lies; false when there is no room.
    pub(crate) fn push_ready(&mut self, start: FrameNumber, order: usize) -> bool {
        self.push_to(2 * order, start)
    }

    /// How many more blocks of `order` can be ready.
    pub(crate) fn room(&self, order: usize) -> usize {
        let stack = self.stacks[2 * order];
        usize::from(stack.end - stack.top)
    }

    /// How many blocks of `order` are ready.
    pub(crate) fn count_ready(&self, order: usize) -> usize {
        let stack = self.stacks[2 * order];
        usize::from(stack.top - stack.bottom)
    }

    /// Takes out all blocks of `order` that wait, into `blocks`, the first first; returns how many there were.
    pub(crate) fn take_waiting(&mut self, order: usize, blocks: &mut [usize]) -> usize {
        self.take_oldest(2 * order + 1, usize::MAX, blocks)
    }

    /// Takes out up to `number` of the ready blocks of `order` that came first, into `blocks`; returns how many there were.
    pub(crate) fn take_ready(
        &mut self,
        order: usize,
        number: usize,
        blocks: &mut [usize],
    ) -> usize {
        self.take_oldest(2 * order, number, blocks)
    }

    fn take_oldest(&mut self, stack: usize, number: usize, blocks: &mut [usize]) -> usize {
        let Stack { top, bottom, .. } = self.stacks[stack];
        let (first, last) = (usize::from(bottom), usize::from(top));
        let number = number.min(last - first).min(blocks.len());
        blocks[..number].copy_from_slice(&self.places[first..first + number]);
        self.places.copy_within(first + number..last, first);
        self.stacks[stack].top = top - number as u8;
        number
    }

    /// Returns the first frame of the area that is owned for order group `group`.
    pub(crate) fn owned(&self, group: usize) -> Option<FrameNumber> {
        self.owned[group].checked_sub(1).map(FrameNumber::new)
    }

    /// Notes which area is owned for order group `group`.
    pub(crate) fn set_owned(&mut self, group: usize, area: Option<FrameNumber>) {
        self.owned[group] = area.map_or(0, |area| area.get() + 1);
    }

    /// Returns by how many frames the blocks of `order` have become more since this was last asked.
    pub(crate) fn change(&mut self, order: usize) -> isize {
        let blocks = |stack: Stack| stack.top - stack.bottom;
        let now = blocks(self.stacks[2 * order]) + blocks(self.stacks[2 * order + 1]);
        let before = core::mem::replace(&mut self.told[order], now);
        (isize::from(now) - isize::from(before)) << order
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
    pub(crate) fn get(&self) -> usize {
        // Relaxed: an estimate; nothing is published by it.
        self.0.load(Ordering::Relaxed)
    }

    /// Called by whoever has the slot, its owner or a taker.
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
        assert!(slot.pop(0).is_none() && !slot.push(FrameNumber::new(0), 0), "I2");
        slot.set_up(choosy);
        slot
    }

    #[test]
    fn stacks_share_no_place_and_give_back_what_came_last() {
        let mut slot = slot(false);
        let block =
            |order: usize, number: usize| FrameNumber::new((number * ORDERS + order) << order);
        for order in 0..ORDERS {
            let pushed = (0..).take_while(|number| slot.push(block(order, *number), order)).count();
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
    fn blocks_from_elsewhere_wait_and_leave_in_order() {
        let mut slot = slot(true);
        slot.settle_in(FrameNumber::new(3 * AREA_FRAMES + 64), 1);
        let home = FrameNumber::new(3 * AREA_FRAMES + 2);
        assert!(slot.push(home, 1));
        let away = |number: usize| FrameNumber::new(5 * AREA_FRAMES + 2 * number);
        assert_eq!((0..).take_while(|number| slot.push(away(*number), 1)).count(), waiting(1));
        assert_eq!(slot.change(1), 2 * (1 + waiting(1) as isize));
        let mut blocks = [0; MOST_WAITING];
        assert_eq!(slot.take_waiting(1, &mut blocks), waiting(1));
        assert!((0..waiting(1)).all(|number| blocks[number] == away(number).get()));
        assert_eq!((slot.pop(1), slot.pop(1)), (Some(home), None));
    }

    #[test]
    fn the_oldest_half_leaves_and_the_rest_stays_in_order() {
        let mut slot = slot(false);
        (0..6).for_each(|frame| assert!(slot.push(FrameNumber::new(frame), 0)));
        let mut blocks = [0; 4];
        assert_eq!(slot.take_ready(0, 4, &mut blocks), 4);
        assert_eq!(blocks, [0, 1, 2, 3]);
        assert_eq!(slot.pop(0), Some(FrameNumber::new(5)));
        assert_eq!(slot.pop(0), Some(FrameNumber::new(4)));
        assert_eq!(slot.pop(0), None);
    }
}
