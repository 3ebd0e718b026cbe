//! Replays object events: the live objects, their addresses in our memory, and the totals.
//!
//! The traced address names an object, and the table maps it to the pointer that the allocator
//! returned. Memory use grows with the number of live objects, not with the length of the trace.

use std::ptr::NonNull;

use page_frame::sync::Zeroable;

use super::caches::CacheState;
use super::caller::Caller;
use super::outcome::{Findings, ObjectTotals, Side};
use super::owners::Owners;
use super::pattern;
use super::pinned::Slabs;
use super::table::Table;
use super::target::ObjectTarget;
use super::usage::Moments;
use crate::input_error::Mismatch;

/// Replays object events on `target`.
pub struct Objects<T: ObjectTarget> {
    target: T,
    checks: bool,
    live: Table<Live>,
    owners: Owners<T::Cache>,
    moments: Moments,
    totals: ObjectTotals,
    stamp: u32,
    /// The trace's time in microseconds.
    now_micros: u64,
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
    owner: u32,
    stamp: u32,
    /// The low 32 bits of the time: ages wrap at 71 minutes.
    born_micros: u32,
}

/// A request of the trace.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// The traced address.
    pub object: u64,
    /// Bytes requested.
    pub requested_bytes: u32,
    /// Bytes that the recorded kernel allocated (ALLOC).
    pub allocated_bytes: u32,
    /// The trace's number of the call site, or of the cache where it does not name the call site.
    pub site: u32,
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
        let checks = checks && T::BACKED;
        let totals = ObjectTotals::default();
        Self {
            target,
            checks,
            live: Table::new(),
            owners: Owners::new(),
            moments: Moments::default(),
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

    /// Returns how old objects were when they were freed.
    pub fn lifetimes(&self) -> &Lifetimes {
        &self.lifetimes
    }

    /// Returns the totals so far.
    pub fn totals(&self) -> &ObjectTotals {
        &self.totals
    }

    /// Returns the caches opened so far, in the order of opening. O(owners).
    pub fn caches(&self) -> Vec<CacheState> {
        self.owners.cache_states(&self.moments)
    }

    /// Returns the number of caches opened so far.
    pub fn opened_caches(&self) -> usize {
        self.owners.caches()
    }

    /// Returns the live objects of each cache, in the order of opening. O(owners).
    pub fn live_objects(&self) -> Vec<u64> {
        self.owners.live_objects()
    }

    /// Returns what kmalloc was used for. O(owners).
    pub fn kmalloc(&self) -> CacheState {
        self.owners.kmalloc_state(&self.moments)
    }

    /// Returns the time of the peak of live bytes, in microseconds of the trace.
    pub fn peak_micros(&self) -> u64 {
        self.moments.peak_micros()
    }

    /// Returns what each call site allocated, and what of it is live, without what it pins.
    /// O(owners).
    pub fn callers(&self) -> Vec<Caller> {
        self.owners.callers(&self.moments, &[])
    }

    /// As `callers`, with what each call site pins. O(live objects).
    pub fn pinning_callers(&self) -> Vec<Caller> {
        self.owners.callers(&self.moments, &self.pinned())
    }

    /// Returns the bytes that each owner pins, see [`Caller::pinned_bytes`].
    fn pinned(&self) -> Vec<u64> {
        let mut slabs = Slabs::default();
        self.target.for_each_slab(&mut |start, bytes| slabs.add(start, bytes));
        let live = || {
            self.live.values().filter_map(|live| {
                Some((live.start?.addr().get(), live.requested_bytes as usize, live.owner as usize))
            })
        };
        slabs.pinned(live, self.owners.list.len())
    }

    /// Prefetches the table entry of the traced `object`, for an event to come.
    #[inline(always)]
    pub fn prefetch(&self, object: u64) {
        self.live.prefetch(object);
    }

    /// Continues on CPU `cpu` at `micros`, the trace's time in microseconds.
    #[inline]
    pub fn switch_to(&mut self, cpu: u16, micros: u64) {
        self.target.switch_cpu(cpu);
        self.now_micros = micros;
    }

    /// Records that `id` is the trace's number for the cache or call site `name`.
    pub fn name(&mut self, id: u32, name: &str) {
        self.owners.name(id, name);
    }

    /// Allocates bytes for the traced object.
    #[inline]
    pub fn allocate_bytes(&mut self, request: &Request, line: u64, findings: &mut Findings) {
        let owner = self.owners.of_bytes(request.site);
        self.free_implied(request.object, line, findings);
        let start = self.target.allocate_bytes(request.requested_bytes as usize).ok();
        self.insert(request, start, owner, line, findings);
    }

    /// Allocates the traced object from the cache of the trace's number `cache`.
    ///
    /// # Errors
    /// When the target cannot have a cache of this object size, or the trace uses too many caches.
    #[inline]
    pub fn allocate_object(
        &mut self,
        request: &Request,
        cache: u32,
        line: u64,
        findings: &mut Findings,
    ) -> Result<(), Mismatch> {
        let bytes = request.requested_bytes;
        let owner = self.owners.of_objects(&mut self.target, request.site, cache, bytes)?;
        self.free_implied(request.object, line, findings);
        let handle = self.owners.list[owner as usize].handle;
        let start = handle.and_then(|cache| self.target.allocate_object(cache).ok());
        self.insert(request, start, owner, line, findings);
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
        request: &Request,
        start: Option<NonNull<u8>>,
        owner: u32,
        line: u64,
        findings: &mut Findings,
    ) {
        let Request { object, requested_bytes, allocated_bytes, .. } = *request;
        let bytes = u64::from(requested_bytes);
        self.stamp = self.stamp.wrapping_add(1);
        self.totals.allocations += 1;
        self.totals.bytes_requested += bytes;
        self.totals.bytes_allocated_traced += u64::from(allocated_bytes);
        let usage = &mut self.owners.list[owner as usize].usage;
        usage.allocations += 1;
        usage.requested_bytes += bytes;
        usage.allocated_bytes += u64::from(allocated_bytes);
        match start {
            Some(start) => {
                if self.checks {
                    // SAFETY: clause 1 of `write`: the target just allocated at least these bytes,
                    // and its objects are memory where `checks` is set.
                    unsafe { pattern::write(start, requested_bytes as usize, self.stamp) };
                }
                usage.grow(bytes, &mut self.moments);
                self.totals.live_bytes += bytes;
                if self.totals.live_bytes > self.totals.peak_live_bytes {
                    self.totals.peak_live_bytes = self.totals.live_bytes;
                    self.moments.peak(self.now_micros);
                }
            }
            None => self.count_failure(requested_bytes, owner, line, findings),
        }
        let (stamp, born_micros) = (self.stamp, self.now_micros as u32);
        self.live.insert(object, Live { start, requested_bytes, owner, stamp, born_micros });
    }

    #[cold]
    fn count_failure(&mut self, bytes: u32, owner: u32, line: u64, findings: &mut Findings) {
        self.owners.list[owner as usize].usage.failed += 1;
        self.totals.failed += 1;
        let reason = self.target.shortage(bytes as usize);
        self.totals.shortages.count(reason);
        findings.add_shortage(Side::Objects, line, format_args!("no memory for {bytes} bytes"));
    }

    #[inline]
    fn release(&mut self, live: Live, line: u64, findings: &mut Findings) {
        let bytes = live.requested_bytes as usize;
        let age = (self.now_micros as u32).wrapping_sub(live.born_micros);
        self.lifetimes[(u32::BITS - age.leading_zeros()) as usize] += 1;
        let Some(start) = live.start else { return };
        self.totals.live_bytes -= u64::from(live.requested_bytes);
        let owner = &mut self.owners.list[live.owner as usize];
        owner.usage.shrink(live.requested_bytes.into(), &mut self.moments);
        let handle = owner.handle;
        if self.checks {
            // SAFETY: clause 1 of `first_difference`: `insert` wrote the pattern over these bytes,
            // and the object was live since.
            let difference = unsafe { pattern::first_difference(start, bytes, live.stamp) };
            if let Some(offset) = difference {
                let text = format_args!("an object of {bytes} bytes changed at byte {offset}");
                findings.add(line, text);
            }
        }
        match handle {
            // SAFETY: clause 1 of `free_object`: allocated from this cache, and just removed from
            // `live`.
            Some(cache) => unsafe { self.target.free_object(cache, start) },
            // SAFETY: clause 1 of `free_bytes`: objects with a start whose owner has no cache were
            // allocated as bytes, and this one was just removed from `live`.
            None => unsafe { self.target.free_bytes(start, bytes) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::heap::{HeapTarget, System};
    use super::super::target::CountOnly;
    use super::*;

    fn request(object: u64, requested_bytes: u32, site: u32) -> Request {
        Request { object, requested_bytes, allocated_bytes: requested_bytes, site }
    }

    #[test]
    fn a_second_size_under_a_name_is_a_cache_of_its_own() {
        let mut objects = Objects::new(CountOnly, true);
        let mut findings = Findings::new("t");
        objects.name(4, "filp");
        objects.name(9, "filp");
        for (object, bytes, id) in [(0, 184, 4), (1, 24, 4), (2, 184, 9), (3, 24, 9), (4, 184, 4)] {
            let allocated =
                objects.allocate_object(&request(object, bytes, id), id, 1, &mut findings);
            allocated.expect("both sizes are fine");
        }
        let caches = objects.caches();
        let opened: Vec<_> =
            caches.iter().map(|opened| (&*opened.name, opened.allocations)).collect();
        assert_eq!(opened, [("filp", 3), ("filp-24", 2)]);
    }

    #[test]
    fn an_allocation_at_a_live_address_frees_what_was_there() {
        let mut objects = Objects::new(HeapTarget(System), true);
        let mut findings = Findings::new("t");
        objects.name(0, "site");
        objects.allocate_bytes(&request(0x40, 100, 0), 1, &mut findings);
        objects.allocate_bytes(&request(0x40, 30, 0), 2, &mut findings);
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
        objects.name(0, "site");
        objects.allocate_bytes(&request(0x40, 100, 0), 1, &mut findings);
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
