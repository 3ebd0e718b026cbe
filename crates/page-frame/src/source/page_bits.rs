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

use crate::source::bit_array::BitArray;

/// A bit for each page of a range, set while the page is allocated.
#[derive(Debug)]
pub(super) struct PageBits {
    taken: BitArray,
    free: usize,
    lowest: usize,
}

impl PageBits {
    /// Returns the bytes that the bits of `pages` pages take.
    pub(super) const fn bytes(pages: usize) -> usize {
        BitArray::bytes(pages)
    }

    /// Makes the bits of `pages` free pages.
    ///
    /// # Safety
    /// 1. As for [`BitArray::new_in`], for `pages` bits.
    pub(super) const unsafe fn new_in(words: NonNull<usize>, pages: usize) -> Self {
        // SAFETY: clause 1.
        let taken = unsafe { BitArray::new_in(words, pages) };
        Self { taken, free: pages, lowest: 0 }
    }

    /// Returns the number of pages.
    pub(super) const fn pages(&self) -> usize {
        self.taken.length()
    }

    /// Returns the number of free pages.
    pub(super) const fn free(&self) -> usize {
        self.free
    }

    /// Returns whether `free` is the number of clear bits (I1). O(pages / 64).
    pub(super) fn free_is_right(&self) -> bool {
        self.taken.count_clear() == self.free
    }

    /// Returns whether every page below the lowest one that may be free is taken (I2).
    pub(super) fn lowest_is_right(&self) -> bool {
        self.first_free(0) >= self.lowest.min(self.pages())
    }

    /// Returns whether `page` is taken.
    pub(super) fn is_taken(&self, page: usize) -> bool {
        self.taken.is_set(page)
    }

    /// Returns whether all pages of `range` exist and are free.
    pub(super) fn is_free(&self, range: Range<usize>) -> bool {
        range.end <= self.pages() && self.taken.last_set(range).is_none()
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
            let end = page.checked_add(pages).filter(|end| *end <= self.pages())?;
            match self.taken.last_set(page..end) {
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
        self.taken.set(range);
    }

    /// Frees the taken pages of `range`.
    pub(super) fn free_range(&mut self, range: Range<usize>) {
        self.free += range.len();
        self.lowest = self.lowest.min(range.start);
        self.taken.clear(range);
    }

    /// Returns the first free page from `page` on, or the number of pages.
    fn first_free(&self, page: usize) -> usize {
        self.taken.first_clear(page.min(self.pages())..self.pages())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::source::bit_array::WORD_BITS;
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
                assert!(bits.free_is_right(), "I1");
                assert!(bits.lowest_is_right(), "I2");
                assert!((0..pages).all(|page| bits.is_taken(page) == model[page]));
            }
        }
    }
}
