//! Magazine sizing: the capacity of a cache's new magazines follows its use.
//!
//! # Concepts
//! Magazines begin with about 2 KiB of objects, so that idle CPUs keep little memory. A CPU that
//! misses in its magazines and the depot makes a **trip** to the slabs. After a number of trips, or
//! of waits for the depot's lock, new magazines get the next larger capacity, as long as one
//! magazine holds at most 1/128 of the cache's memory. (Bonwick and Adams 2001, section 3.4, look
//! at the depot's lock alone; a cache that a single CPU fills never waits there.)
//!
//! A cache that is idle between two aging passes, or that has become small, gets smaller magazines
//! again. A cache that is shrunk returns to its first capacity. Magazines of another capacity stay
//! valid, as the header of each magazine has its capacity. They are replaced when they are empty.
//!
//! # Invariants
//! - I1: the capacity decides which magazines are made, and nothing else: a stale read is correct
//!   too.

use page_frame::sync::{AtomicU8, AtomicU16, MODELLED, Ordering};

use crate::percpu::magazine::CAPACITIES;

/// The default of the approximate number of bytes of objects in a magazine.
///
/// Measured at the peaks of three recorded kernel loads, with 5, 7 and 13 MB in use. With 4 KiB in
/// a magazine the pages held were 1.19, 1.17 and 1.102 times the memory in use. With 2 KiB they
/// were 1.18, 1.16 and 1.100 times.
pub(crate) const USUAL_BYTES: usize = 2 << 10;

/// Trips and waits until the next capacity: a guess. One under loom, where a model affords few
/// steps.
const TRIPS: u16 = if MODELLED { 1 } else { 16 };
/// A magazine holds at most this part of its cache's memory, unless it is of the usual capacity: a
/// guess, 1/16 for the two magazines of each of four CPUs.
const PARTS: usize = if MODELLED { 1 } else { 128 };

/// Returns the class of the usual magazines for objects of `stride` bytes, of about `bytes` bytes
/// of objects each.
pub(crate) const fn usual_class(stride: usize, bytes: usize) -> u8 {
    match stride.saturating_mul(4 << 10) / bytes {
        0..=68 => 5,
        69..=144 => 4,
        145..=384 => 3,
        385..=1024 => 2,
        1025..=2200 => 1,
        _ => 0,
    }
}

/// The capacity of a cache's new magazines.
#[derive(Debug)]
pub(crate) struct MagazineSizing {
    /// The class of the first magazines, and the smallest class of all later ones.
    usual: u8,
    class: AtomicU8,
    trips: AtomicU16,
}

impl MagazineSizing {
    pub(crate) fn new(usual: u8) -> Self {
        Self { usual, class: AtomicU8::new(usual), trips: AtomicU16::new(0) }
    }

    /// Returns the class of capacity of new magazines.
    pub(crate) fn class(&self) -> usize {
        // Relaxed, like all here: I1.
        usize::from(self.class.load(Ordering::Relaxed))
    }

    /// Notes that a CPU had to wait for the depot's lock.
    pub(crate) fn note_wait(&self) {
        self.trips.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes a trip to the slabs of a cache of `bytes` bytes in all, with objects of `stride`
    /// bytes. Called under the lock of the slab set.
    pub(crate) fn note_trip(&self, stride: usize, bytes: usize) {
        let trips = self.trips.load(Ordering::Relaxed).saturating_add(1);
        let class = self.class();
        let holds = |class: usize| CAPACITIES[class] * stride;
        let may_hold = bytes / PARTS;
        if class > usize::from(self.usual) && holds(class) / 2 > may_hold {
            self.set(class - 1);
        } else if trips < TRIPS {
            self.trips.store(trips, Ordering::Relaxed);
        } else if class + 1 < CAPACITIES.len() && holds(class + 1) <= may_hold {
            self.set(class + 1);
        }
    }

    /// Makes the next magazines smaller by one class: the cache was idle.
    pub(crate) fn note_idle(&self) {
        self.set(self.class().saturating_sub(1).max(usize::from(self.usual)));
    }

    /// Goes back to the usual capacity.
    pub(crate) fn reset(&self) {
        self.set(usize::from(self.usual));
    }

    fn set(&self, class: usize) {
        self.class.store(class as u8, Ordering::Relaxed);
        self.trips.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trips_make_magazines_larger_as_far_as_the_cache_is_large() {
        let sizing = MagazineSizing::new(usual_class(1024, 4 << 10));
        let capacity = |sizing: &MagazineSizing| CAPACITIES[sizing.class()];
        assert_eq!(capacity(&sizing), 4);
        for _ in 0..10 * TRIPS {
            sizing.note_trip(1024, 12 * 1024 * PARTS - 1);
        }
        assert_eq!(capacity(&sizing), 4, "too small a cache for twelve");
        for _ in 0..10 * TRIPS {
            sizing.note_trip(1024, 28 * 1024 * PARTS);
        }
        assert_eq!(capacity(&sizing), 28);
        sizing.note_idle();
        assert_eq!(capacity(&sizing), 12);
        sizing.note_trip(1024, 1024);
        assert_eq!(capacity(&sizing), 4, "the cache has become small");
        sizing.note_idle();
        assert_eq!(capacity(&sizing), 4, "no smaller than usual");
    }

    #[test]
    fn waits_count_like_trips() {
        let sizing = MagazineSizing::new(0);
        for _ in 1..TRIPS {
            sizing.note_wait();
        }
        sizing.note_trip(64, usize::MAX);
        assert_eq!(sizing.class(), 1);
        sizing.reset();
        assert_eq!(sizing.class(), 0);
    }

    #[test]
    fn the_usual_magazine_holds_about_as_many_bytes_as_asked_for() {
        let capacity = |stride| CAPACITIES[usual_class(stride, USUAL_BYTES) as usize];
        assert_eq!([8, 34, 35, 72, 73, 192].map(capacity), [60, 60, 28, 28, 12, 12]);
        assert_eq!([193, 512, 513, 1100, 1101, 1 << 20].map(capacity), [4, 4, 2, 2, 1, 1]);
    }

    #[test]
    fn a_trip_counts_until_the_next_capacity_and_then_anew() {
        let sizing = MagazineSizing::new(1);
        let trips = |count: u16, bytes| (0..count).for_each(|_| sizing.note_trip(64, bytes));
        trips(TRIPS - 1, usize::MAX);
        assert_eq!(sizing.class(), 1);
        trips(1, usize::MAX);
        assert_eq!(sizing.class(), 2);
        trips(TRIPS - 1, usize::MAX);
        assert_eq!(sizing.class(), 2, "the count began anew");
        trips(1, usize::MAX);
        assert_eq!(sizing.class(), 3);
        // Half a magazine of twelve objects is still a part of the cache: no smaller one.
        trips(1, 6 * 64 * PARTS);
        assert_eq!(sizing.class(), 3);
        trips(1, 6 * 64 * PARTS - 1);
        assert_eq!(sizing.class(), 2);
        trips(1, 0);
        assert_eq!(sizing.class(), 1);
        trips(1, 0);
        assert_eq!(sizing.class(), 1, "no smaller than usual");
        trips(2 * TRIPS, 4 * 64 * PARTS - 1);
        assert_eq!(sizing.class(), 1, "too small a cache for four");
        trips(1, 4 * 64 * PARTS);
        assert_eq!(sizing.class(), 2);
    }
}
