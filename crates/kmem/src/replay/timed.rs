//! A target that times every operation of the target inside it.
//!
//! The clock is read before and after an operation, so each time includes one reading of the clock;
//! [`clock_cost`](super::times::clock_cost) measures that. A replay with limited patience ends when
//! the times add up to more.

use std::ptr::NonNull;
use std::time::{Duration, Instant};

use page_frame::OutOfMemory;

use super::outcome::StackTotals;
use super::target::{FreeCounts, NoCache, ObjectTarget, PageTarget};
use super::times::{Times, no_times, record};

/// `T`, and the time that it takes.
pub struct Timed<T> {
    inner: T,
    allocations: Times,
    frees: Times,
    /// Time left for operations in nanoseconds; the maximum where patience has no limit.
    left_ns: u64,
}

impl<T> Timed<T> {
    /// Takes the time of `inner` from now on.
    pub fn new(inner: T) -> Self {
        Self::with_patience(inner, Duration::MAX)
    }

    /// Takes the time of `inner`, and has the replay end when its operations took longer than
    /// `patience`.
    pub fn with_patience(inner: T, patience: Duration) -> Self {
        let left_ns = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
        Self { inner, allocations: no_times(), frees: no_times(), left_ns }
    }

    /// Returns the target inside.
    pub fn inner(&self) -> &T {
        &self.inner
    }

    /// Returns the times of allocations, in nanoseconds.
    pub fn allocations(&self) -> &Times {
        &self.allocations
    }

    /// Returns the times of frees, in nanoseconds.
    pub fn frees(&self) -> &Times {
        &self.frees
    }
}

// SAFETY: clause 1 is that of the target inside.
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
        let since = Instant::now();
        let object = self.inner.allocate_object(cache);
        self.left_ns = self.left_ns.saturating_sub(record(&mut self.allocations, since));
        object
    }

    unsafe fn free_object(&mut self, cache: Self::Cache, object: NonNull<u8>) {
        let since = Instant::now();
        // SAFETY: clause 1: objects of the target inside are handed through as they are.
        unsafe { self.inner.free_object(cache, object) };
        self.left_ns = self.left_ns.saturating_sub(record(&mut self.frees, since));
    }

    fn allocate_bytes(&mut self, bytes: usize) -> Result<NonNull<u8>, OutOfMemory> {
        let since = Instant::now();
        let start = self.inner.allocate_bytes(bytes);
        self.left_ns = self.left_ns.saturating_sub(record(&mut self.allocations, since));
        start
    }

    unsafe fn free_bytes(&mut self, start: NonNull<u8>, bytes: usize) {
        let since = Instant::now();
        // SAFETY: clause 1: so are allocations of bytes.
        unsafe { self.inner.free_bytes(start, bytes) };
        self.left_ns = self.left_ns.saturating_sub(record(&mut self.frees, since));
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
        self.left_ns == 0
    }
}

impl<T: PageTarget> PageTarget for Timed<T> {
    fn switch_cpu(&mut self, cpu: u16) {
        self.inner.switch_cpu(cpu);
    }

    fn allocate(&mut self, order: u8, migratetype: u8) -> Result<u64, OutOfMemory> {
        let since = Instant::now();
        let frame = self.inner.allocate(order, migratetype);
        self.left_ns = self.left_ns.saturating_sub(record(&mut self.allocations, since));
        frame
    }

    fn free(&mut self, frame: u64, order: u8) -> Result<(), String> {
        let since = Instant::now();
        let freed = self.inner.free(frame, order);
        self.left_ns = self.left_ns.saturating_sub(record(&mut self.frees, since));
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
        self.left_ns == 0
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
