//! `ArenaBits`: which memory of an arena is taken. A large arena has a bit for each page, and a
//! small one has bits for each granule.

use core::ops::Range;

use crate::order::PAGE_SIZE;
use crate::source::granules::{GRANULE, Granules};
use crate::source::page_bits::PageBits;

/// The granules of a page.
const PAGE_GRANULES: usize = PAGE_SIZE / GRANULE;

/// The bits of an arena.
#[derive(Debug)]
pub(super) enum ArenaBits {
    /// A bit for each page.
    Pages(PageBits),
    /// Two bits for each granule, which may belong to pages or to allocations of bytes.
    Granules(SmallMemory),
}

/// The granules of a small memory. Those between the first page and the end of the last one form
/// whole pages.
#[derive(Debug)]
pub(super) struct SmallMemory {
    pub(super) granules: Granules,
    /// The first granule of the first page.
    first_page: usize,
    pages: usize,
    /// The number of pages that were taken as pages, not as bytes.
    used_as_pages: usize,
}

impl SmallMemory {
    /// Makes the bits of a memory with `pages` pages, the first of which begins at granule
    /// `first_page`.
    pub(super) const fn new(granules: Granules, first_page: usize, pages: usize) -> Self {
        Self { granules, first_page, pages, used_as_pages: 0 }
    }

    /// Returns the number of pages in which bytes are allocated. O(granules / 64).
    pub(super) fn byte_pages(&self) -> usize {
        self.pages - self.free_pages() - self.used_as_pages
    }

    fn free_pages(&self) -> usize {
        (0..self.pages).filter(|page| self.is_free(*page..page + 1)).count()
    }

    /// Returns the granules of the pages of `range`.
    const fn granules_of(&self, range: Range<usize>) -> Range<usize> {
        self.first_page + range.start * PAGE_GRANULES..self.first_page + range.end * PAGE_GRANULES
    }

    fn is_free(&self, range: Range<usize>) -> bool {
        range.end <= self.pages && self.granules.is_free(self.granules_of(range))
    }

    fn find(&mut self, pages: usize, alignment: usize, offset: usize) -> Option<usize> {
        let alignment = alignment.checked_mul(PAGE_GRANULES)?;
        let offset = (offset * PAGE_GRANULES).wrapping_sub(self.first_page) & (alignment - 1);
        let found = self.granules.find(pages.checked_mul(PAGE_GRANULES)?, alignment, offset)?;
        // No aligned run of whole pages begins before the first page.
        Some((found - self.first_page) / PAGE_GRANULES)
    }

    fn resize(&mut self, range: Range<usize>, new_end: usize) -> bool {
        if new_end > self.pages {
            return false;
        }
        let new = self.granules_of(range.start..new_end);
        let is_resized = self.granules.resize(self.granules_of(range.clone()), new.end);
        if is_resized {
            self.used_as_pages -= range.len();
            self.used_as_pages += new_end - range.start;
        }
        is_resized
    }
}

impl ArenaBits {
    /// Returns the number of free pages. O(1) by page, O(granules / 64) by granule.
    pub(super) fn free_pages(&self) -> usize {
        match self {
            Self::Pages(bits) => bits.free(),
            Self::Granules(memory) => memory.free_pages(),
        }
    }

    /// Returns the number of free bytes, including those outside of whole free pages.
    pub(super) fn free_bytes(&self) -> usize {
        match self {
            Self::Pages(bits) => bits.free() * PAGE_SIZE,
            Self::Granules(memory) => memory.granules.free() * GRANULE,
        }
    }

    /// Returns whether `page` is taken, at least in part.
    pub(super) fn is_taken(&self, page: usize) -> bool {
        match self {
            Self::Pages(bits) => bits.is_taken(page),
            Self::Granules(memory) => !memory.is_free(page..page + 1),
        }
    }

    /// Finds the lowest `pages` free pages whose first page, plus `offset`, is a multiple of
    /// `alignment`, a power of two.
    pub(super) fn find(&mut self, pages: usize, alignment: usize, offset: usize) -> Option<usize> {
        match self {
            Self::Pages(bits) => bits.find(pages, alignment, offset),
            Self::Granules(memory) => memory.find(pages, alignment, offset),
        }
    }

    /// Takes the free pages of `range`.
    pub(super) fn take(&mut self, range: Range<usize>) {
        match self {
            Self::Pages(bits) => bits.take(range),
            Self::Granules(memory) => {
                memory.used_as_pages += range.len();
                memory.granules.take(memory.granules_of(range));
            }
        }
    }

    /// Frees the pages of `range`, which one `take` has taken.
    pub(super) fn free_range(&mut self, range: Range<usize>) {
        match self {
            Self::Pages(bits) => bits.free_range(range),
            Self::Granules(memory) => {
                memory.used_as_pages -= range.len();
                memory.granules.free_range(memory.granules_of(range));
            }
        }
    }

    /// Changes the end of the pages of `range`, which one `take` has taken, to `new_end`. Returns
    /// whether that succeeded: if it grows, the pages up to `new_end` must be free.
    pub(super) fn resize(&mut self, range: Range<usize>, new_end: usize) -> bool {
        match self {
            Self::Pages(bits) if new_end > range.end => {
                let is_free = bits.is_free(range.end..new_end);
                if is_free {
                    bits.take(range.end..new_end);
                }
                is_free
            }
            Self::Pages(bits) => {
                bits.free_range(new_end..range.end);
                true
            }
            Self::Granules(memory) => memory.resize(range, new_end),
        }
    }

    /// Returns the bits of a small memory.
    pub(super) fn small(&self) -> Option<&SmallMemory> {
        match self {
            Self::Pages(_) => None,
            Self::Granules(memory) => Some(memory),
        }
    }

    /// Returns the bits of a small memory for changes.
    pub(super) fn small_mut(&mut self) -> Option<&mut SmallMemory> {
        match self {
            Self::Pages(_) => None,
            Self::Granules(memory) => Some(memory),
        }
    }

    /// Returns the first invariant of the bits that does not hold. O(pages) or O(granules).
    pub(super) fn broken_invariant(&self) -> Option<&'static str> {
        match self {
            Self::Pages(bits) if !bits.free_is_right() => Some("I1: free pages are the clear bits"),
            Self::Pages(bits) if !bits.lowest_is_right() => {
                Some("page bits I2: pages below the lowest free page are taken")
            }
            Self::Pages(_) => None,
            Self::Granules(memory) => memory.granules.broken_invariant(),
        }
    }
}
