//! The depot: where the CPUs of a cache exchange full and empty magazines.
//!
//! # Concepts
//! A CPU whose magazines are full stores a full one in the depot and takes an empty one; a CPU
//! whose magazines are empty does the opposite. Each exchange takes the depot's lock once, so
//! objects pass from one CPU to another without a slab access.
//!
//! Both stacks follow the working set. Each notes the minimum number of magazines that it held
//! since the last [aging pass](crate::registry::aging): the next pass takes that many, as they were
//! not needed (Bonwick and Adams 2001, section 3.4). Each is bounded, at first by few objects. A
//! magazine that finds no room is **refused**, and its objects go to their slabs. If a CPU then
//! asks a stack that is empty, the refused magazine was **missed**, and the stack gets room for one
//! more. So the depot of a cache whose objects are freed and allocated in turns soon holds all of
//! them, and that of a cache that only grows holds almost none.

use core::ptr::NonNull;

use crate::percpu::magazine::{CAPACITIES, Chain, Magazine};
use crate::slabs::clock::Work;

/// The default of a depot's initial capacity, in bytes of free objects in full magazines.
///
/// Measured at the peak of a recorded build, for objects of up to 512 bytes: the pages held were
/// 1.0994 times the live ones with 256 KiB, 1.0966 times with 64 and with 32 KiB, and 1.0994 times
/// with 16 KiB.
pub(crate) const USUAL_ROOM: usize = 32 << 10;
/// Maximum places of full magazines in a depot, besides those of magazines that were missed.
const MOST_PLACES: usize = 1 << 15;
/// Minimum room for empty magazines, in places: two magazines of the largest capacity.
const FEWEST_EMPTY: u16 = 2 * CAPACITIES[CAPACITIES.len() - 1] as u16;

/// Returns for how many places of full magazines a depot has room from the start, and for about as
/// many empty ones: those of `bytes` bytes of objects of `stride` bytes each. With no place it
/// takes no full magazine, whatever is missed.
pub(crate) const fn places_for(bytes: usize, stride: usize) -> u16 {
    let places = bytes / stride;
    (if places < MOST_PLACES { places } else { MOST_PLACES }) as u16
}

/// Full and empty magazines of a cache.
#[derive(Debug)]
pub(crate) struct Depot {
    full: Stack,
    empty: Stack,
    /// Maximum places of full and of empty magazines, besides the room for magazines that were
    /// missed.
    most: [u16; 2],
}

impl Depot {
    /// Makes an empty depot of `places` places, see [`places_for`].
    pub(crate) const fn new(places: u16) -> Self {
        let empty_places = if places > FEWEST_EMPTY { places } else { FEWEST_EMPTY };
        Self { full: Stack::new(), empty: Stack::new(), most: [places, empty_places] }
    }

    pub(crate) const fn full_count(&self) -> usize {
        self.full.count as usize
    }

    /// Returns how many objects the full magazines hold.
    pub(crate) const fn full_objects(&self) -> usize {
        self.full.places as usize
    }

    /// Takes a full magazine, and stores the empty magazine `empty` in exchange if there is room.
    pub(crate) fn take_full(&mut self, empty: &mut Option<Magazine>) -> Option<Magazine> {
        let full = self.full.pop()?;
        *empty = empty.take().and_then(|empty| self.offer(empty));
        Some(full)
    }

    pub(crate) fn take_empty(&mut self) -> Option<Magazine> {
        self.empty.pop()
    }

    /// Stores a full or empty magazine if there is room; returns it otherwise.
    pub(crate) fn offer(&mut self, magazine: Magazine) -> Option<Magazine> {
        if magazine.is_full() {
            self.full.offer(magazine, self.most[0])
        } else {
            debug_assert_eq!(magazine.length(), 0, "neither full nor empty");
            self.empty.offer(magazine, self.most[1])
        }
    }

    /// Returns the invariant that the depot breaks, if it breaks one.
    pub(crate) fn violated_invariant(&self) -> Option<&'static str> {
        let is_full = |magazine: &Magazine| magazine.is_full();
        let is_empty = |magazine: &Magazine| magazine.length() == 0;
        if !self.full.holds_only(is_full) || !self.empty.holds_only(is_empty) {
            return Some("depot: one stack has full magazines, and the other has empty ones");
        }
        let is_counted = self.full.is_counted() && self.empty.is_counted();
        (!is_counted).then_some("depot: the counts of a stack are those of its magazines")
    }

    /// Iterates over the objects in full magazines.
    pub(crate) fn objects(&self) -> impl Iterator<Item = NonNull<u8>> {
        self.full.chain.iter().flat_map(|magazine| magazine.objects()).copied()
    }

    /// Takes all magazines: the full and the empty ones.
    pub(crate) fn take_all(&mut self) -> [Chain; 2] {
        [self.full.take(), self.empty.take()]
    }

    /// Takes the magazines that were not needed since the last aging pass, as far as `work` allows:
    /// from stage 0 on the full ones, and from stage 1 on the empty ones. Returns them, and the
    /// stage at which the next call continues; 2 at the end.
    pub(crate) fn age(&mut self, stage: usize, work: &mut Work) -> ([Chain; 2], usize) {
        let (full, is_all) = match stage {
            0 => self.full.age(work, Magazine::capacity),
            _ => (Chain::new(), true),
        };
        if !is_all {
            return ([full, Chain::new()], 0);
        }
        let (empty, is_all) = self.empty.age(work, |_| Work::SLAB);
        ([full, empty], if is_all { 2 } else { 1 })
    }
}

