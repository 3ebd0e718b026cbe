//! `PageBits`: which pages of a range are taken, a bit for each, with searches for aligned runs of
//! clear bits.
//!
//! # Invariants
//! - I1: `free` is the number of clear bits.
//! - I2: every page below `lowest` is taken.
//!
//! # Costs
//! A search starts at the lowest page that may be free, and reads the bits a word at a time. It
//! costs O(pages / 64) at worst.

use core::ops::Range;
use core::ptr::NonNull;

const WORD_BITS: usize = usize::BITS as usize;

/// A bit for each page of a range, set while the page is allocated.
#[derive(Debug)]
pub(super) struct PageBits {
    words: NonNull<usize>,
    pages: usize,
    free: usize,
    lowest: usize,
}

// SAFETY: the words belong to the value, which only its owner uses.
unsafe impl Send for PageBits {}

impl PageBits {
    /// Returns the bytes that the bits of `pages` pages take.
    pub(super) const fn bytes(pages: usize) -> usize {
        pages.div_ceil(WORD_BITS) * size_of::<usize>()
    }

    /// Makes the bits of `pages` free pages.
    ///
    /// # Safety
    /// 1. `words` is aligned for a `usize`, valid for reads and writes of
    ///    [`bytes(pages)`](Self::bytes) bytes as long as the value lives, all zero, and not used by
    ///    other code.
    pub(super) const unsafe fn new_in(words: NonNull<usize>, pages: usize) -> Self {
        Self { words, pages, free: pages, lowest: 0 }
    }

    /// Returns the number of pages.
    pub(super) const fn pages(&self) -> usize {
        self.pages
    }

    /// Returns the number of free pages.
    pub(super) const fn free(&self) -> usize {
        self.free
    }

    /// Counts the free pages. O(pages / 64).
    pub(super) fn count_free(&self) -> usize {
        self.parts(0..self.pages)
            .map(|(word, mask)| (!self.word(word) & mask).count_ones())
            .sum::<u32>() as usize
    }

    /// Returns whether every page below the lowest page that may be free is taken (I2).
    pub(super) fn lowest_is_right(&self) -> bool {
        self.first_free(0) >= self.lowest.min(self.pages)
    }

    /// Returns whether `page` is taken.
    pub(super) fn is_taken(&self, page: usize) -> bool {
        self.word(page / WORD_BITS) >> (page % WORD_BITS) & 1 == 1
    }

    /// Returns whether all pages of `range` exist and are free.
    pub(super) fn is_free(&self, range: Range<usize>) -> bool {
        range.end <= self.pages && self.last_taken(range).is_none()
    }

    /// Finds the lowest `pages` free pages whose first page, plus `offset`, is a multiple of
    /// `alignment`, a power of two.
    pub(super) fn find(&self, pages: usize, alignment: usize, offset: usize) -> Option<usize> {
        let align = |page: usize| {
            let aligned = page.checked_add(offset)?.checked_next_multiple_of(alignment)?;
            Some(aligned - offset)
        };
        let mut page = align(self.first_free(self.lowest))?;
        loop {
            let end = page.checked_add(pages).filter(|end| *end <= self.pages)?;
            match self.last_taken(page..end) {
                None => return Some(page),
                Some(taken) => page = align(self.first_free(taken + 1))?,
            }
        }
    }

    /// Takes the free pages of `range`.
    pub(super) fn take(&mut self, range: Range<usize>) {
        self.free -= range.len();
        if range.start <= self.lowest {
            self.lowest = self.lowest.max(range.end);
        }
        for (word, mask) in self.parts(range) {
            self.set_word(word, self.word(word) | mask);
        }
    }

    /// Frees the taken pages of `range`.
    pub(super) fn free_range(&mut self, range: Range<usize>) {
        self.free += range.len();
        self.lowest = self.lowest.min(range.start);
        for (word, mask) in self.parts(range) {
            self.set_word(word, self.word(word) & !mask);
        }
    }

