//! Replays object events: the live objects, their addresses in our memory, and the totals.
//!
//! The traced address names an object, and the table maps it to the pointer that the allocator
//! returned. Memory use grows with the number of live objects, not with the length of the trace.

use std::ptr::NonNull;

use page_frame::sync::Zeroable;

use super::caches::{Caches, NO_CACHE, OpenCache};
use super::outcome::{Findings, ObjectTotals, Side};
use super::pattern;
use super::table::Table;
use super::target::ObjectTarget;
use crate::input_error::Mismatch;

/// Replays object events on `target`.
pub struct Objects<T: ObjectTarget> {
    target: T,
    checks: bool,
    live: Table<Live>,
    caches: Caches<T::Cache>,
    totals: ObjectTotals,
    stamp: u32,
    /// The low 32 bits of the trace's time in microseconds: ages wrap at 71 minutes.
    now_micros: u32,
    lifetimes: Lifetimes,
}

/// Numbers of freed objects by age in microseconds: less than 1, from 1, from 2, from 4 ...
pub type Lifetimes = [u64; 33];

/// A live object of the trace.
#[derive(Clone, Copy, Default)]
struct Live {
    /// `None` if the target had no memory.
    start: Option<NonNull<u8>>,
    requested_bytes: u32,
    cache: u32,
    stamp: u32,
    born_micros: u32,
}

// SAFETY: clause 1: all zero is `None` for the pointer and a valid value of each number.
unsafe impl Zeroable for Live {
    fn zero() -> Self {
        Self::default()
    }
}

impl<T: ObjectTarget> Objects<T> {
    /// Replays on `target`. With `checks`, objects carry a pattern that is checked when they are
    /// freed.
    pub fn new(target: T, checks: bool) -> Self {
        let caches = Caches::new();
        let checks = checks && T::BACKED;
        let totals = ObjectTotals::default();
        Self {
            target,
            checks,
            live: Table::new(),
            caches,
            totals,
            stamp: 0,
            now_micros: 0,
            lifetimes: [0; 33],
        }
    }

    /// Returns the target.
    pub fn target(&self) -> &T {
        &self.target
    }

    /// Returns the target, so that the caller can allocate from it during the replay.
    pub fn target_mut(&mut self) -> &mut T {
        &mut self.target
    }

    /// Sets the trace's time in microseconds.
    #[inline]
    pub fn set_time(&mut self, micros: u64) {
        self.now_micros = micros as u32;
    }

    /// Returns how old objects were when they were freed.
    pub fn lifetimes(&self) -> &Lifetimes {
        &self.lifetimes
    }

    /// Returns the totals so far.
    pub fn totals(&self) -> &ObjectTotals {
        &self.totals
    }

    /// Returns the caches opened so far.
    pub fn caches(&self) -> &[OpenCache<T::Cache>] {
        &self.caches.opened
    }

    /// Prefetches the table entry of the traced `object`, for an event to come.
    #[inline(always)]
    pub fn prefetch(&self, object: u64) {
        self.live.prefetch(object);
    }

    /// Continues on CPU `cpu`.
    #[inline]
    pub fn switch_cpu(&mut self, cpu: u16) {
        self.target.switch_cpu(cpu);
    }

    /// Records that `id` is the trace's number for the cache or call site `name`.
    pub fn name(&mut self, id: u32, name: &str) {
        self.caches.name(id, name);
    }

    /// Allocates bytes for the traced `object`.
    #[inline]
    pub fn allocate_bytes(
        &mut self,
        object: u64,
        requested_bytes: u32,
        line: u64,
        findings: &mut Findings,
    ) {
        self.free_implied(object, line, findings);
        let start = self.target.allocate_bytes(requested_bytes as usize).ok();
        self.insert(object, start, requested_bytes, NO_CACHE, line, findings);
    }

    /// Allocates the traced `object` from the cache of the trace's number `id`.
    ///
    /// # Errors
    /// When the target cannot have a cache of this object size, or the trace uses too many caches.
    #[inline]
    pub fn allocate_object(
        &mut self,
        object: u64,
        requested_bytes: u32,
        id: u32,
        line: u64,
        findings: &mut Findings,
    ) -> Result<(), Mismatch> {
        let index = self.caches.find(&mut self.target, id, requested_bytes)?;
        self.free_implied(object, line, findings);
        let mut start = None;
        if let Some(opened) = self.caches.opened.get_mut(index as usize) {
            opened.allocations += 1;
            opened.live_objects += 1;
            opened.peak_objects = opened.peak_objects.max(opened.live_objects);
            start = self.target.allocate_object(opened.cache).ok();
        }
        self.insert(object, start, requested_bytes, index, line, findings);
        Ok(())
    }

    /// Frees the live object at the traced address `object`.
    #[inline]
    pub fn free(&mut self, object: u64, line: u64, findings: &mut Findings) {
        match self.live.take(object) {
            Some(live) => {
                self.totals.matched_frees += 1;
                self.release(live, line, findings);
            }
            None => self.totals.unmatched_frees += 1,
        }
    }

    /// Frees all live objects and shrinks the target, unless the target gives up. `line` is the
    /// trace's last line.
    pub fn finish(&mut self, line: u64, findings: &mut Findings) {
        for live in std::mem::take(&mut self.live).into_values() {
            if self.target.has_given_up() {
                return;
            }
            self.release(live, line, findings);
        }
        if let Err(problem) = self.target.shrink() {
            findings.add(line, format_args!("{problem}"));
        }
    }

