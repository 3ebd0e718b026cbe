//! The depot: where the CPUs of a cache exchange full and empty magazines.
//!
//! # Concepts
//! A CPU whose magazines are full leaves a full one here and takes an empty one; a CPU whose magazines are empty does the
//! opposite. Both lists are bounded, the full ones by the bytes of the objects in them: what the depot does not take goes
//! back to the slabs, or to the internal cache of magazines.

use core::ptr::NonNull;

use crate::magazine::{Chain, Magazine};

/// The most bytes of free objects in the full magazines of a depot, as a multiple of those of a magazine: a guess; with usual
/// magazines half of what a small CPU cache holds.
pub(crate) const DEPOT_MAGAZINES: usize = 4;
/// The most empty magazines: one for each of two CPUs that wait.
const MOST_EMPTY: usize = 2;

/// Full and empty magazines of a cache.
#[derive(Debug)]
pub(crate) struct Depot {
    full: Chain,
    empty: Chain,
    most_full: usize,
}

// SAFETY: the depot owns its magazines and the objects in them.
unsafe impl Send for Depot {}

impl Depot {
    /// Makes an empty depot for magazines of `capacity` objects of `stride` bytes, up to `most_bytes` of them.
    pub(crate) const fn new(capacity: usize, stride: usize, most_bytes: usize) -> Self {
        let most_full = most_bytes / (capacity * stride);
        Self { full: Chain::new(), empty: Chain::new(), most_full }
    }

    pub(crate) const fn full_count(&self) -> usize {
        self.full.count()
    }

    pub(crate) fn take_full(&mut self) -> Option<NonNull<Magazine>> {
        self.full.pop()
    }

    pub(crate) fn take_empty(&mut self) -> Option<NonNull<Magazine>> {
        self.empty.pop()
    }

    /// Takes a full magazine in; whether there was room.
    ///
    /// # Safety
    /// 1. The caller owns the full magazine, and when the answer is true no longer.
    pub(crate) unsafe fn offer_full(&mut self, magazine: NonNull<Magazine>) -> bool {
        let room = self.full.count() < self.most_full;
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
        (self.full.take(), self.empty.take())
    }
}
