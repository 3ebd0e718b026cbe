//! [`BitArray`]: bits in memory that the caller provides, with searches a word at a time. The tests
//! are those of its users.

use core::ops::Range;
use core::ptr::NonNull;

pub(super) const WORD_BITS: usize = usize::BITS as usize;

/// A number of bits, in memory that only this value uses while it lives. An index or a range beyond
/// the last word panics.
#[derive(Debug)]
pub(super) struct BitArray {
    words: NonNull<usize>,
    length: usize,
}

// SAFETY: by clause 1 of `new_in` only this value uses the words, so they move with it.
unsafe impl Send for BitArray {}

impl BitArray {
    /// Returns the bytes that `length` bits take.
    pub(super) const fn bytes(length: usize) -> usize {
        length.div_ceil(WORD_BITS) * size_of::<usize>()
    }

    /// Makes an array of `length` clear bits.
    ///
    /// # Safety
    /// 1. `words` is aligned for a `usize`, valid for reads and writes of
    ///    [`bytes(length)`](Self::bytes) bytes as long as the value lives, all zero, and not used
    ///    by other code.
    pub(super) const unsafe fn new_in(words: NonNull<usize>, length: usize) -> Self {
        Self { words, length }
    }

    /// Returns the number of bits.
    pub(super) const fn length(&self) -> usize {
        self.length
    }

    /// Returns whether the bit at `index`, below the length, is set.
    pub(super) fn is_set(&self, index: usize) -> bool {
        self.word(index / WORD_BITS) >> (index % WORD_BITS) & 1 == 1
    }

    /// Counts the clear bits. O(words).
    pub(super) fn count_clear(&self) -> usize {
        parts(0..self.length)
            .map(|(word, mask)| (!self.word(word) & mask).count_ones() as usize)
            .sum()
    }

    /// Returns the first clear bit of `range`, or its end. The range ends at the length at most.
    pub(super) fn first_clear(&self, range: Range<usize>) -> usize {
        self.first(range, usize::MAX)
    }

    /// Returns the first set bit of `range`, or its end. The range ends at the length at most.
    pub(super) fn first_set(&self, range: Range<usize>) -> usize {
        self.first(range, 0)
    }

    /// Returns the first bit of `range` that is set in the words after an exclusive or with `flip`,
    /// or the end of the range.
    #[inline(always)]
    fn first(&self, range: Range<usize>, flip: usize) -> usize {
        if range.is_empty() {
            return range.end;
        }
        self.check(&range);
        let (mut index, last) = (range.start / WORD_BITS, (range.end - 1) / WORD_BITS);
        // SAFETY: clause 1 of `read`: `check` has found that the range ends in the array.
        let mut found =
            (unsafe { self.read(index) } ^ flip) & usize::MAX << (range.start % WORD_BITS);
        while found == 0 {
            if index == last {
                return range.end;
            }
            index += 1;
            // SAFETY: clause 1 of `read`: as above.
            found = unsafe { self.read(index) } ^ flip;
        }
        (index * WORD_BITS + found.trailing_zeros() as usize).min(range.end)
    }

    /// Returns the last set bit of `range`, which ends at the length at most.
    #[inline(always)]
    pub(super) fn last_set(&self, range: Range<usize>) -> Option<usize> {
        if range.is_empty() {
            return None;
        }
        self.check(&range);
        let (first, mut index) = (range.start / WORD_BITS, (range.end - 1) / WORD_BITS);
        let mask = usize::MAX >> (WORD_BITS - 1 - (range.end - 1) % WORD_BITS);
        // SAFETY: clause 1 of `read`: `check` has found that the range ends in the array.
        let mut found = unsafe { self.read(index) } & mask;
        while found == 0 {
            if index == first {
                return None;
            }
            index -= 1;
            // SAFETY: clause 1 of `read`: as above.
            found = unsafe { self.read(index) };
        }
        Some(index * WORD_BITS + found.ilog2() as usize).filter(|last| *last >= range.start)
    }

    /// Sets the bits of `range`, which ends at the length at most.
    #[inline(always)]
    pub(super) fn set(&mut self, range: Range<usize>) {
        self.change(range, |word, mask| word | mask);
    }

    /// Clears the bits of `range`, which ends at the length at most.
    #[inline(always)]
    pub(super) fn clear(&mut self, range: Range<usize>) {
        self.change(range, |word, mask| word & !mask);
    }

