//! A CPU slot: the blocks that one CPU caches, in a stack for each order, and the areas that it
//! owns.
//!
//! # Concepts
//! - A slot has a **stack** of blocks for each order up to the area's. Allocation pops the block
//!   that was pushed last. Blocks come from refills, or are freed blocks that lie in the refill
//!   area or in a dense area. Other freed blocks, and those that find the stack full, are deferred
//!   (`deferred_free.rs`) or returned.
//! - The **refill area** of an order is the area that its last refill came from. It need not be
//!   owned.
//! - The **remainder** holds the single frames of a refill that found no room in the stack, as bits
//!   of their word.
//!
//! # Invariants
//! - I1: `len <= capacity <= MAX_BLOCKS` for each stack, and `blocks` holds a block at each index
//!   below `len`.
//! - I2: a slot that is not set up is all zero: it has no block and no room, and every area counts
//!   as the refill area.
//!
//! # Concurrency
//! None of its own: a slot belongs to the CPU that entered it or took it over. Other CPUs see its
//! frames as taken.

use core::fmt;

use page_frame::sync::{Zeroable, in_register};
use page_frame::{FrameNumber, PAGE_SIZE};

use crate::bitmap::bits::{AREA_FRAMES, AREA_ORDER, WORD_BITS};
use crate::bitmap::home::Home;
use crate::bitmap::placement::ORDER_GROUPS;

/// The largest order that slots cache.
pub(super) const MAX_CACHED_ORDER: usize = AREA_ORDER as usize;
/// Number of orders that slots cache.
const ORDERS: usize = MAX_CACHED_ORDER + 1;
/// Maximum number of blocks in any stack.
const MAX_LEN: usize = capacity(0);
/// Length of the array of each stack: a power of two, so that an index needs no check.
const MAX_BLOCKS: usize = 32;

/// Returns the capacity of the stack of `order`. The numbers are guesses, about the working set of
/// random requests of all orders, and at most 16 MiB for each order.
const fn capacity(order: usize) -> usize {
    if order == MAX_CACHED_ORDER {
        return 8;
    }
    match order {
        0 => 32,
        1..=4 => 16,
        5 => 12,
        6 | 7 => 8,
        _ => 4,
    }
}

/// Single frames of one word.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameWord {
    /// The frame of bit 0.
    pub(super) start: usize,
    /// The frames, as bits.
    pub(super) frames: usize,
}

impl FrameWord {
    const EMPTY: Self = Self { start: 0, frames: 0 };
}

/// The cached blocks of one order.
#[derive(Debug)]
#[repr(C)]
struct Stack {
    len: usize,
    capacity: usize,
    /// A block lies in the refill area if `frame & area_mask == refill_area`.
    area_mask: usize,
    refill_area: usize,
    /// Number of blocks at the last call of [`CpuSlot::take_change`].
    reported: usize,
    /// First frames.
    blocks: [usize; MAX_BLOCKS],
}

impl Stack {
    const EMPTY: Self = Self {
        len: 0,
        capacity: 0,
        area_mask: 0,
        refill_area: 0,
        reported: 0,
        blocks: [0; MAX_BLOCKS],
    };

    fn new(order: usize) -> Self {
        const { assert!(MAX_LEN <= MAX_BLOCKS, "I1") };
        let area_mask = if order < MAX_CACHED_ORDER { !(AREA_FRAMES - 1) } else { 0 };
        let refill_area = if area_mask == 0 { 0 } else { usize::MAX };
        Self { capacity: capacity(order), area_mask, refill_area, ..Self::EMPTY }
    }

    /// Pushes the block at `start`; returns false when there is no room.
    #[inline]
    fn push(&mut self, start: usize) -> bool {
        let has_room = self.len < self.capacity;
        if has_room {
            self.blocks[self.len % MAX_BLOCKS] = start;
            self.len += 1;
        }
        has_room
    }
}

/// The blocks and areas of one CPU. With the bytes of the protocol in front it is a page.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct CpuSlot {
    stacks: [Stack; ORDERS],
    remainder: FrameWord,
    /// For each order group the first frame of the owned area plus one; 0 for no area.
    owned: [usize; ORDER_GROUPS],
    /// Where the slot takes empty areas.
    pub(super) home: Home,
    is_set_up: bool,
    padding: Padding,
}