    /// Returns the first free page from `page` on, or at least the number of pages.
    fn first_free(&self, page: usize) -> usize {
        if page >= self.pages {
            return self.pages;
        }
        let free = |(word, mask): (usize, usize)| {
            let free = !self.word(word) & mask;
            (free != 0).then(|| word * WORD_BITS + free.trailing_zeros() as usize)
        };
        self.parts(page..self.pages).find_map(free).unwrap_or(self.pages)
    }

    /// Returns the last taken page of `range`, which lies below the number of pages.
    fn last_taken(&self, range: Range<usize>) -> Option<usize> {
        let taken = |(word, mask): (usize, usize)| {
            let taken = self.word(word) & mask;
            (taken != 0).then(|| word * WORD_BITS + taken.ilog2() as usize)
        };
        self.parts(range).rev().find_map(taken)
    }

    /// Splits `range` into words: the index of each, and its bits in the range.
    fn parts(
        &self,
        range: Range<usize>,
    ) -> impl DoubleEndedIterator<Item = (usize, usize)> + use<> {
        let words = range.start / WORD_BITS..range.end.div_ceil(WORD_BITS);
        words.map(move |word| {
            let first = range.start.saturating_sub(word * WORD_BITS);
            let last = (range.end - word * WORD_BITS).min(WORD_BITS) - 1;
            (word, usize::MAX >> (WORD_BITS - 1 - last) & usize::MAX << first)
        })
    }

    fn word(&self, index: usize) -> usize {
        debug_assert!(index * WORD_BITS < self.pages);
        // SAFETY: the pages of the caller's range exist, so their word is one of those at `words`.
        let word = unsafe { self.words.add(index) };
        // SAFETY: in bounds and initialised (clause 1 of `new_in`), and the value owns the words.
        unsafe { word.read() }
    }

    fn set_word(&mut self, index: usize, value: usize) {
        debug_assert!(index * WORD_BITS < self.pages);
        // SAFETY: as in `word`.
        let word = unsafe { self.words.add(index) };
        // SAFETY: in bounds, and `self` is exclusive.
        unsafe { word.write(value) };
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec;
    use testkit::Random;

    /// Compares every operation with a vector of booleans.
    #[test]
    fn searches_find_the_lowest_aligned_run_of_random_pages() {
        for (seed, pages) in [1_usize, 5, 64, 65, 200, 1000].into_iter().enumerate() {
            let mut random = Random::new(seed as u64 + 1);
            let mut words = vec![0_usize; pages.div_ceil(WORD_BITS)];
            let start = NonNull::new(words.as_mut_ptr()).expect("a vector has an address");
            // SAFETY: zero, aligned, and only used through the value below.
            let mut bits = unsafe { PageBits::new_in(start, pages) };
            let mut model = vec![false; pages];
            for _ in 0..2000 {
                let (length, offset) = (1 + random.below(9), random.below(16));
                let alignment = 1 << random.below(5);
                let is_free = |page: usize| {
                    page + length <= pages && !model[page..page + length].contains(&true)
                };
                let expected =
                    (0..pages).find(|page| (page + offset) % alignment == 0 && is_free(*page));
                let found = bits.find(length, alignment, offset);
                assert_eq!(found, expected, "{length} pages aligned to {alignment}");
                if let Some(page) = found.filter(|_| random.below(3) > 0) {
                    assert!(bits.is_free(page..page + length));
                    bits.take(page..page + length);
                    model[page..page + length].fill(true);
                } else {
                    let first = random.below(pages);
                    let taken = model[first..].iter().take(9).take_while(|taken| **taken).count();
                    bits.free_range(first..first + taken);
                    model[first..first + taken].fill(false);
                }
                assert_eq!(bits.free(), bits.count_free(), "I1");
                assert!(bits.lowest_is_right(), "I2");
                assert!((0..pages).all(|page| bits.is_taken(page) == model[page]));
            }
        }
    }
}
