//! `Granules`: which granules of 16 bytes of a range are in use, and where each allocation ends.
//!
//! # Concepts
//! Each granule has two bits. The **used bit** says that the granule is in use, and the **end bit**
//! that it is the last granule of its allocation. So allocations need no header: the bits give the
//! size of the allocation at an address. They also reveal a free of free memory, and a free of an
//! address inside an allocation. Both bitmaps together take a 64th of the memory.
//!
//! An allocation takes the lowest free granules that are enough. For each **stretch** of 256
//! granules there is a bound on the length of the free runs that begin in it. A search skips the
//! stretches whose bound is too low.
//!
//! # Invariants
//! - I1: `free` is the number of granules that are not in use.
//! - I2: a granule with the end bit is in use. A granule in use whose next granule is free, or that
//!   is the last of all, has the end bit.
//! - I3: no run of free granules that begins in a stretch is longer than the bound of the stretch,
//!   unless the bound is [`UNKNOWN`].
//! - I4: the bounds of all stretches below `lowest` are zero.
//!
//! # Costs
//! A search reads the bounds, O(granules / 256), and the bits of the stretches that may have room.
//! A bound is raised when a run begins or grows, and lowered when a search finds nothing in the
//! stretch. A free finds the start of the free run that it joins, O(length of that run / 64).

use core::ops::Range;
use core::ptr::NonNull;

use crate::fault::FaultKind;
use crate::source::bit_array::{BitArray, WORD_BITS};

/// The bytes of a granule: the unit of allocation, and its alignment.
pub(super) const GRANULE: usize = 16;
/// The number of granules of a stretch. Any number from 64 to 512 gives the same time within 10 %
/// for a free and an allocation in a half-full heap of 64 KiB. A smaller number makes a search of
/// 4 MiB read more bounds.
const STRETCH: usize = 256;
/// The bound of a stretch of which nothing is known: a search must look at its bits.
const UNKNOWN: u16 = u16::MAX;

/// The granules of a range.
#[derive(Debug)]
pub(super) struct Granules {
    /// The used bits.
    used: BitArray,
    /// The end bits.
    ends: BitArray,
    /// A bound for each stretch, in granules (I3).
    bounds: NonNull<u16>,
    /// The number of free granules (I1).
    free: usize,
    /// The number of the stretch where a search begins (I4).
    lowest: usize,
}

// SAFETY: by clause 1 of `new_in` only this value uses the bounds, so they move with it.
unsafe impl Send for Granules {}

impl Granules {
    /// Returns the size in bytes of the bitmaps and the bounds for `count` granules.
    pub(super) const fn bytes(count: usize) -> usize {
        2 * BitArray::bytes(count) + count.div_ceil(STRETCH) * size_of::<u16>()
    }

    /// Makes `count` free granules.
    ///
    /// # Safety
    /// 1. `memory` is aligned for a `usize`, valid for reads and writes of
    ///    [`bytes(count)`](Self::bytes) bytes as long as the value lives, all zero, and not used by
    ///    other code.
    pub(super) unsafe fn new_in(memory: NonNull<usize>, count: usize) -> Self {
        // SAFETY: clause 1: the first bitmap comes first.
        let used = unsafe { BitArray::new_in(memory, count) };
        // SAFETY: clause 1: the memory has room for two bitmaps.
        let ends = unsafe { memory.byte_add(BitArray::bytes(count)) };
        // SAFETY: clause 1: the memory has room for the bounds after both bitmaps.
        let bounds = unsafe { memory.byte_add(2 * BitArray::bytes(count)) }.cast();
        // SAFETY: clause 1: the second bitmap, whose offset is a multiple of a word.
        let ends = unsafe { BitArray::new_in(ends, count) };
        let mut granules = Self { used, ends, bounds, free: count, lowest: 0 };
        if count > 0 {
            granules.set_bound(0, UNKNOWN);
        }
        granules
    }

    /// Returns the number of granules.
    pub(super) const fn count(&self) -> usize {
        self.used.length()
    }

    /// Returns the number of free granules.
    pub(super) const fn free(&self) -> usize {
        self.free
    }

    /// Returns whether the granule is in use.
    pub(super) fn is_used(&self, granule: usize) -> bool {
        self.used.is_set(granule)
    }

    /// Returns whether all granules of `range` exist and are free.
    pub(super) fn is_free(&self, range: Range<usize>) -> bool {
        range.end <= self.count() && self.used.first_set(range.clone()) == range.end
    }

