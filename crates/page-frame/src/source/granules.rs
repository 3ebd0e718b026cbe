//! `Granules`: which granules of 16 bytes of a range are in use, and where each allocation ends.
//!
//! # Concepts
//! Each granule has two bits. The **used bit** says that the granule is in use, and the **end bit**
//! that it is the last granule of its allocation. So allocations need no header: the bits give the
//! size of the allocation at an address. They also reveal a free of free memory, and a free of an
//! address inside an allocation. Both bitmaps together take a 64th of the memory.
//!
//! An allocation takes the lowest free granules that are enough. A run of free granules belongs to
//! the word of the used bits in which it begins. [`LongestRuns`] has the longest run of each word,
//! and finds the first word that has one long enough. A search does not read the words before it.
//!
//! # Invariants
//! - I1: `free` is the number of granules that are not in use.
//! - I2: a granule with the end bit is in use. A granule in use whose next granule is free, or that
//!   is the last of all, has the end bit.
//! - I3: the leaf of a word in `longest` is the length of the longest free run that begins in the
//!   word, or [`MOST`] if that is less.
//! - I4: the used bits after the last granule, up to the end of the word, are set.
//!
//! # Costs
//! An allocation of at most [`MOST`] granules without alignment searches one word. A free reads at
//! most [`MOST`] granules on each side. Both change up to two leaves of the tree, each in
//! O(log(granules)). A larger or an aligned allocation looks at each run that may be long enough,
//! O(granules / 64) at worst.

use core::ops::Range;
use core::ptr::NonNull;

use crate::fault::FaultKind;
use crate::source::bit_array::{BitArray, WORD_BITS, upper, without_lowest_run};
use crate::source::longest_runs::{LongestRuns, MOST};

/// The bytes of a granule: the unit of allocation, and its alignment.
pub(super) const GRANULE: usize = 16;

/// The granules of a range.
#[derive(Debug)]
pub(super) struct Granules {
    /// The used bits.
    used: BitArray,
    /// The end bits.
    ends: BitArray,
    /// The longest free run that begins in each word of the used bits (I3).
    longest: LongestRuns,
    /// The number of free granules (I1).
    free: usize,
}

impl Granules {
    /// Returns the size in bytes of the bitmaps and of the tree for `count` granules.
    pub(super) const fn bytes(count: usize) -> usize {
        2 * BitArray::bytes(count) + LongestRuns::bytes(count.div_ceil(WORD_BITS))
    }

    /// Makes `count` free granules, at least one.
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
        // SAFETY: clause 1: the memory has room for the tree after both bitmaps.
        let nodes = unsafe { memory.byte_add(2 * BitArray::bytes(count)) };
        // SAFETY: clause 1: the second bitmap, whose offset is a multiple of a word.
        let ends = unsafe { BitArray::new_in(ends, count) };
        // SAFETY: clause 1: the tree, whose offset is a multiple of a word.
        let longest = unsafe { LongestRuns::new_in(nodes, count.div_ceil(WORD_BITS)) };
        let mut granules = Self { used, ends, longest, free: count };
        granules.used.set_padding();
        granules.update(0);
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

    /// Takes the lowest `count` free granules in a row, at least one, whose first one, plus
    /// `offset`, is a multiple of `alignment`, a power of two. Returns the first one.
    #[inline(always)]
    pub(super) fn allocate(
        &mut self,
        count: usize,
        alignment: usize,
        offset: usize,
    ) -> Option<usize> {
        if alignment > 1 || count > MOST {
            let found = self.find(count, alignment, offset)?;
            self.take(found..found + count);
            return Some(found);
        }
        let word = self.longest.first(count)?;
        let free = self.begun_in(word);
        // The run at the end of the word, which may go on in the next one.
        let last = free.leading_ones() as usize;
        let mut inner = free & !upper(WORD_BITS - last);
        let (mut found, mut longest, mut rest) = (WORD_BITS, 0, 0);
        // One pass finds the first run that is long enough, and the longest one that remains.
        while inner != 0 {
            let bit = inner.trailing_zeros() as usize;
            let length = (!(inner >> bit)).trailing_zeros() as usize;
            let taken = if length >= count && found == WORD_BITS { count } else { 0 };
            found = if taken > 0 { bit } else { found };
            longest = longest.max(length - taken);
            inner = without_lowest_run(inner);
        }
        if found == WORD_BITS {
            // By I3 the last run is long enough.
            found = WORD_BITS - last;
            rest = self.run_length(word * WORD_BITS + found + count);
            if count < last {
                longest = longest.max(rest);
            }
        } else if last > 0 {
            longest = longest.max(last + self.run_length((word + 1) * WORD_BITS));
        }
        let start = word * WORD_BITS + found;
        let end = start + count;
        self.free -= count;
        if found + count <= WORD_BITS {
            let taken = usize::MAX >> (WORD_BITS - count) << found;
            self.used.change_word(word, |used| used | taken);
        } else {
            self.used.set(start..end);
        }
        self.ends.change_word((end - 1) / WORD_BITS, |ends| ends | 1 << ((end - 1) % WORD_BITS));
        self.longest.set(word, longest);
        if found + count >= WORD_BITS && rest > 0 {
            self.longest.raise(end / WORD_BITS, rest);
        }
        Some(start)
    }

