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
        debug_assert!(range.end <= self.length);
        if range.is_empty() {
            return range.end;
        }
        let mut index = range.start / WORD_BITS;
        let mut found = (self.word(index) ^ flip) & usize::MAX << (range.start % WORD_BITS);
        while found == 0 {
            index += 1;
            if index * WORD_BITS >= range.end {
                return range.end;
            }
            found = self.word(index) ^ flip;
        }
        (index * WORD_BITS + found.trailing_zeros() as usize).min(range.end)
    }

    /// Returns where the lowest `count` clear bits in a row begin that begin in `range` and end at
    /// the length at most; `count` is 1 to [`WORD_BITS`].
    pub(super) fn first_clear_run(&self, range: Range<usize>, count: usize) -> Option<usize> {
        debug_assert!((1..=WORD_BITS).contains(&count) && range.end <= self.length);
        if range.is_empty() {
            return None;
        }
        let mut index = range.start / WORD_BITS;
        let mut is_clear = self.clear_in(index) & usize::MAX << (range.start % WORD_BITS);
        // The clear bits at the end of the word before.
        let mut carried = 0;
        loop {
            let first = index * WORD_BITS;
            if carried > 0 && carried + (!is_clear).trailing_zeros() as usize >= count {
                return Some(first - carried).filter(|start| *start < range.end);
            }
            // A bit of `is_clear` remains in `runs` if it and the `width - 1` bits above it are 1.
            let (mut runs, mut width) = (is_clear, 1);
            while runs != 0 && width < count {
                let step = width.min(count - width);
                runs &= runs >> step;
                width += step;
            }
            if runs != 0 {
                let start = first + runs.trailing_zeros() as usize;
                return Some(start).filter(|start| *start < range.end);
            }
            carried = (!is_clear).leading_zeros() as usize;
            index += 1;
            // A run beyond the range must have begun inside it.
            let begins_inside = index * WORD_BITS - carried < range.end;
            if !begins_inside || index * WORD_BITS >= self.length {
                return None;
            }
            is_clear = self.clear_in(index);
        }
    }

    /// Returns word `index` inverted: a bit is 1 if it is clear and below the length.
    fn clear_in(&self, index: usize) -> usize {
        let length = (self.length - index * WORD_BITS).min(WORD_BITS);
        !self.word(index) & usize::MAX >> (WORD_BITS - length)
    }

    /// Returns the last set bit of `range`, which ends at the length at most.
    pub(super) fn last_set(&self, range: Range<usize>) -> Option<usize> {
        let set = |(word, mask): (usize, usize)| {
            let set = self.word(word) & mask;
            (set != 0).then(|| word * WORD_BITS + set.ilog2() as usize)
        };
        parts(range).rev().find_map(set)
    }

    /// Sets the bits of `range`.
    pub(super) fn set(&mut self, range: Range<usize>) {
        for (word, mask) in parts(range) {
            self.set_word(word, self.word(word) | mask);
        }
    }

    /// Clears the bits of `range`.
    pub(super) fn clear(&mut self, range: Range<usize>) {
        for (word, mask) in parts(range) {
            self.set_word(word, self.word(word) & !mask);
        }
    }

    fn word(&self, index: usize) -> usize {
        assert!(index * WORD_BITS < self.length, "a bit beyond the array");
        // SAFETY: by the assertion it is one of the words at `words`.
        let word = unsafe { self.words.add(index) };
        // SAFETY: in bounds and initialised (clause 1 of `new_in`), and the value owns the words.
        unsafe { word.read() }
    }

    fn set_word(&mut self, index: usize, value: usize) {
        assert!(index * WORD_BITS < self.length, "a bit beyond the array");
        // SAFETY: as in `word`.
        let word = unsafe { self.words.add(index) };
        // SAFETY: in bounds, and `self` is exclusive.
        unsafe { word.write(value) };
    }
}

/// Splits `range` into words: the index of each, and its bits in the range.
fn parts(range: Range<usize>) -> impl DoubleEndedIterator<Item = (usize, usize)> {
    let words = range.start / WORD_BITS..range.end.div_ceil(WORD_BITS);
    words.map(move |word| {
        let first = range.start.saturating_sub(word * WORD_BITS);
        let last = (range.end - word * WORD_BITS).min(WORD_BITS) - 1;
        (word, usize::MAX >> (WORD_BITS - 1 - last) & usize::MAX << first)
    })
}