    /// Finds the lowest `count` free granules whose first one, plus `offset`, is a multiple of
    /// `alignment`, a power of two.
    pub(super) fn find(&mut self, count: usize, alignment: usize, offset: usize) -> Option<usize> {
        let stretches = self.count().div_ceil(STRETCH);
        while self.lowest < stretches && self.bound(self.lowest) == 0 {
            self.lowest += 1;
        }
        let mut stretch = self.lowest;
        while stretch < stretches {
            let bound = self.bound(stretch);
            if bound != UNKNOWN && usize::from(bound) < count {
                stretch += 1;
                continue;
            }
            match self.find_in(stretch, count, alignment, offset) {
                Ok(granule) => return Some(granule),
                Err(Missed { longest, next }) => {
                    self.set_bound(stretch, longest.try_into().unwrap_or(UNKNOWN));
                    // Every free run begins in this stretch, or at `next` or later.
                    stretch = (next / STRETCH).max(stretch + 1);
                }
            }
        }
        None
    }

    /// Searches the free runs that begin in `stretch` for granules as [`find`](Self::find)
    /// describes.
    fn find_in(
        &self,
        stretch: usize,
        count: usize,
        alignment: usize,
        offset: usize,
    ) -> Result<usize, Missed> {
        let (first, end) = (stretch * STRETCH, self.count());
        let stretch_end = (first + STRETCH).min(end);
        let mut longest = 0;
        let mut start = self.used.first_clear(first..end);
        if start == first && first > 0 && !self.used.is_set(first - 1) {
            // The free run at `first` began in an earlier stretch: skip it.
            start = self.used.first_clear(self.used.first_set(start..end)..end);
        }
        if alignment == 1 && count <= WORD_BITS {
            let found = self.used.first_clear_run(start.min(stretch_end)..stretch_end, count);
            return found.ok_or(Missed { longest: count - 1, next: stretch_end });
        }
        while start < stretch_end {
            // No overflow: both are below the number of granules of an address space.
            let aligned = (start + offset).next_multiple_of(alignment) - offset;
            let needed = aligned.saturating_add(count);
            let run_end = self.used.first_set(start..needed.min(end));
            if run_end == needed {
                return Ok(aligned);
            }
            longest = longest.max(run_end - start);
            start = self.used.first_clear(run_end..end);
        }
        Err(Missed { longest, next: start })
    }

    /// Takes the free granules of `range`, which is not empty, as one allocation.
    pub(super) fn take(&mut self, range: Range<usize>) {
        self.free -= range.len();
        self.used.set(range.clone());
        self.ends.set(range.end - 1..range.end);
        self.begin_run(range.end);
    }

    /// Frees the allocation of the granules of `range`.
    pub(super) fn free_range(&mut self, range: Range<usize>) {
        self.ends.clear(range.end - 1..range.end);
        self.release(range);
    }

    /// Changes the end of the allocation of the granules of `range` to `new_end`. Returns whether
    /// that succeeded: if it grows, the granules up to `new_end` must be free.
    pub(super) fn resize(&mut self, range: Range<usize>, new_end: usize) -> bool {
        let end = range.end;
        if new_end > end {
            if !self.is_free(end..new_end) {
                return false;
            }
            self.ends.clear(end - 1..end);
            self.take(end..new_end);
        } else if new_end < end {
            self.ends.set(new_end - 1..new_end);
            self.free_range(new_end..end);
        }
        true
    }

    /// Returns the end of the allocation that begins at `granule`.
    ///
    /// # Errors
    /// The kind of fault, if `granule` is not the start of an allocation.
    pub(super) fn end_of(&self, granule: usize) -> Result<usize, FaultKind> {
        if !self.used.is_set(granule) {
            return Err(FaultKind::DoubleFree);
        }
        if granule > 0 && self.used.is_set(granule - 1) && !self.ends.is_set(granule - 1) {
            return Err(FaultKind::InteriorPointer);
        }
        // By I2 the run of granules in use ends with an end bit.
        Ok(self.ends.first_set(granule..self.count()) + 1)
    }

