//! The depot: where the CPUs of a cache exchange full and empty magazines.
//!
//! # Concepts
//! A CPU whose magazines are full leaves a full one here and takes an empty one; a CPU whose magazines are empty does the
//! opposite. How many full ones are kept follows from what they are for: it grows by one each time that a CPU wants a full
//! magazine, and one was refused before. So a cache whose objects come and go in waves keeps a wave, and one whose objects are
//! freed for good keeps two (the working set of Bonwick and Adams 2001, section 3.3, found by regret instead of by time).
//!
//! Both lists are bounded, the full ones by the bytes of the objects in them: what the depot does not take goes
//! back to the slabs, or to the internal cache of magazines.

use core::ptr::NonNull;

use crate::magazine::{Chain, Magazine};

/// The most bytes of free objects in the full magazines of a depot, as a multiple of those of a magazine: a guess; with usual
/// magazines half of what a small CPU cache holds.
pub(crate) const DEPOT_MAGAZINES: usize = 4;
/// How many full magazines the depot takes in until more are known to be missed.
const LEAST_FULL: u16 = 2;
/// How many it takes in at most, whatever their bytes.
const MOST_FULL: usize = 1 << 10;
/// The most empty magazines: one for each of two CPUs that wait.
const MOST_EMPTY: usize = 2;

/// Full and empty magazines of a cache.
#[derive(Debug)]
pub(crate) struct Depot {
    full: Chain,
    empty: Chain,
    /// At the moment, and at most.
    limit: u16,
    most_full: u16,
    /// Full magazines that were refused, and not missed since.
    refused: u16,
}

// SAFETY: the depot owns its magazines and the objects in them.
unsafe impl Send for Depot {}

impl Depot {
    /// Makes an empty depot for magazines of `capacity` objects of `stride` bytes, up to `most_bytes` of them.
    pub(crate) const fn new(capacity: usize, stride: usize, most_bytes: usize) -> Self {
        let most_full = most_bytes / (capacity * stride);
        let most_full = if most_full < MOST_FULL { most_full } else { MOST_FULL } as u16;
        let limit = if most_full < LEAST_FULL { most_full } else { LEAST_FULL };
        Self { full: Chain::new(), empty: Chain::new(), limit, most_full, refused: 0 }
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
        (self.limit, self.refused) = (self.most_full.min(LEAST_FULL), 0);
        (self.full.take(), self.empty.take())
    }
}
