//! Freed chains: objects of one slab, linked to one another, that are freed together.
//!
//! Neighbouring objects of one slab so cost one look-up of the slab and one exchange of its free
//! word.

use core::ptr::NonNull;

use crate::slabs::free_word::Pushed;
use crate::slabs::geometry::Geometry;
use crate::slabs::header::SlabHeader;
use crate::slabs::links::Links;

/// Objects of one slab that the caller owns and frees.
#[derive(Debug)]
pub(crate) struct FreedChain {
    pub(crate) header: NonNull<SlabHeader>,
    links: Links,
    /// The address of the slab's first object.
    first: usize,
    /// The bytes of all objects of the slab; zero before the first chain is begun.
    bytes: usize,
    stride: Divisor,
    head: usize,
    last: usize,
    count: usize,
}

impl FreedChain {
    /// Makes a chain that has no object yet, for slabs cut by `best`.
    pub(crate) const fn new(best: &Geometry) -> Self {
        let header = NonNull::dangling();
        let (first, bytes, head, last, count) = (0, 0, 0, 0, 0);
        let stride = Divisor::new(best.stride());
        Self {
            header,
            links: Links::Within(NonNull::dangling()),
            first,
            bytes,
            stride,
            head,
            last,
            count,
        }
    }

    /// Returns whether the chain has no object.
    pub(crate) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Begins a new chain with the object at `address`, object `index` of `header`.
    ///
    /// # Safety
    /// 1. `address` is object `index` of `header`, and `best` is the geometry of its cache.
    /// 2. The caller owns the object, and those added later, so the slab is alive until they are
    ///    pushed.
    #[inline]
    pub(crate) unsafe fn begin(
        &mut self,
        header: NonNull<SlabHeader>,
        index: usize,
        address: usize,
        best: &Geometry,
    ) {
        // SAFETY: clause 2: alive.
        let geometry = &unsafe { header.as_ref() }.geometry(best);
        self.header = header;
        // SAFETY: clause 1 of `links`: `SlabHeader::geometry` returned the geometry of this slab.
        self.links = unsafe { SlabHeader::links(header, geometry) };
        self.first = address - index * geometry.stride();
        self.bytes = geometry.capacity() * geometry.stride();
        (self.head, self.last, self.count) = (index, index, 1);
    }

    /// Adds the object at `address` in front, if it is one of this slab. Returns whether it is.
    ///
    /// # Safety
    /// 1. The caller owns the object that begins at `address`, if one does.
    #[inline]
    pub(crate) unsafe fn add(&mut self, address: usize) -> bool {
        let offset = address.wrapping_sub(self.first);
        if offset >= self.bytes {
            return false;
        }
        let index = self.stride.quotient(offset);
        if index * self.stride.divisor != offset {
            return false;
        }
        // SAFETY: clause 1 of `write`: `index` is an object of the slab, which the caller owns and
        // frees.
        unsafe { self.links.write(index, self.head) };
        self.head = index;
        self.count += 1;
        true
    }

    /// Pushes all objects to the slab's free word, and empties the chain.
    ///
    /// # Safety
    /// 1. The chain has an object; the caller owns all of them, and gives them up.
    #[inline]
    pub(crate) unsafe fn push(&mut self) -> Pushed {
        // SAFETY: clause 1: the caller owns an object of the slab, which keeps the slab alive.
        let slab = unsafe { self.header.as_ref() };
        // SAFETY: clause 1 of `write`: `last` is an object of the slab, which the caller frees.
        let link = |next| unsafe { self.links.write(self.last, next) };
        slab.word.push_chain(self.head, core::mem::take(&mut self.count), link)
    }
}

/// A divisor with its reciprocal: a division by it is a multiplication.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Divisor {
    divisor: usize,
    /// 2^64 / divisor, rounded up: the upper half of its product with a number below 2^32 is the
    /// quotient. Zero for a divisor of one, as 2^64 does not fit; every quotient is then zero too.
    reciprocal: u64,
}

impl Divisor {
    pub(crate) const fn new(divisor: usize) -> Self {
        Self { divisor, reciprocal: (u64::MAX / divisor as u64).wrapping_add(1) }
    }

    /// Returns the quotient of a number below 2^32 and the divisor, if that is above one.
    #[inline]
    const fn quotient(self, number: usize) -> usize {
        if usize::BITS < 64 {
            return number / self.divisor;
        }
        ((self.reciprocal as u128 * number as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotients_are_exact_for_offsets_in_slabs() {
        for divisor in (2..5000).chain([65_536, 1 << 20, crate::LARGEST_SIZE]) {
            let quotient = Divisor::new(divisor);
            for times in [0, 1, 2, 3, 100, 1000, 65_535] {
                for offset in [times * divisor, times * divisor + divisor - 1] {
                    if offset < 1 << 32 {
                        assert_eq!(
                            quotient.quotient(offset),
                            offset / divisor,
                            "{offset} / {divisor}"
                        );
                    }
                }
            }
        }
    }
}
