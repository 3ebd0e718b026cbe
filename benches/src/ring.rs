//! A ring through which one thread hands pointers to another, without a lock.
//!
//! # Concurrency
//! The producer alone writes `tail`, the consumer alone `head`, both counts that only grow. A place
//! is written before `tail` says so (Release, pairs with the consumer's Acquire) and read before
//! `head` says so (Release, pairs with the producer's Acquire). Each side looks at the other's
//! count only when what it saw last is used up.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// How many pointers are under way at most.
const PLACES: usize = 1024;

/// A count on a line of its own.
#[derive(Default)]
#[repr(align(128))]
struct Count(AtomicUsize);

/// The ring.
pub struct Ring {
    places: Box<[AtomicPtr<u8>]>,
    head: Count,
    tail: Count,
}

impl Ring {
    /// Makes an empty ring.
    pub fn new() -> Self {
        let places = (0..PLACES).map(|_| AtomicPtr::new(null_mut())).collect();
        Self { places, head: Count::default(), tail: Count::default() }
    }

    /// Hands over `count` pointers of `make`; waits while the ring is full. For one thread.
    pub fn produce(&self, count: usize, mut make: impl FnMut() -> *mut u8) {
        let mut free = PLACES;
        for number in 0..count {
            while free == 0 {
                // Acquire: the consumer has read what was in these places.
                free = PLACES - (number - self.head.0.load(Ordering::Acquire));
                if free == 0 {
                    std::thread::yield_now();
                }
            }
            free -= 1;
            // Relaxed: published by the store below.
            self.places[number % PLACES].store(make(), Ordering::Relaxed);
            // Release: publishes the place and what is behind the pointer.
            self.tail.0.store(number + 1, Ordering::Release);
        }
    }

    /// Gives `count` pointers to `take`; waits while the ring is empty. For one thread.
    pub fn consume(&self, count: usize, mut take: impl FnMut(*mut u8)) {
        let mut filled = 0;
        for number in 0..count {
            while filled == 0 {
                // Acquire: sees what the producer wrote before its Release.
                filled = self.tail.0.load(Ordering::Acquire) - number;
                if filled == 0 {
                    std::thread::yield_now();
                }
            }
            filled -= 1;
            // Relaxed: published by the load above.
            take(self.places[number % PLACES].load(Ordering::Relaxed));
            // Release: the place may be written again.
            self.head.0.store(number + 1, Ordering::Release);
        }
    }
}

impl Default for Ring {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr::without_provenance_mut;

    #[test]
    fn every_pointer_arrives_once_and_in_order() {
        let (ring, count) = (Ring::new(), 10 * PLACES + 3);
        let mut received = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut next = 0;
                ring.produce(count, || {
                    next += 1;
                    without_provenance_mut(next)
                });
            });
            ring.consume(count, |pointer| received.push(pointer.addr()));
        });
        assert!(received.into_iter().eq(1..=count));
    }
}
