//! A counter that CPUs change without meeting each other.

use crossbeam_utils::CachePadded;

use super::atomic::{AtomicIsize, Ordering};

/// A signed counter in `SHARDS` cache lines. Adding touches one line; reading sums all of them.
///
/// The sum is exact when nobody adds meanwhile, and otherwise some value between the exact ones before and after, give
/// or take the additions in flight.
///
/// ```
/// let counter = page_frame::sync::ShardedCounter::<4>::new();
/// counter.add(0, 5);
/// counter.add(3, -2);
/// assert_eq!(counter.sum(), 3);
/// ```
#[derive(Debug)]
pub struct ShardedCounter<const SHARDS: usize> {
    shards: [CachePadded<AtomicIsize>; SHARDS],
}

impl<const SHARDS: usize> ShardedCounter<SHARDS> {
    /// Makes a counter that reads zero.
    pub fn new() -> Self {
        Self { shards: core::array::from_fn(|_| CachePadded::new(AtomicIsize::new(0))) }
    }

    /// Adds `amount` to the shard that `hint` (a CPU's number) falls on. One atomic addition.
    pub fn add(&self, hint: usize, amount: isize) {
        // Relaxed: a statistic; nothing is published by it.
        self.shards[hint % SHARDS].fetch_add(amount, Ordering::Relaxed);
    }

    /// Returns the sum of all shards. O(`SHARDS`).
    pub fn sum(&self) -> isize {
        // Relaxed: as above.
        self.shards.iter().map(|shard| shard.load(Ordering::Relaxed)).sum()
    }
}

impl<const SHARDS: usize> Default for ShardedCounter<SHARDS> {
    fn default() -> Self {
        Self::new()
    }
}