    /// Replaces the words of `range`: calls `change` with each of them, and with its bits in the
    /// range.
    #[inline(always)]
    fn change(&mut self, range: Range<usize>, change: impl Fn(usize, usize) -> usize) {
        if range.is_empty() {
            return;
        }
        self.check(&range);
        let (mut index, last) = (range.start / WORD_BITS, (range.end - 1) / WORD_BITS);
        let mut mask = usize::MAX << (range.start % WORD_BITS);
        let last_mask = usize::MAX >> (WORD_BITS - 1 - (range.end - 1) % WORD_BITS);
        while index < last {
            // SAFETY: clause 1 of `write`: `check` has found that the range ends in the array.
            unsafe { self.write(index, |word| change(word, mask)) };
            mask = usize::MAX;
            index += 1;
        }
        // SAFETY: clause 1 of `write`: as above.
        unsafe { self.write(last, |word| change(word, mask & last_mask)) };
    }

    /// Sets the bits between the length and the end of the last word. Only [`word`](Self::word)
    /// shows them.
    pub(super) fn set_padding(&mut self) {
        if self.length % WORD_BITS != 0 {
            let padding = usize::MAX << (self.length % WORD_BITS);
            // SAFETY: clause 1 of `write`: the length ends inside this word.
            unsafe { self.write(self.length / WORD_BITS, |word| word | padding) };
        }
    }

    /// Returns the number of words.
    pub(super) const fn words(&self) -> usize {
        self.length.div_ceil(WORD_BITS)
    }

    /// Returns word `index`: the bits from `index * WORD_BITS` on, the lowest one first.
    #[inline(always)]
    pub(super) fn word(&self, index: usize) -> usize {
        assert!(index < self.words(), "a bit beyond the array");
        // SAFETY: clause 1 of `read`: the assertion.
        unsafe { self.read(index) }
    }

    /// Replaces word `index` by what `change` makes of it.
    #[inline(always)]
    pub(super) fn change_word(&mut self, index: usize, change: impl FnOnce(usize) -> usize) {
        assert!(index < self.words(), "a bit beyond the array");
        // SAFETY: clause 1 of `write`: the assertion.
        unsafe { self.write(index, change) };
    }

    /// # Panics
    /// When `range` does not end at the length or before.
    #[inline(always)]
    fn check(&self, range: &Range<usize>) {
        assert!(range.end <= self.length, "a bit beyond the array");
    }

    /// # Safety
    /// 1. `index` is below the number of words.
    #[inline(always)]
    unsafe fn read(&self, index: usize) -> usize {
        // SAFETY: by clause 1 it is one of the words at `words`.
        let word = unsafe { self.words.add(index) };
        // SAFETY: in bounds and initialised (clause 1 of `new_in`), and the value owns the words.
        unsafe { word.read() }
    }

    /// # Safety
    /// 1. `index` is below the number of words.
    #[inline(always)]
    unsafe fn write(&mut self, index: usize, change: impl FnOnce(usize) -> usize) {
        // SAFETY: clause 1 of `read`: clause 1.
        let new = change(unsafe { self.read(index) });
        // SAFETY: by clause 1 it is one of the words at `words`.
        let word = unsafe { self.words.add(index) };
        // SAFETY: in bounds, and `self` is exclusive.
        unsafe { word.write(new) };
    }
}

/// Splits `range` into words: the index of each, and its bits in the range.
fn parts(range: Range<usize>) -> impl Iterator<Item = (usize, usize)> {
    let words = range.start / WORD_BITS..range.end.div_ceil(WORD_BITS);
    words.map(move |word| {
        let first = range.start.saturating_sub(word * WORD_BITS);
        let last = (range.end - word * WORD_BITS).min(WORD_BITS) - 1;
        (word, usize::MAX >> (WORD_BITS - 1 - last) & usize::MAX << first)
    })
}

/// Returns the bits from `bit` on, which is at most [`WORD_BITS`].
#[inline(always)]
pub(super) const fn upper(bit: usize) -> usize {
    if bit < WORD_BITS { usize::MAX << bit } else { 0 }
}

/// Clears the lowest ones in a row. Some bit of `ones` is set.
#[inline(always)]
pub(super) const fn without_lowest_run(ones: usize) -> usize {
    // The sum has zeros in their place, and a one above them.
    ones & ones.wrapping_add(1 << ones.trailing_zeros())
}