/// Unused memory, so that a shift finds the slot of a CPU: one instruction less than for the 3 KiB
/// that a slot needs.
struct Padding([usize; PADDING / size_of::<usize>()]);

const PADDING: usize = PAGE_SIZE
    - PROTOCOL
    - ORDERS * size_of::<Stack>()
    - size_of::<FrameWord>()
    - size_of::<[usize; ORDER_GROUPS]>()
    - size_of::<Home>()
    - size_of::<usize>(); // `is_set_up`
/// The bytes of the protocol, up to the alignment of a word.
const PROTOCOL: usize = size_of::<usize>();

#[cfg(not(loom))]
const _: () = assert!(size_of::<page_frame::PerCpuSlot<CpuSlot>>() == PAGE_SIZE);

impl fmt::Debug for Padding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", size_of_val(&self.0))
    }
}

// SAFETY: clause 1: the fields are integers and a `bool`, and zero bytes are valid for both.
unsafe impl Zeroable for CpuSlot {
    fn zero() -> Self {
        Self {
            stacks: [Stack::EMPTY; ORDERS],
            remainder: FrameWord::EMPTY,
            owned: [0; ORDER_GROUPS],
            home: Home::none(),
            is_set_up: false,
            padding: Padding([0; PADDING / size_of::<usize>()]),
        }
    }
}

/// Hits.
impl CpuSlot {
    /// Returns the stack of `order`, below [`ORDERS`].
    #[inline(always)]
    fn stack(&mut self, order: usize) -> &mut Stack {
        // An order of zero that the compiler knows leaves a constant offset.
        if order == 0 {
            return &mut self.stacks[0];
        }
        let stack = in_register(&raw mut self.stacks[order]).cast_mut();
        // SAFETY: the pointer is that of our own field, which `&mut self` borrows exclusively.
        unsafe { &mut *stack }
    }

    /// Pops the block of `order` that was pushed last.
    #[inline(always)]
    pub(crate) fn pop(&mut self, order: usize) -> Option<FrameNumber> {
        let stack = self.stack(order);
        let below = stack.len.checked_sub(1)?;
        stack.len = below;
        // SAFETY: I1: `len` was `below + 1` and at most `MAX_BLOCKS`, so `below` is an index.
        Some(FrameNumber::new(*unsafe { stack.blocks.get_unchecked(below) }))
    }

    /// Pushes the block of `order` at `start` if there is room, and it lies in the refill area or
    /// `is_worth_keeping` returns true; returns whether it was pushed.
    #[inline(always)]
    pub(super) fn push_if(
        &mut self,
        start: FrameNumber,
        order: usize,
        is_worth_keeping: impl FnOnce() -> bool,
    ) -> bool {
        let stack = self.stack(order);
        let len = stack.len;
        if len == stack.capacity {
            return false;
        }
        // Whole areas have no refill area.
        let is_elsewhere =
            order < MAX_CACHED_ORDER && start.get() & stack.area_mask != stack.refill_area;
        if is_elsewhere && !is_worth_keeping() {
            return false;
        }
        stack.len = len + 1;
        // SAFETY: I1: `len` is at most `capacity` and not equal to it, hence below `MAX_BLOCKS`.
        *unsafe { stack.blocks.get_unchecked_mut(len) } = start.get();
        true
    }
}

/// Refills and drains.
impl CpuSlot {
    /// Returns whether the slot is set up.
    #[inline]
    pub(super) fn is_set_up(&self) -> bool {
        self.is_set_up
    }

    /// Sets the capacities and `home` of a slot that is not set up.
    pub(super) fn set_up(&mut self, home: Home) {
        self.stacks = core::array::from_fn(Stack::new);
        self.home = home;
        self.is_set_up = true;
    }

    /// Makes the area of the block at `start` the refill area of `order`.
    #[inline]
    pub(super) fn set_refill_area(&mut self, start: FrameNumber, order: usize) {
        let stack = &mut self.stacks[order];
        stack.refill_area = start.get() & stack.area_mask;
    }

    /// Returns whether the block of `order` at `start` lies in the refill area.
    #[inline]
    pub(super) fn is_in_refill_area(&self, start: FrameNumber, order: usize) -> bool {
        start.get() & self.stacks[order].area_mask == self.stacks[order].refill_area
    }