    /// Returns the first of I1 to I4 that does not hold. O(granules).
    pub(super) fn broken_invariant(&self) -> Option<&'static str> {
        if self.used.count_clear() != self.free {
            return Some("granules I1: free granules are counted");
        }
        let (mut granule, count) = (0, self.count());
        let mut first_with_run = usize::MAX;
        while granule < count {
            let start = self.used.first_clear(granule..count);
            let has_end = start == granule || self.ends.is_set(start - 1);
            let end = self.used.first_set(start..count);
            if !has_end || self.ends.first_set(start..end) < end {
                return Some("granules I2: allocations end where the end bit is set");
            }
            if start < count {
                let bound = self.bound(start / STRETCH);
                if bound != UNKNOWN && usize::from(bound) < end - start {
                    return Some("granules I3: no free run is longer than its stretch's bound");
                }
                first_with_run = first_with_run.min(start / STRETCH);
            }
            granule = end;
        }
        if first_with_run < self.lowest {
            return Some("granules I4: no run is free below the lowest stretch");
        }
        None
    }

    /// Makes the granules of `range`, which have no end bit any more, free.
    fn release(&mut self, range: Range<usize>) {
        self.free += range.len();
        self.used.clear(range.clone());
        let before = self.used.last_set(0..range.start);
        self.begin_run(before.map_or(0, |last| last + 1));
    }

    /// If a free run begins at `granule`, raises the bound of the granule's stretch to the length
    /// of the run.
    fn begin_run(&mut self, granule: usize) {
        // The bound of a long run is `UNKNOWN`: its exact length is not worth the time.
        let limit = (granule + STRETCH).min(self.count());
        let length = self.used.first_set(granule..limit) - granule;
        let stretch = granule / STRETCH;
        if length == STRETCH {
            self.set_bound(stretch, UNKNOWN);
        } else if length > 0 && usize::from(self.bound(stretch)) < length {
            self.set_bound(stretch, length as u16);
        }
    }

    fn bound(&self, stretch: usize) -> u16 {
        debug_assert!(stretch * STRETCH < self.count());
        // SAFETY: clause 1 of `new_in`: there is a bound for each stretch.
        let bound = unsafe { self.bounds.add(stretch) };
        // SAFETY: in bounds and initialised, and the value owns the bounds.
        unsafe { bound.read() }
    }

    fn set_bound(&mut self, stretch: usize, value: u16) {
        debug_assert!(stretch * STRETCH < self.count());
        if value > 0 {
            self.lowest = self.lowest.min(stretch);
        }
        // SAFETY: as in `bound`.
        let bound = unsafe { self.bounds.add(stretch) };
        // SAFETY: in bounds, and `self` is exclusive.
        unsafe { bound.write(value) };
    }
}

/// The result of a search that found nothing in a stretch.
struct Missed {
    /// No free run that begins in the stretch is longer than this number of granules.
    longest: usize,
    /// A granule at or after the end of the stretch. No free run begins between that end and this
    /// granule.
    next: usize,
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::{vec, vec::Vec};
    use testkit::Random;

    /// Granules over a vector, which must outlive them.
    fn granules(count: usize) -> (Vec<usize>, Granules) {
        let mut memory = vec![0_usize; Granules::bytes(count).div_ceil(size_of::<usize>())];
        let start = NonNull::new(memory.as_mut_ptr()).expect("a vector has an address");
        // SAFETY: zero, aligned, and only used through the value.
        let granules = unsafe { Granules::new_in(start, count) };
        (memory, granules)
    }

    /// Compares every operation with a vector that names each granule's allocation.
    #[test]
    fn searches_find_the_lowest_aligned_run_and_ends_are_exact() {
        for (seed, count) in [1_usize, 63, 64, 511, 513, 2000, 5000].into_iter().enumerate() {
            let mut random = Random::new(seed as u64 + 1);
            let (_memory, mut granules) = granules(count);
            let mut model = vec![0_usize; count];
            let mut live: Vec<Range<usize>> = Vec::new();
            for number in 1..3000 {
                let length = match random.below(20) {
                    0 => 1 + random.below(count),
                    _ => 1 + random.below(count.min(40)),
                };
                let (alignment, offset) = (1 << (random.below(20) / 2), random.below(1024));
                if random.below(5) < 3 {
                    let is_fit = |start: &usize| {
                        (start + offset) % alignment == 0
                            && start + length <= count
                            && model[*start..start + length].iter().all(|owner| *owner == 0)
                    };
                    let found = granules.find(length, alignment, offset);
                    assert_eq!(found, (0..count).find(is_fit), "{length} aligned to {alignment}");
                    if let Some(start) = found {
                        granules.take(start..start + length);
                        model[start..start + length].fill(number);
                        live.push(start..start + length);
                    }
                } else if !live.is_empty() {
                    let index = random.below(live.len());
                    let range = live[index].clone();
                    assert_eq!(granules.end_of(range.start), Ok(range.end));
                    if random.below(2) == 0 {
                        let new_end = range.start + 1 + random.below(range.len() + 4);
                        let has_room = new_end <= count
                            && model[range.start..new_end]
                                .iter()
                                .all(|owner| [0, model[range.start]].contains(owner));
                        assert_eq!(granules.resize(range.clone(), new_end), has_room);
                        if has_room {
                            let owner = model[range.start];
                            model[range.clone()].fill(0);
                            model[range.start..new_end].fill(owner);
                            live[index].end = new_end;
                        }
                    } else {
                        granules.free_range(range.clone());
                        model[range].fill(0);
                        live.swap_remove(index);
                    }
                }
                assert_eq!(granules.broken_invariant(), None);
                let probe = random.below(count);
                let is_start = live.iter().any(|range| range.start == probe);
                match granules.end_of(probe) {
                    Ok(_) => assert!(is_start),
                    Err(FaultKind::DoubleFree) => assert_eq!(model[probe], 0),
                    Err(kind) => {
                        assert_eq!(kind, FaultKind::InteriorPointer);
                        assert!(model[probe] != 0 && !is_start);
                    }
                }
            }
            live.into_iter().for_each(|range| granules.free_range(range));
            assert_eq!((granules.free(), granules.find(count, 1, 0)), (count, Some(0)));
        }
    }
}
