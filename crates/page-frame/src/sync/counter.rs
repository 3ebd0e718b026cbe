//! A counter whose shards lie on different cache lines, so that CPUs do not contend for one.

use crate::atomic::{AtomicIsize, Ordering};

/// A signed counter in `SHARDS` cache lines. Adding changes one line; reading sums all of them.
///
/// The sum is exact while no CPU adds. Otherwise it contains each addition that ended before the
/// call and none that began after it.
///
/// ```
/// let counter = page_frame::sync::ShardedCounter::<4>::new();
/// counter.add(0, 5);
/// counter.add(3, -2);
/// assert_eq!(counter.sum(), 3);
/// ```
#[derive(Debug)]
pub struct ShardedCounter<const SHARDS: usize> {
    shards: [Shard; SHARDS],
}

/// A part of the counter, in two cache lines of its own: processors prefetch lines in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Shard(AtomicIsize);

impl<const SHARDS: usize> ShardedCounter<SHARDS> {
    /// Makes a counter that reads zero.
    pub fn new() -> Self {
        Self { shards: core::array::from_fn(|_| Shard(AtomicIsize::new(0))) }
    }

    /// Adds `amount` to shard `hint % SHARDS`; `hint` is a CPU's number. One atomic addition.
    pub fn add(&self, hint: usize, amount: isize) {
        // Relaxed: a statistic, which publishes nothing.
        self.shards[hint % SHARDS].0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Returns the sum of all shards. O(`SHARDS`).
    pub fn sum(&self) -> isize {
        // Relaxed: as above.
        self.shards.iter().map(|shard| shard.0.load(Ordering::Relaxed)).sum()
    }
}

impl<const SHARDS: usize> Default for ShardedCounter<SHARDS> {
    fn default() -> Self {
        Self::new()
    }
}
