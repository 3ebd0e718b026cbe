//! The depot: where the CPUs of a cache exchange full and empty magazines.
//!
//! # Concepts
//! A CPU whose magazines are full leaves a full one here and takes an empty one; a CPU whose magazines are empty does the
//! opposite. Each is one exchange under the depot's lock, so objects that CPUs pass to each other touch no slab.
//!
//! Both stacks are bounded by the bytes of the objects that the full ones hold. Below that bound they follow the working
//! set: each notes the least that it held since the last [turn](crate::working_set); so many were not needed, and go at
//! the next one (Bonwick and Adams 2001, section 3.4).

use core::ptr::NonNull;

use crate::magazine::{Chain, Magazine};

/// The most bytes of free objects in the full magazines of a depot: a guess, what a CPU's second-level cache holds.
const MOST_BYTES: usize = 256 << 10;
/// The fewest empty magazines that find room: one for each of two CPUs that wait.
const FEWEST_EMPTY: usize = 2;

/// Full and empty magazines of a cache.
#[derive(Debug)]
pub(crate) struct Depot {
    full: Stack,
    empty: Stack,
}

// SAFETY: the depot owns its magazines and the objects in them.
unsafe impl Send for Depot {}

impl Depot {
    /// Makes an empty depot for magazines of `capacity` objects of `stride` bytes.
    pub(crate) const fn new(capacity: usize, stride: usize) -> Self {
        let most = MOST_BYTES / (capacity * stride);
        let most_empty = if most > FEWEST_EMPTY { most } else { FEWEST_EMPTY };
        Self { full: Stack::new(most), empty: Stack::new(most_empty) }
    }

    /// Makes a depot that takes no full magazine.
    pub(crate) const fn without_room() -> Self {
        Self { full: Stack::new(0), empty: Stack::new(FEWEST_EMPTY) }
    }

    pub(crate) const fn full_count(&self) -> usize {
        self.full.chain.count() as usize
    }

    /// Takes a full magazine, and leaves `empty` in exchange if there is room; `empty` is taken out then.
    ///
    /// # Safety
    /// 1. The caller owns `empty`, which is empty, until it is taken out.
    pub(crate) unsafe fn take_full(
        &mut self,
        empty: &mut Option<NonNull<Magazine>>,
    ) -> Option<NonNull<Magazine>> {
        let full = self.full.pop()?;
        // SAFETY: clause 1.
        unsafe { self.empty.offer(empty) };
        Some(full)
    }

    pub(crate) fn take_empty(&mut self) -> Option<NonNull<Magazine>> {
        self.empty.pop()
    }

    /// Takes a full magazine in if there is room; `full` is taken out then.
    ///
    /// # Safety
    /// 1. The caller owns `full`, which is full, until it is taken out.
    pub(crate) unsafe fn offer_full(&mut self, full: &mut Option<NonNull<Magazine>>) {
        // SAFETY: clause 1.
        unsafe { self.full.offer(full) };
    }

    /// Takes an empty magazine in if there is room; `empty` is taken out then.
    ///
    /// # Safety
    /// 1. The caller owns `empty`, which is empty, until it is taken out.
    pub(crate) unsafe fn offer_empty(&mut self, empty: &mut Option<NonNull<Magazine>>) {
        // SAFETY: clause 1.
        unsafe { self.empty.offer(empty) };
    }

    /// Takes all magazines: the full and the empty ones.
    pub(crate) fn take_all(&mut self) -> [Chain; 2] {
        [self.full.chain.take(), self.empty.chain.take()]
    }

    /// Takes the magazines that nobody has needed since the last turn, full and empty ones, and starts to count anew.
    pub(crate) fn turn(&mut self) -> [Chain; 2] {
        [self.full.turn(), self.empty.turn()]
    }
}

/// A bounded stack of magazines that notes the least it held.
#[derive(Debug)]
struct Stack {
    chain: Chain,
    most: u32,
    /// The least count since the last turn.
    least: u32,
}

impl Stack {
    const fn new(most: usize) -> Self {
        // At most `MOST_BYTES`.
        let most = most as u32;
        Self { chain: Chain::new(), most, least: 0 }
    }

    fn pop(&mut self) -> Option<NonNull<Magazine>> {
        let magazine = self.chain.pop();
        self.least = self.least.min(self.chain.count());
        magazine
    }

    /// # Safety
    /// 1. The caller owns the magazine until it is taken out.
    unsafe fn offer(&mut self, magazine: &mut Option<NonNull<Magazine>>) {
        if self.chain.count() < self.most {
            if let Some(magazine) = magazine.take() {
                // SAFETY: clause 1.
                unsafe { self.chain.push(magazine) };
            }
        }
    }

    fn turn(&mut self) -> Chain {
        let mut surplus = Chain::new();
        for _ in 0..self.least.min(self.chain.count()) {
            let Some(magazine) = self.chain.pop() else { break };
            // SAFETY: the stack owned it.
            unsafe { surplus.push(magazine) };
        }
        self.least = self.chain.count();
        surplus
    }
}
