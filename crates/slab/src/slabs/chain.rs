//! Freed chains: objects of one slab, linked to one another, that are freed together.
//!
//! So neighbouring objects of one slab cost one look-up of the slab and one exchange of its free
//! word.

use core::ptr::NonNull;

use crate::slabs::free_word::Pushed;
use crate::slabs::layout::divisor::Divisor;
use crate::slabs::layout::geometry::Geometry;
use crate::slabs::layout::header::{LinksPlace, SlabHeader};
use crate::slabs::layout::links::Links;

/// Objects of one slab that the caller owns and frees.
#[derive(Debug)]
pub(crate) struct FreedChain {
    pub(crate) header: NonNull<SlabHeader>,
    links: Links,
    span: Span,
    /// The cut of slabs of the best order.
    best: Cut,
    head: usize,
    last: usize,
    count: usize,
}

/// The objects of a slab, as a range of addresses.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// The address of the first object.
    first: usize,
    /// The distance in bytes from the first object to the end of the last one.
    bytes: usize,
    stride: Divisor,
}

impl Span {
    /// Returns the index of the object that begins at `address`, if it is an object of the slab.
    #[inline(always)]
    fn index_of(self, address: usize) -> Option<usize> {
        let offset = address.wrapping_sub(self.first);
        if offset >= self.bytes {
            return None;
        }
        let index = self.stride.quotient(offset);
        self.stride.divides(index, offset).then_some(index)
    }
}

/// Where the objects and the links of a slab lie.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// The bytes of all objects.
    bytes: usize,
    links: LinksPlace,
}

impl Cut {
    const fn of(geometry: &Geometry) -> Self {
        let bytes = geometry.capacity() * geometry.stride();
        Self { bytes, links: LinksPlace::of(geometry) }
    }
}

impl FreedChain {
    /// Makes a chain that has no object yet, for slabs cut by `best`.
    pub(crate) const fn new(best: &Geometry) -> Self {
        Self {
            header: NonNull::dangling(),
            links: Links::Within(NonNull::dangling()),
            span: Span { first: 0, bytes: 0, stride: Divisor::new(best.stride()) },
            best: Cut::of(best),
            head: 0,
            last: 0,
            count: 0,
        }
    }

    /// Begins a new chain with the object of `header` at `address`. Returns whether an object
    /// begins there; if not, there is no chain.
    ///
    /// # Safety
    /// 1. `header` is that of a slab that is alive, and `best` is the geometry of its cache.
    /// 2. The caller owns the object, and those added later, so the slab is alive until they are
    ///    pushed.
    #[inline]
    pub(crate) unsafe fn begin(
        &mut self,
        header: NonNull<SlabHeader>,
        address: usize,
        best: &Geometry,
    ) -> bool {
        // SAFETY: clause 1: alive.
        let slab = unsafe { header.as_ref() };
        let cut = if slab.is_cut_by(best) { self.best } else { Cut::of(&slab.geometry(best)) };
        self.header = header;
        // All geometries of a cache have the same stride, guard and step between colours.
        (self.span.first, self.span.bytes) = (slab.first_object(best), cut.bytes);
        let Some(index) = self.span.index_of(address) else { return false };
        // SAFETY: clause 1 of `links_at`: the place of the links of this slab's geometry.
        self.links = unsafe { SlabHeader::links_at(header, cut.links) };
        (self.head, self.last, self.count) = (index, index, 1);
        true
    }

    /// Adds objects in front until an address where no object of this slab begins. Returns that
    /// address; `None` if all were added.
    ///
    /// # Safety
    /// 1. `begin` returned true, and the chain has not been pushed since. The caller owns each
    ///    object of this slab that begins at one of `addresses`.
    #[inline]
    pub(crate) unsafe fn add_all(
        &mut self,
        addresses: &mut impl Iterator<Item = usize>,
    ) -> Option<usize> {
        // Local copies, which stay in registers.
        let Self { span, links, mut head, mut count, .. } = *self;
        let mut other = None;
        for address in addresses {
            let Some(index) = span.index_of(address) else {
                other = Some(address);
                break;
            };
            // SAFETY: clause 1 of `write`: `index` is an object of the slab, which the caller owns
            // and frees.
            unsafe { links.write(index, head) };
            head = index;
            count += 1;
        }
        (self.head, self.count) = (head, count);
        other
    }

    /// Pushes all objects to the slab's free word.
    ///
    /// # Safety
    /// 1. The chain has an object; the caller owns all of them, and gives them up.
    #[inline]
    pub(crate) unsafe fn push(&mut self) -> Pushed {
        // SAFETY: clause 1: the caller owns an object of the slab, which keeps the slab alive.
        let slab = unsafe { self.header.as_ref() };
        // SAFETY: clause 1 of `write`: `last` is an object of the slab, which the caller frees.
        let link = |next| unsafe { self.links.write(self.last, next) };
        slab.word.push_chain(self.head, self.count, link)
    }
}
