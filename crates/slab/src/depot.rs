//! The depot: where the CPUs of a cache exchange full and empty magazines.
//!
//! # Concepts
//! A CPU whose magazines are full leaves a full one here and takes an empty one; a CPU whose magazines are empty does the
//! opposite. Each is one exchange under the depot's lock, so objects that CPUs pass to each other touch no slab.
//!
//! Both stacks are bounded by the bytes of the objects that the full ones hold. Below that bound they follow the working
//! set: each notes the least that it held since the last [turn](crate::working_set); so many were not needed, and go at
//! the next one (Bonwick and Adams 2001, section 3.4).

use crate::magazine::{CAPACITIES, Chain, Magazine};

/// The most bytes of free objects in the full magazines of a depot. Measured: with 256 KiB for all sizes the pages held at the peak
/// of a recorded build were 1.106 times the live ones, with these bounds 1.102 times; with 64 KiB for all 1.100 times, but then a
/// thousand objects of 192 bytes allocated and freed in the kernel example took twice the instructions.
const MOST_BYTES: usize = 64 << 10;
/// The same for objects of up to [`SMALL`] bytes.
const MOST_BYTES_OF_SMALL: usize = 256 << 10;
/// An object of more bytes is not small.
const SMALL: usize = 512;
/// Places in the empty magazines that find room in any case: two of the largest, for two CPUs that wait.
const FEWEST_EMPTY: u32 = 2 * CAPACITIES[CAPACITIES.len() - 1] as u32;

/// The most places that the full magazines of a depot have together, and about as many the empty ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places(u32);

impl Places {
    /// For objects of `stride` bytes.
    pub(crate) const fn for_objects(stride: usize) -> Self {
        let bytes = if stride <= SMALL { MOST_BYTES_OF_SMALL } else { MOST_BYTES };
        Self((bytes / stride) as u32)
    }

    /// For depots that take no full magazine.
    pub(crate) const NONE: Self = Self(0);
}

/// Full and empty magazines of a cache.
#[derive(Debug)]
pub(crate) struct Depot {
    full: Stack,
    empty: Stack,
}

impl Depot {
    pub(crate) const fn new() -> Self {
        Self { full: Stack::new(), empty: Stack::new() }
    }

    pub(crate) const fn full_count(&self) -> usize {
        self.full.chain.count() as usize
    }

    /// Takes a full magazine, and leaves `empty`, which is empty, in exchange if there is room.
    pub(crate) fn take_full(
        &mut self,
        empty: &mut Option<Magazine>,
        most: Places,
    ) -> Option<Magazine> {
        let full = self.full.pop()?;
        *empty = empty.take().and_then(|empty| self.offer(empty, most));
        Some(full)
    }

    pub(crate) fn take_empty(&mut self) -> Option<Magazine> {
        self.empty.pop()
    }

    /// Takes a full or empty magazine in if there is room; returns it if there is none.
    pub(crate) fn offer(&mut self, magazine: Magazine, most: Places) -> Option<Magazine> {
        if magazine.is_full() {
            self.full.offer(magazine, most.0)
        } else {
            debug_assert_eq!(magazine.length(), 0, "neither full nor empty");
            self.empty.offer(magazine, most.0.max(FEWEST_EMPTY))
        }
    }

    /// Takes all magazines: the full and the empty ones.
    pub(crate) fn take_all(&mut self) -> [Chain; 2] {
        [self.full.take(), self.empty.take()]
    }

    /// Takes the magazines that nobody has needed since the last turn, full and empty ones, and starts to count anew.
    pub(crate) fn turn(&mut self) -> [Chain; 2] {
        [self.full.turn(), self.empty.turn()]
    }
}

/// A stack of magazines that notes the least it held.
#[derive(Debug)]
struct Stack {
    chain: Chain,
    /// Places of all magazines in it.
    places: u32,
    /// The least count of magazines since the last turn.
    least: u32,
}

impl Stack {
    const fn new() -> Self {
        Self { chain: Chain::new(), places: 0, least: 0 }
    }

    fn pop(&mut self) -> Option<Magazine> {
        let magazine = self.chain.pop()?;
        self.places -= magazine.capacity() as u32;
        self.least = self.least.min(self.chain.count());
        Some(magazine)
    }

    /// Takes `magazine` in as long as the stack has at most `most` places; returns it otherwise.
    fn offer(&mut self, magazine: Magazine, most: u32) -> Option<Magazine> {
        let places = self.places + magazine.capacity() as u32;
        if places > most {
            return Some(magazine);
        }
        self.places = places;
        self.chain.push(magazine);
        None
    }

    fn take(&mut self) -> Chain {
        self.places = 0;
        self.chain.take()
    }

    fn turn(&mut self) -> Chain {
        let mut surplus = Chain::new();
        for _ in 0..self.least {
            let Some(magazine) = self.pop() else { break };
            surplus.push(magazine);
        }
        self.least = self.chain.count();
        surplus
    }
}
