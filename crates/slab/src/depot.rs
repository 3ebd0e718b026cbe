//! The depot: where the CPUs of a cache exchange full and empty magazines.
//!
//! # Concepts
//! A CPU whose magazines are full leaves a full one here and takes an empty one; a CPU whose magazines are empty does the
//! opposite. How many full ones are kept follows from what they are for: it grows by one each time that a CPU wants a full
//! magazine, and one was refused before. So a cache whose objects come and go in waves keeps a wave, and one whose objects are
//! freed for good keeps few (the working set of Bonwick and Adams 2001, section 3.3, found by regret instead of by time).
//!
//! Both lists are bounded, the full ones by the bytes of the objects in them: what the depot does not take goes
//! back to the slabs, or to the internal cache of magazines.

use core::ptr::NonNull;

use crate::magazine::{Chain, Magazine, USUAL_BYTES};

/// How many magazines of the usual size the full ones of a depot are at most: a guess.
const DEPOT_MAGAZINES: usize = 4;
/// The same where magazines are larger than usual: memory is plenty there, and only what was missed before is kept.
const LARGE_DEPOT_MAGAZINES: usize = 16;

/// Returns the most bytes of free objects in the full magazines of a depot, when a magazine holds about `magazine_bytes`.
pub(crate) const fn depot_bytes(magazine_bytes: usize) -> usize {
    let large = magazine_bytes > USUAL_BYTES;
    magazine_bytes * if large { LARGE_DEPOT_MAGAZINES } else { DEPOT_MAGAZINES }
}

/// The bytes of free objects that the full magazines of a depot may hold until more are known to be missed: a guess, half of
/// what a small CPU cache holds. Where magazines are as usual it is also the most.
const FIRST_BYTES: usize = DEPOT_MAGAZINES * USUAL_BYTES;
/// How many full magazines a depot takes in at most, whatever their bytes.
const MOST_FULL: usize = 1 << 10;
/// The most empty magazines: one for each of two CPUs that wait.
const MOST_EMPTY: usize = 2;

/// Full and empty magazines of a cache.
#[derive(Debug)]
pub(crate) struct Depot {
    full: Chain,
    empty: Chain,
    /// How many full ones are taken in: now, at first, and at most.
    limit: u16,
    first_limit: u16,
    most_full: u16,
    /// Full magazines that were refused, and not missed since.
    refused: u16,
}

// SAFETY: the depot owns its magazines and the objects in them.
unsafe impl Send for Depot {}

impl Depot {
    /// Makes an empty depot for magazines of `capacity` objects of `stride` bytes, up to `most_bytes` of them.
    pub(crate) const fn new(capacity: usize, stride: usize, most_bytes: usize) -> Self {
        let most_full = full_magazines(most_bytes, capacity, stride);
        let first = full_magazines(FIRST_BYTES, capacity, stride);
        let first_limit = if first < most_full { first } else { most_full };
        let (full, empty) = (Chain::new(), Chain::new());
        Self { full, empty, limit: first_limit, first_limit, most_full, refused: 0 }
    }

    pub(crate) const fn full_count(&self) -> usize {
        self.full.count()
    }

    pub(crate) fn take_full(&mut self) -> Option<NonNull<Magazine>> {
        let full = self.full.pop();
        if full.is_none() && self.refused > 0 {
            self.refused -= 1;
            self.limit = (self.limit + 1).min(self.most_full);
        }
        full
    }

    pub(crate) fn take_empty(&mut self) -> Option<NonNull<Magazine>> {
        self.empty.pop()
    }

    /// Takes a full magazine in; whether there was room.
    ///
    /// # Safety
    /// 1. The caller owns the full magazine, and when the answer is true no longer.
    pub(crate) unsafe fn offer_full(&mut self, magazine: NonNull<Magazine>) -> bool {
        let room = self.full.count() < usize::from(self.limit);
        if !room {
            self.refused = (self.refused + 1).min(self.most_full);
        }
        if room {
            // SAFETY: clause 1.
            unsafe { self.full.push(magazine) };
        }
        room
    }

    /// Takes an empty magazine in; whether there was room.
    ///
    /// # Safety
    /// 1. The caller owns the empty magazine, and when the answer is true no longer.
    pub(crate) unsafe fn offer_empty(&mut self, magazine: NonNull<Magazine>) -> bool {
        let room = self.empty.count() < MOST_EMPTY;
        if room {
            // SAFETY: clause 1.
            unsafe { self.empty.push(magazine) };
        }
        room
    }

    /// Takes all magazines: the full and the empty ones.
    pub(crate) fn take_all(&mut self) -> (Chain, Chain) {
        (self.limit, self.refused) = (self.first_limit, 0);
        (self.full.take(), self.empty.take())
    }
}

/// Returns how many full magazines `bytes` bytes are.
const fn full_magazines(bytes: usize, capacity: usize, stride: usize) -> u16 {
    let count = bytes / (capacity * stride);
    if count < MOST_FULL { count as u16 } else { MOST_FULL as u16 }
}
