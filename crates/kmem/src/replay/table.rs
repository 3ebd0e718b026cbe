//! A hash table from traced numbers to live allocations, with open addressing and explicit
//! prefetch.
//!
//! # Concepts
//! The **home slot** of a number is given by the high bits of one multiplication (Knuth TAOCP 3
//! §6.4). A number lies in the first free slot from its home slot on. When a number is removed,
//! later numbers move up (Algorithm R there), so that a search ends at the first free slot. At most
//! half of the slots are taken.
//!
//! An event touches one or two slots, which are seldom in the CPU cache. The replay has the next
//! events in its batch, so it calls [`prefetch`](Table::prefetch) for them. `HashMap` has no such
//! call.
//!
//! The numbers come from a recording; there is no defence against numbers chosen to collide.
//!
//! The system maps the slots' memory as zeros, and a free slot is all zero, so `insert` is the
//! first to write a slot. A large table requests huge pages: accesses are random, so small pages
//! would miss in the TLB, and the first touch of each small page costs as much as several events.
//!
//! # Invariants
//! - I1: the number of slots is a power of two. `taken` counts the slots in use, at most half.
//! - I2: between the home slot of a number and its slot there is no free slot.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use hosted::Mapped;
use page_frame::sync::Zeroable;
use rustix::mm::{Advice, madvise};

/// The `name` of a free slot.
const FREE: u64 = 0;
/// 2^64 divided by the golden ratio, odd.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
/// The size of a huge page on x86-64, and on other processors with pages of 4 KiB.
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// Number of slots of the smallest table.
const FEWEST: usize = 1024;

/// Values by number.
pub(super) struct Table<V> {
    slots: Slots<V>,
    taken: usize,
}

#[derive(Clone, Copy)]
struct Slot<V> {
    name: u64,
    value: V,
}

/// Returns the `name` of `number`'s slot. It is never `FREE`, as traced numbers are below 2^52.
#[inline(always)]
fn name(number: u64) -> u64 {
    debug_assert!(!number != FREE);
    !number
}

impl<V: Copy + Zeroable> Table<V> {
    /// Returns an empty table of the smallest size.
    pub(super) fn new() -> Self {
        Self { slots: Slots::free(FEWEST), taken: 0 }
    }

    /// Prefetches the home slot of `number`.
    #[inline(always)]
    pub(super) fn prefetch(&self, number: u64) {
        #[cfg(target_arch = "x86_64")]
        {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let slot = &raw const self.slots[self.home(number)];
            // SAFETY: a prefetch is a hint: it has no visible effect and does not fault.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(slot.cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = number;
    }

    /// Removes `number` and returns its value. O(1) on average.
    #[inline]
    pub(super) fn take(&mut self, number: u64) -> Option<V> {
        let mut free = self.slot(number);
        let Slot { name: found, value } = self.slots[free];
        if found == FREE {
            return None;
        }
        self.taken -= 1;
        // Moves later numbers into the gap until a free slot follows. A number whose home slot lies
        // after the gap stays.
        let mut next = self.after(free);
        loop {
            let slot = self.slots[next];
            if slot.name == FREE {
                break;
            }
            let distance = |from: usize| next.wrapping_sub(from) & self.mask();
            if distance(self.home(!slot.name)) >= distance(free) {
                self.slots[free] = slot;
                free = next;
            }
            next = self.after(next);
        }
        self.slots[free].name = FREE;
        Some(value)
    }

    /// Sets the value of `number`, in place of an old one. O(1) on average; a table that is half
    /// full doubles first.
    #[inline]
    pub(super) fn insert(&mut self, number: u64, value: V) {
        if self.taken * 2 >= self.slots.len() {
            self.grow();
        }
        let index = self.slot(number);
        self.taken += usize::from(self.slots[index].name == FREE);
        self.slots[index] = Slot { name: name(number), value };
    }

    /// Iterates over the values, in arbitrary order. O(slots).
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.slots.iter().filter(|slot| slot.is_taken()).map(|slot| &slot.value)
    }

    /// Iterates over the values, in arbitrary order.
    pub(super) fn into_values(self) -> impl Iterator<Item = V> {
        let slots = self.slots;
        (0..slots.len())
            .map(move |index| slots[index])
            .filter(Slot::is_taken)
            .map(|slot| slot.value)
    }

    /// Returns the slot that holds `number`, or else the free slot where `insert` would put it.
    #[inline(always)]
    fn slot(&self, number: u64) -> usize {
        let (mut index, wanted) = (self.home(number), name(number));
        while self.slots[index].name != wanted && self.slots[index].name != FREE {
            index = self.after(index);
        }
        index
    }

    #[inline(always)]
    fn mask(&self) -> usize {
        self.slots.len() - 1
    }

    #[inline(always)]
    fn after(&self, index: usize) -> usize {
        (index + 1) & self.mask()
    }