    /// Pushes the block of `order` at `start`, wherever it lies; returns false when there is no
    /// room.
    #[inline]
    pub(crate) fn push(&mut self, start: FrameNumber, order: usize) -> bool {
        self.stacks[order].push(start.get())
    }

    /// Fills the empty stack of `order` with blocks that begin at the bits `starts` of the word at
    /// `word`: the lowest ones, as many as there is room for, the lowest on top. Returns the other
    /// starts.
    #[inline]
    pub(super) fn fill(&mut self, word: FrameNumber, mut starts: usize, order: usize) -> usize {
        let stack = &mut self.stacks[order];
        debug_assert!(stack.len == 0, "only an empty stack is filled");
        stack.refill_area = word.get() & stack.area_mask;
        let count = (starts.count_ones() as usize).min(stack.capacity);
        stack.len = count;
        for block in stack.blocks[..count].iter_mut().rev() {
            *block = word.get() + starts.trailing_zeros() as usize;
            starts &= starts - 1;
        }
        starts
    }

    /// Returns the number of further blocks of `order` that the stack has room for.
    #[inline]
    pub(super) fn room(&self, order: usize) -> usize {
        self.stacks[order].capacity - self.stacks[order].len
    }

    /// Returns the number of cached blocks of `order`.
    #[inline]
    pub(super) fn len(&self, order: usize) -> usize {
        self.stacks[order].len
    }

    /// Returns the cached blocks of `order`, oldest first.
    #[inline]
    pub(super) fn cached(&self, order: usize) -> &[usize] {
        let stack = &self.stacks[order];
        &stack.blocks[..stack.len]
    }

    /// Removes the `number` oldest blocks of `order`, or all; returns them, oldest first, and their
    /// number.
    #[inline]
    pub(super) fn take_oldest(&mut self, order: usize, number: usize) -> ([usize; MAX_LEN], usize) {
        let mut taken = [0; MAX_LEN];
        let stack = &mut self.stacks[order];
        let count = number.min(stack.len);
        taken[..count].copy_from_slice(&stack.blocks[..count]);
        stack.blocks.copy_within(count..stack.len, 0);
        stack.len -= count;
        (taken, count)
    }

    /// Removes the remainder and returns it; without a remainder `frames` is 0.
    #[inline]
    pub(super) fn take_remainder(&mut self) -> FrameWord {
        let nothing = FrameWord { frames: 0, ..self.remainder };
        core::mem::replace(&mut self.remainder, nothing)
    }

    /// Sets the remainder.
    #[inline]
    pub(super) fn set_remainder(&mut self, remainder: FrameWord) {
        self.remainder = remainder;
    }

    /// Returns the first frame of the area that is owned for order group `group`.
    #[inline]
    pub(crate) fn owned(&self, group: usize) -> Option<FrameNumber> {
        self.owned[group].checked_sub(1).map(FrameNumber::new)
    }

    /// Sets the area that is owned for order group `group`.
    pub(crate) fn set_owned(&mut self, group: usize, area: Option<FrameNumber>) {
        self.owned[group] = area.map_or(0, |area| area.get() + 1);
    }

    /// Iterates over the blocks of all stacks, and then over the frames of the remainder: first
    /// frame and order, oldest first in each stack.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (FrameNumber, usize)> {
        let stacks = self.stacks.iter().enumerate();
        let stacked = stacks.flat_map(|(order, stack)| {
            stack.blocks[..stack.len].iter().map(move |start| (FrameNumber::new(*start), order))
        });
        let FrameWord { start, frames } = self.remainder;
        let bits = (0..usize::BITS as usize).filter(move |bit| frames >> bit & 1 == 1);
        stacked.chain(bits.map(move |bit| (FrameNumber::new(start + bit), 0)))
    }

    /// Returns the number of frames that the calls of [`take_change`](Self::take_change) have
    /// reported in sum.
    pub(crate) fn reported_frames(&self) -> usize {
        self.stacks.iter().enumerate().map(|(order, stack)| stack.reported << order).sum()
    }

    /// Returns whether I1 and I2 hold, and the remainder lies in one word.
    pub(crate) fn is_consistent(&self) -> bool {
        let is_filled = |order: usize, stack: &Stack| {
            let expected = if self.is_set_up { capacity(order) } else { 0 };
            stack.len <= stack.capacity && stack.capacity == expected
        };
        let FrameWord { start, frames } = self.remainder;
        self.stacks.iter().enumerate().all(|(order, stack)| is_filled(order, stack))
            && (frames == 0 || start % WORD_BITS == 0)
    }

    /// Returns by how many frames the stack of `order` has grown since the last call. The remainder
    /// does not count.
    #[inline]
    pub(crate) fn take_change(&mut self, order: usize) -> isize {
        let stack = &mut self.stacks[order];
        let before = core::mem::replace(&mut stack.reported, stack.len);
        (stack.len as isize - before as isize) << order
    }
}