    /// Finds the granules that [`allocate`](Self::allocate) takes. Looks at each run that may be
    /// long enough.
    #[cold]
    #[inline(never)]
    pub(super) fn find(&self, count: usize, alignment: usize, offset: usize) -> Option<usize> {
        let (least, end) = (count.min(MOST), self.count());
        let mut next = self.longest.first(least);
        while let Some(word) = next {
            let mut free = self.begun_in(word);
            while free != 0 {
                let start = word * WORD_BITS + free.trailing_zeros() as usize;
                // No overflow: both are below the number of granules of an address space.
                let aligned = (start + offset).next_multiple_of(alignment) - offset;
                let needed = aligned.saturating_add(count);
                if self.used.first_set(start..needed.min(end)) == needed {
                    return Some(aligned);
                }
                free = without_lowest_run(free);
            }
            next = self.longest.first_from(word + 1, least);
        }
        None
    }

    /// Takes the free granules of `range`, which is not empty, as one allocation.
    pub(super) fn take(&mut self, range: Range<usize>) {
        self.take_from(self.run_start(range.start), range);
    }

    /// Takes the free granules of `range`, which is not empty. Their free run begins at
    /// `run_start`, or at least [`MOST`] granules before the range.
    #[inline(always)]
    fn take_from(&mut self, run_start: usize, range: Range<usize>) {
        let end = range.end;
        let rest = self.run_length(end);
        self.free -= range.len();
        self.used.set(range);
        self.ends.set(end - 1..end);
        let (word, rest_word) = (run_start / WORD_BITS, end / WORD_BITS);
        if end - run_start + rest >= self.longest.leaf(word) {
            self.update(word);
        }
        if rest > 0 && rest_word != word {
            self.longest.raise(rest_word, rest);
        }
    }

    /// Frees the allocation of the granules of `range`.
    pub(super) fn free_range(&mut self, range: Range<usize>) {
        self.ends.clear(range.end - 1..range.end);
        self.release(range);
    }

    /// Frees the allocation that begins at `granule`.
    ///
    /// # Errors
    /// The kind of fault, if `granule` is not the start of an allocation. Nothing changes then.
    #[inline(always)]
    pub(super) fn free_at(&mut self, granule: usize) -> Result<(), FaultKind> {
        let (word, bit) = (granule / WORD_BITS, granule % WORD_BITS);
        let (used, ends) = (self.used.word(word), self.ends.word(word));
        let ends_on = ends >> bit;
        // The granule is in use, and the one before is free or the last of its allocation.
        let begins = bit > 0 && used >> bit & 1 == 1 && (used & !ends) >> (bit - 1) & 1 == 0;
        if !begins || ends_on == 0 {
            let end = self.end_of(granule)?;
            self.free_range(granule..end);
            return Ok(());
        }
        let count = ends_on.trailing_zeros() as usize + 1;
        self.free_in_word(word, bit, count);
        Ok(())
    }

    /// Frees the allocation of `count` granules from `bit` of `word` on, which lies in that word.
    #[inline(always)]
    fn free_in_word(&mut self, word: usize, bit: usize, count: usize) {
        let freed = usize::MAX >> (WORD_BITS - count) << bit;
        let used = self.used.word(word) & !freed;
        self.free += count;
        self.used.change_word(word, |_| used);
        self.ends.change_word(word, |ends| ends & !(1 << (bit + count - 1)));
        let (first, next) = (word * WORD_BITS, (word + 1) * WORD_BITS);
        let (below, above) = (used & !(usize::MAX << bit), used >> bit);
        let start = match below {
            0 => self.run_start(first),
            _ => first + WORD_BITS - below.leading_zeros() as usize,
        };
        // The end of the run, and how much of it lies in the next words.
        let (end, beyond) = match above {
            0 => {
                let beyond = self.run_length(next);
                (next + beyond, beyond)
            }
            _ => (first + bit + above.trailing_zeros() as usize, 0),
        };
        // The leaf of a run that began earlier than `start` is `MOST` already.
        if first + bit - start < MOST {
            self.longest.raise(start / WORD_BITS, end - start);
        }
        // A run that began directly after the allocation does not begin there any more.
        if start < first && end > first + bit + count {
            self.update(word);
        }
        if bit + count == WORD_BITS && beyond > 0 {
            self.update(word + 1);
        }
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

    /// Returns the first invariant that does not hold. O(granules).
    pub(super) fn broken_invariant(&self) -> Option<&'static str> {
        if self.used.count_clear() != self.free {
            return Some("granules I1: free granules are counted");
        }
        let (mut granule, count) = (0, self.count());
        let (mut word, mut longest) = (0, 0);
        while granule < count {
            let start = self.used.first_clear(granule..count);
            let has_end = start == granule || self.ends.is_set(start - 1);
            let end = self.used.first_set(start..count);
            if !has_end || self.ends.first_set(start..end) < end {
                return Some("granules I2: allocations end where the end bit is set");
            }
            let next_word = if start < count { start / WORD_BITS } else { word };
            if !self.leaves_are_right(word..next_word, longest) {
                return Some("granules I3: the tree has each word's longest free run");
            }
            if word < next_word {
                (word, longest) = (next_word, 0);
            }
            longest = longest.max((end - start).min(MOST));
            granule = end;
        }
        if !self.leaves_are_right(word..self.used.words(), longest) || !self.longest.is_right() {
            return Some("granules I3: the tree has each word's longest free run");
        }
        let padding = count.next_multiple_of(WORD_BITS) - count;
        if (!self.used.word(self.used.words() - 1)).leading_zeros() < padding as u32 {
            return Some("granules I4: no run goes beyond the last granule");
        }
        None
    }