    #[inline(always)]
    fn home(&self, number: u64) -> usize {
        let bits = self.slots.len().trailing_zeros();
        (number.wrapping_mul(FACTOR) >> (64 - bits)) as usize
    }

    #[cold]
    fn grow(&mut self) {
        let more = Slots::free(self.slots.len() * 2);
        let slots = std::mem::replace(&mut self.slots, more);
        for slot in slots.iter().filter(|slot| slot.is_taken()) {
            let index = self.slot(!slot.name);
            self.slots[index] = *slot;
        }
    }
}

impl<V> Slot<V> {
    fn is_taken(&self) -> bool {
        self.name != FREE
    }
}

/// Slots in a mapping of their own.
struct Slots<V> {
    memory: Mapped,
    count: usize,
    owns_slots: PhantomData<Slot<V>>,
}

impl<V: Copy + Zeroable> Slots<V> {
    /// Returns `count` free slots, in huge pages where the system has some.
    ///
    /// # Panics
    /// When there is no memory.
    fn free(count: usize) -> Self {
        let bytes = count * size_of::<Slot<V>>();
        // A mapping is aligned to its size, so huge pages can cover all of a large one.
        let memory = Mapped::reserve(bytes).expect("there is memory for what is live");
        if bytes >= HUGE_PAGE_BYTES {
            let start = memory.start().as_ptr();
            // SAFETY: the range is our mapping; the advice changes the size of its pages, not their
            // contents.
            let _ = unsafe { madvise(start.cast(), bytes, Advice::LinuxHugepage) };
        }
        Self { memory, count, owns_slots: PhantomData }
    }
}

impl<V> Deref for Slots<V> {
    type Target = [Slot<V>];

    #[inline(always)]
    fn deref(&self) -> &[Slot<V>] {
        // SAFETY: the mapping is ours, page-aligned, and has `count` slots. Each is zero, which is
        // valid because `V` is `Zeroable`, or was written as a slot.
        unsafe { std::slice::from_raw_parts(self.memory.start().as_ptr().cast(), self.count) }
    }
}

impl<V> DerefMut for Slots<V> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [Slot<V>] {
        // SAFETY: as in `deref`: `count` valid slots; `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.memory.start().as_ptr().cast(), self.count) }
    }
}

impl<V: Copy + Zeroable> Default for Table<V> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Stamp(u64);

    // SAFETY: clause 1 of `Zeroable`: the value is a number, and all bytes zero is zero.
    unsafe impl Zeroable for Stamp {
        fn zero() -> Self {
            Self(0)
        }
    }

    impl<V: Copy + Zeroable> Table<V> {
        /// Checks the invariants.
        fn validate(&self) {
            assert!(self.slots.len().is_power_of_two() && self.taken * 2 <= self.slots.len(), "I1");
            let taken = |index: &usize| self.slots[*index].is_taken();
            assert_eq!((0..self.slots.len()).filter(taken).count(), self.taken, "I1");
            for index in (0..self.slots.len()).filter(taken) {
                assert_eq!(self.slot(!self.slots[index].name), index, "I2");
            }
        }
    }

    #[test]
    fn a_random_history_is_that_of_a_map() {
        // Few numbers with runs of adjacent home slots, then many.
        for (numbers, shift) in [(1500, 12), (40_000, 3), (300, 0)] {
            let (mut table, mut map) = (Table::<Stamp>::new(), HashMap::new());
            let mut random = 0x2545_f491_4f6c_dd1d_u64;
            for step in 0..100_000 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let number = ((random >> 8) % numbers) << shift;
                table.prefetch(number);
                if random & 3 < 2 {
                    table.insert(number, Stamp(step));
                    map.insert(number, Stamp(step));
                } else {
                    assert_eq!(table.take(number), map.remove(&number));
                }
                if step % 4096 == 0 {
                    table.validate();
                }
            }
            table.validate();
            let mut left: Vec<Stamp> = table.into_values().collect();
            let mut expected: Vec<Stamp> = map.into_values().collect();
            left.sort_unstable();
            expected.sort_unstable();
            assert!(left == expected && !left.is_empty());
        }
    }

    #[test]
    fn those_that_share_a_home_move_up_around_the_end() {
        let mut table = Table::<Stamp>::new();
        let last = table.slots.len() - 1;
        let mut at_the_end = (0..).filter(|number| table.home(*number) == last);
        let [one, two, three] = [(); 3].map(|()| at_the_end.next().expect("there are many"));
        drop(at_the_end);
        for number in [one, two, three] {
            table.insert(number, Stamp(number));
        }
        assert_eq!((table.slot(two), table.slot(three)), (0, 1));
        assert_eq!(table.take(one), Some(Stamp(one)));
        table.validate();
        assert_eq!((table.slot(two), table.slot(three)), (last, 0));
    }
}
