//! A replay target that wraps another one and measures each allocation and each free.
//!
//! The clock is read before and after an operation, so each measured time includes the cost of
//! reading it once; [`clock_cost`](super::times::clock_cost) measures that. With a time limit,
//! `has_given_up` is true once the sum of all measured times has reached it; the replay asks after
//! each event.

use std::ptr::NonNull;
use std::time::{Duration, Instant};

use page_frame::OutOfMemory;

use super::outcome::{Shortage, StackTotals};
use super::target::{FreeCounts, NoCache, ObjectTarget, PageTarget};
use super::times::{Times, empty_times, record};

/// A target `T` with the times of its allocations and frees.
pub struct Timed<T> {
    inner: T,
    allocations: Times,
    frees: Times,
    /// Nanoseconds of measured operations left; starts at `u64::MAX` when there is no limit.
    left_ns: u64,
}

impl<T> Timed<T> {
    /// Wraps `inner` and measures its operations, without a limit.
    pub fn new(inner: T) -> Self {
        Self::with_time_limit(inner, Duration::MAX)
    }

    /// As `new`, but the target gives up once the measured times sum to `time_limit` or more.
    pub fn with_time_limit(inner: T, time_limit: Duration) -> Self {
        let left_ns = u64::try_from(time_limit.as_nanos()).unwrap_or(u64::MAX);
        Self { inner, allocations: empty_times(), frees: empty_times(), left_ns }
    }

    /// Returns the wrapped target.
    pub fn inner(&self) -> &T {
        &self.inner
    }

    /// Returns the times of allocations in nanoseconds, failed ones included.
    pub fn allocations(&self) -> &Times {
        &self.allocations
    }

    /// Returns the times of frees in nanoseconds, failed ones included.
    pub fn frees(&self) -> &Times {
        &self.frees
    }
}

// SAFETY: clause 1 of `ObjectTarget` holds because all pointers come from the wrapped target.
unsafe impl<T: ObjectTarget> ObjectTarget for Timed<T> {
    type Cache = T::Cache;

    const BACKED: bool = T::BACKED;

    fn switch_cpu(&mut self, cpu: u16) {
        self.inner.switch_cpu(cpu);
    }

    fn open_cache(&mut self, name: &str, object_bytes: usize) -> Result<Self::Cache, NoCache> {
        self.inner.open_cache(name, object_bytes)
    }

    fn allocate_object(&mut self, cache: Self::Cache) -> Result<NonNull<u8>, OutOfMemory> {
        let started = Instant::now();
        let object = self.inner.allocate_object(cache);
        self.left_ns = self.left_ns.saturating_sub(record(&mut self.allocations, started));
        object
    }

    unsafe fn free_object(&mut self, cache: Self::Cache, object: NonNull<u8>) {
        let started = Instant::now();
        // SAFETY: clause 1 of `free_object`: the caller's pointer, unchanged.
        unsafe { self.inner.free_object(cache, object) };
        self.left_ns = self.left_ns.saturating_sub(record(&mut self.frees, started));
    }

    fn allocate_bytes(&mut self, bytes: usize) -> Result<NonNull<u8>, OutOfMemory> {
        let started = Instant::now();
        let start = self.inner.allocate_bytes(bytes);
        self.left_ns = self.left_ns.saturating_sub(record(&mut self.allocations, started));
        start
    }

    unsafe fn free_bytes(&mut self, start: NonNull<u8>, bytes: usize) {
        let started = Instant::now();
        // SAFETY: clause 1 of `free_bytes`: the caller's pointer, unchanged.
        unsafe { self.inner.free_bytes(start, bytes) };
        self.left_ns = self.left_ns.saturating_sub(record(&mut self.frees, started));
    }

    fn for_each_slab(&self, look: &mut dyn FnMut(usize, usize)) {
        self.inner.for_each_slab(look);
    }

    fn shortage(&self, bytes: usize) -> Shortage {
        self.inner.shortage(bytes)
    }

    fn totals(&self) -> StackTotals {
        self.inner.totals()
    }

    fn shrink(&mut self) -> Result<(), String> {
        self.inner.shrink()
    }

    fn is_as_at_start(&self) -> bool {
        self.inner.is_as_at_start()
    }

    fn has_given_up(&self) -> bool {
        self.left_ns == 0 || self.inner.has_given_up()
    }
}

impl<T: PageTarget> PageTarget for Timed<T> {
    fn switch_cpu(&mut self, cpu: u16) {
        self.inner.switch_cpu(cpu);
    }

    fn allocate(&mut self, order: u8, migratetype: u8) -> Result<u64, OutOfMemory> {
        let started = Instant::now();
        let frame = self.inner.allocate(order, migratetype);
        self.left_ns = self.left_ns.saturating_sub(record(&mut self.allocations, started));
        frame
    }

    fn shortage(&self, order: u8) -> Shortage {
        self.inner.shortage(order)
    }

    fn free(&mut self, frame: u64, order: u8) -> Result<(), String> {
        let started = Instant::now();
        let freed = self.inner.free(frame, order);
        self.left_ns = self.left_ns.saturating_sub(record(&mut self.frees, started));
        freed
    }

    fn drain(&mut self) {
        self.inner.drain();
    }

    fn splits_and_merges(&self) -> (usize, usize) {
        self.inner.splits_and_merges()
    }

    fn is_as_at_start(&self) -> bool {
        self.inner.is_as_at_start()
    }

    fn free_counts(&self) -> Option<FreeCounts> {
        self.inner.free_counts()
    }

    fn has_given_up(&self) -> bool {
        self.left_ns == 0 || self.inner.has_given_up()
    }
}

#[cfg(test)]
mod tests {
    use super::super::heap::{HeapTarget, System};
    use super::*;

    #[test]
    fn every_operation_is_timed_once() {
        let mut timed = Timed::new(HeapTarget(System));
        let starts: Vec<_> = (0..10).map(|_| timed.allocate_bytes(100)).collect();
        for start in starts {
            // SAFETY: allocated above with the same size.
            unsafe { timed.free_bytes(start.expect("there is memory"), 100) };
        }
        assert_eq!((timed.allocations().len(), timed.frees().len()), (10, 10));
        assert!(timed.allocations().max() > 0);
    }
}