#[cfg(test)]
impl CpuSlot {
    /// Sets the length of a stack, as a bug would.
    pub(crate) fn corrupt_len(&mut self, order: usize, len: usize) {
        self.stacks[order].len = len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> CpuSlot {
        let mut slot = CpuSlot::zero();
        assert!(slot.pop(0).is_none() && !slot.push(FrameNumber::new(0), 0), "I2");
        assert!(!slot.push_if(FrameNumber::new(1), 0, || true), "I2");
        slot.set_up(Home::none());
        slot
    }

    #[test]
    fn stacks_share_no_memory_and_pop_the_block_that_was_pushed_last() {
        let mut slot = slot();
        let block =
            |order: usize, number: usize| FrameNumber::new((number * ORDERS + order) << order);
        for order in 0..ORDERS {
            let pushed = (0..).take_while(|number| slot.push(block(order, *number), order)).count();
            assert_eq!(pushed, capacity(order));
        }
        for order in 0..ORDERS {
            for number in (0..capacity(order)).rev() {
                assert_eq!(slot.pop(order), Some(block(order, number)));
            }
            assert_eq!(slot.pop(order), None);
        }
    }

    #[test]
    fn blocks_are_cached_in_the_refill_area_and_where_memory_is_dense() {
        let mut slot = slot();
        assert_eq!(slot.fill(FrameNumber::new(3 * AREA_FRAMES + 64), 1 << 8, 1), 0);
        let here = FrameNumber::new(3 * AREA_FRAMES + 2);
        assert!(slot.push_if(here, 1, || false));
        let elsewhere = |number: usize| FrameNumber::new(5 * AREA_FRAMES + 2 * number);
        assert!(!slot.push_if(elsewhere(0), 1, || false) && slot.push_if(elsewhere(0), 1, || true));
        let pushed =
            (1..).take_while(|number| slot.push_if(elsewhere(*number), 1, || true)).count();
        assert_eq!(pushed, capacity(1) - 3, "as many as there is room for");
        assert!(!slot.push_if(here, 1, || true), "there is no room");
        for number in (0..=pushed).rev() {
            assert_eq!(slot.pop(1), Some(elsewhere(number)));
        }
        assert_eq!(slot.pop(1), Some(here));
        assert_eq!(slot.pop(1), Some(FrameNumber::new(3 * AREA_FRAMES + 72)));
        assert_eq!(slot.pop(1), None);
    }

    #[test]
    fn an_overfull_stack_and_a_remainder_across_words_are_inconsistent() {
        let plant: [fn(&mut CpuSlot); 4] = [
            |slot| slot.stacks[3].len = capacity(3) + 1,
            |slot| slot.stacks[0].capacity = MAX_BLOCKS + 1,
            |slot| slot.remainder = FrameWord { start: 7, frames: 1 },
            |slot| slot.is_set_up = false,
        ];
        assert!(CpuSlot::zero().is_consistent(), "I2");
        for plant in plant {
            let mut slot = slot();
            assert!(slot.is_consistent());
            plant(&mut slot);
            assert!(!slot.is_consistent());
        }
    }

    #[test]
    fn the_oldest_blocks_are_removed_and_the_rest_stays_in_order() {
        let mut slot = slot();
        (0..6).for_each(|frame| assert!(slot.push(FrameNumber::new(frame), 0)));
        let (blocks, count) = slot.take_oldest(0, 4);
        assert_eq!(blocks[..count], [0, 1, 2, 3]);
        assert_eq!(slot.pop(0), Some(FrameNumber::new(5)));
        assert_eq!(slot.pop(0), Some(FrameNumber::new(4)));
        assert_eq!(slot.pop(0), None);
    }
}