/// A stack of magazines that notes the minimum number it held.
#[derive(Debug)]
struct Stack {
    chain: Chain,
    count: u16,
    /// Places of all magazines in it.
    places: u16,
    /// The minimum of `count` since the last aging pass.
    least: u16,
    /// Magazines that found no room since the last aging pass, and have not been missed yet.
    /// Saturates.
    refused: u8,
    /// Magazines that were missed. Each one makes room for one more. Saturates.
    missed: u8,
}

// Every cache has two.
page_frame::assert_unless_loom!(size_of::<Stack>() <= 16);
// The largest bound of a stack, with all magazines that may have been missed, is a `u16`.
const _: () = {
    let largest = CAPACITIES[CAPACITIES.len() - 1];
    assert!(MOST_PLACES + (u8::MAX as usize + 1) * largest <= u16::MAX as usize);
};

impl Stack {
    const fn new() -> Self {
        Self { chain: Chain::new(), count: 0, places: 0, least: 0, refused: 0, missed: 0 }
    }

    /// Returns whether the first magazines, as many as are counted, are valid and `is_right`.
    fn holds_only(&self, is_right: impl Fn(&Magazine) -> bool) -> bool {
        let mut counted = self.chain.iter().take(self.count.into());
        counted.all(|magazine| magazine.is_valid() && is_right(magazine))
    }

    /// Returns whether the counts are those of the magazines, which are valid.
    fn is_counted(&self) -> bool {
        let counted = || self.chain.iter().take(usize::from(self.count) + 1);
        let places: usize = counted().map(Magazine::capacity).sum();
        counted().count() == usize::from(self.count)
            && places == usize::from(self.places)
            && self.least <= self.count
    }

    fn pop(&mut self) -> Option<Magazine> {
        let Some(magazine) = self.chain.pop() else {
            let was_missed = u8::from(self.refused > 0);
            self.refused -= was_missed;
            self.missed = self.missed.saturating_add(was_missed);
            return None;
        };
        self.places -= magazine.capacity() as u16;
        self.count -= 1;
        self.least = self.least.min(self.count);
        Some(magazine)
    }

    /// Stores `magazine` if the stack then has at most `most` places, plus the room for missed
    /// magazines; returns it otherwise.
    fn offer(&mut self, magazine: Magazine, most: u16) -> Option<Magazine> {
        let capacity = magazine.capacity() as u16;
        let places = self.places + capacity;
        if most == 0 || places > most + u16::from(self.missed) * capacity {
            self.refused = self.refused.saturating_add(1);
            return Some(magazine);
        }
        self.places = places;
        self.count += 1;
        self.chain.push(magazine);
        None
    }

    fn take(&mut self) -> Chain {
        (self.count, self.places, self.least, self.refused, self.missed) = (0, 0, 0, 0, 0);
        self.chain.take()
    }

    /// Takes the magazines that were not needed since the last aging pass, each of which costs
    /// `work_of` it, while work is left. Returns them, and whether these were all. If so, restarts
    /// the count; otherwise the next call takes those that are left.
    fn age(&mut self, work: &mut Work, work_of: fn(&Magazine) -> usize) -> (Chain, bool) {
        let mut surplus = Chain::new();
        let mut left = self.least;
        while left > 0 && work.is_left() {
            let Some(magazine) = self.pop() else { break };
            work.spend(work_of(&magazine));
            surplus.push(magazine);
            left -= 1;
            self.missed = self.missed.saturating_sub(1);
        }
        self.refused = 0;
        self.least = if left > 0 { left } else { self.count };
        (surplus, left == 0)
    }
}

#[cfg(test)]
impl Depot {
    /// Changes the count of full magazines, as a bug would.
    pub(crate) fn corrupt_count(&mut self, by: i16) {
        self.full.count = self.full.count.wrapping_add_signed(by);
    }
}

#[cfg(test)]
#[path = "depot_tests.rs"]
mod tests;