    /// Adds the bytes that the recorded kernel allocated for a request (ALLOC).
    #[inline]
    pub fn count_traced(&mut self, allocated_bytes: u32) {
        self.totals.bytes_allocated_traced += u64::from(allocated_bytes);
    }

    #[inline]
    fn free_implied(&mut self, object: u64, line: u64, findings: &mut Findings) {
        if let Some(live) = self.live.take(object) {
            self.totals.implied_frees += 1;
            self.release(live, line, findings);
        }
    }

    #[inline]
    fn insert(
        &mut self,
        object: u64,
        start: Option<NonNull<u8>>,
        requested_bytes: u32,
        cache: u32,
        line: u64,
        findings: &mut Findings,
    ) {
        self.stamp = self.stamp.wrapping_add(1);
        match start {
            Some(start) if self.checks => {
                // SAFETY: clause 1 of `write`: the target just allocated at least these bytes, and
                // its objects are memory where `checks` is set.
                unsafe { pattern::write(start, requested_bytes as usize, self.stamp) };
            }
            Some(_) => {}
            None => {
                self.totals.failed += 1;
                let text = format_args!("no memory for {requested_bytes} bytes");
                findings.add_shortage(Side::Objects, line, text);
            }
        }
        self.totals.allocations += 1;
        self.totals.bytes_requested += u64::from(requested_bytes);
        if start.is_some() {
            self.totals.live_bytes += u64::from(requested_bytes);
        }
        self.totals.peak_live_bytes = self.totals.peak_live_bytes.max(self.totals.live_bytes);
        let (stamp, born_micros) = (self.stamp, self.now_micros);
        self.live.insert(object, Live { start, requested_bytes, cache, stamp, born_micros });
    }

    #[inline]
    fn release(&mut self, live: Live, line: u64, findings: &mut Findings) {
        let bytes = live.requested_bytes as usize;
        let age = self.now_micros.wrapping_sub(live.born_micros);
        self.lifetimes[(u32::BITS - age.leading_zeros()) as usize] += 1;
        if let Some(opened) = self.caches.opened.get_mut(live.cache as usize) {
            opened.live_objects -= 1;
        }
        let Some(start) = live.start else { return };
        self.totals.live_bytes -= u64::from(live.requested_bytes);
        if self.checks {
            // SAFETY: clause 1 of `first_difference`: `insert` wrote the pattern over these bytes,
            // and the object was live since.
            let difference = unsafe { pattern::first_difference(start, bytes, live.stamp) };
            if let Some(offset) = difference {
                let text = format_args!("an object of {bytes} bytes changed at byte {offset}");
                findings.add(line, text);
            }
        }
        match self.caches.opened.get(live.cache as usize) {
            // SAFETY: clause 1 of `free_object`: allocated from this cache, and just removed from
            // `live`.
            Some(opened) => unsafe { self.target.free_object(opened.cache, start) },
            // SAFETY: clause 1 of `free_bytes`: `NO_CACHE` objects with a start were allocated as
            // bytes, and this one was just removed from `live`.
            None => unsafe { self.target.free_bytes(start, bytes) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::heap::{HeapTarget, System};
    use super::super::target::CountOnly;
    use super::*;

    #[test]
    fn a_second_size_under_a_name_is_a_cache_of_its_own() {
        let mut objects = Objects::new(CountOnly, true);
        let mut findings = Findings::new("t");
        objects.name(4, "filp");
        objects.name(9, "filp");
        for (object, bytes, id) in [(0, 184, 4), (1, 24, 4), (2, 184, 9), (3, 24, 9), (4, 184, 4)] {
            let allocated = objects.allocate_object(object, bytes, id, 1, &mut findings);
            allocated.expect("both sizes are fine");
        }
        let opened: Vec<_> =
            objects.caches().iter().map(|opened| (&*opened.name, opened.allocations)).collect();
        assert_eq!(opened, [("filp", 3), ("filp-24", 2)]);
    }

    #[test]
    fn an_allocation_at_a_live_address_frees_what_was_there() {
        let mut objects = Objects::new(HeapTarget(System), true);
        let mut findings = Findings::new("t");
        objects.allocate_bytes(0x40, 100, 1, &mut findings);
        objects.allocate_bytes(0x40, 30, 2, &mut findings);
        objects.free(0x40, 3, &mut findings);
        objects.free(0x40, 4, &mut findings);
        let totals = objects.totals();
        assert_eq!((totals.implied_frees, totals.matched_frees, totals.unmatched_frees), (1, 1, 1));
        assert_eq!(
            (totals.bytes_requested, totals.peak_live_bytes, totals.live_bytes),
            (130, 100, 0)
        );
        assert_eq!(findings.count(), 0);
    }

    #[test]
    fn a_write_into_a_live_object_is_found_when_it_is_freed() {
        let mut objects = Objects::new(HeapTarget(System), true);
        let mut findings = Findings::new("t");
        objects.allocate_bytes(0x40, 100, 1, &mut findings);
        let live = objects.live.take(0x40).expect("it is live");
        objects.live.insert(0x40, live);
        let start = live.start.expect("there is memory");
        // SAFETY: the object has 100 bytes.
        let place = unsafe { start.add(50) };
        // SAFETY: byte 50 of the object is valid; the test plays a stray write.
        unsafe { *place.as_ptr() ^= 1 };
        objects.finish(7, &mut findings);
        assert_eq!(findings.shown(), ["t:7: an object of 100 bytes changed at byte 48"]);
    }
}