    /// Returns whether the leaf of the first word of `words` is `longest`, and those of the other
    /// words are zero.
    fn leaves_are_right(&self, words: Range<usize>, longest: usize) -> bool {
        let first = words.start;
        words.into_iter().all(|word| {
            let length = if word == first { longest } else { 0 };
            self.longest.leaf(word) == length
        })
    }

    /// Makes the granules of `range`, which have no end bit any more, free.
    #[inline(always)]
    fn release(&mut self, range: Range<usize>) {
        let (start, end) = (self.run_start(range.start), range.end);
        let rest = self.run_length(end);
        // The leaf of a run that began earlier than `start` is `MOST` already.
        let begins = range.start - start < MOST;
        self.free += range.len();
        self.used.clear(range);
        let (word, rest_word) = (start / WORD_BITS, end / WORD_BITS);
        if begins {
            self.longest.raise(word, end - start + rest);
        }
        if rest > 0 && rest_word != word && rest >= self.longest.leaf(rest_word) {
            self.update(rest_word);
        }
    }

    /// Returns the number of free granules from `granule` on, or [`MOST`] if it is greater.
    #[inline(always)]
    fn run_length(&self, granule: usize) -> usize {
        self.used.first_set(granule..(granule + MOST).min(self.count())) - granule
    }

    /// Returns the start of the free granules directly before `granule`, or `granule` if there are
    /// none. Looks at the last [`MOST`] granules only.
    #[inline(always)]
    fn run_start(&self, granule: usize) -> usize {
        let last_used = self.used.last_set(granule.saturating_sub(MOST)..granule);
        last_used.map_or(granule.saturating_sub(MOST), |last| last + 1)
    }

    /// Sets the length of the longest run that begins in `word`.
    #[inline(always)]
    fn update(&mut self, word: usize) {
        let longest = self.longest_from(word);
        self.longest.set(word, longest);
    }

    /// Returns the length of the longest free run that begins in `word`, or at least [`MOST`] if it
    /// is longer.
    #[inline(always)]
    fn longest_from(&self, word: usize) -> usize {
        let (mut free, mut longest) = (self.begun_in(word), 0);
        while free != 0 {
            let start = free.trailing_zeros() as usize;
            let mut length = (!(free >> start)).trailing_zeros() as usize;
            if start + length == WORD_BITS {
                // The last run may go on in the following words.
                length += self.run_length((word + 1) * WORD_BITS);
            }
            longest = longest.max(length);
            free = without_lowest_run(free);
        }
        longest
    }

    /// Returns the free granules of `word` as ones, without those of a run that began in the word
    /// before.
    #[inline(always)]
    fn begun_in(&self, word: usize) -> usize {
        let free = !self.used.word(word);
        let goes_on = word > 0 && !self.used.word(word - 1) >> (WORD_BITS - 1) == 1;
        // The sum has zeros for the lowest ones in a row.
        free & free.wrapping_add(goes_on.into())
    }
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

    /// Compares every operation with a vector that names each granule's allocation. The short ways
    /// of `allocate` and `free_at` take turns with those that take any range.
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
                let power = if random.below(2) == 0 { 0 } else { random.below(10) };
                let (alignment, offset) = (1 << power, random.below(1024));
                if random.below(5) < 3 {
                    let is_fit = |start: &usize| {
                        (start + offset) % alignment == 0
                            && start + length <= count
                            && model[*start..start + length].iter().all(|owner| *owner == 0)
                    };
                    let lowest = (0..count).find(is_fit);
                    let found = if random.below(2) == 0 {
                        granules.allocate(length, alignment, offset)
                    } else {
                        let found = granules.find(length, alignment, offset);
                        found.inspect(|start| granules.take(*start..start + length))
                    };
                    assert_eq!(found, lowest, "{length} aligned to {alignment}");
                    if let Some(start) = found {
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
                        if random.below(2) == 0 {
                            assert_eq!(granules.free_at(range.start), Ok(()));
                        } else {
                            granules.free_range(range.clone());
                        }
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
