//! The record: what a cache knows about one slab, in one line of 64 bytes.
//!
//! # Concepts
//! The record lies at the end of its slab or, where it would cost an object there, in memory of an internal cache. The
//! page map's owner word of every page of the slab points to it. The **links** are one or two bytes per object: the stack
//! of free objects, kept outside the objects so that constructed state survives.
//!
//! ```text
//! inside:   | ... objects ... | links, in whole lines | record |
//! outside:  | links, in whole lines | record |        up to twelve objects: | record with the links in it |
//! ```
//!
//! # Invariants
//! - I1: a link is written only by the CPU that owns the object: before the push that frees it, or as a mark (checks); it is
//!   read as a link only under the set lock.
//! - I2: place and list are read and written only under the set lock.

use core::ptr::NonNull;

use page_frame::Order;
use page_frame::sync::{Linked, UnsafeCell, exchange_byte};

use crate::geometry::LINKS_WITHIN;
use crate::{FreeWord, Geometry};

/// In which list of the slab set a slab is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ListName {
    /// Every object taken; or freed ones are not yet noticed (the slab is pending).
    Full,
    /// Partial, by quarter of free objects.
    Partial0,
    Partial1,
    Partial2,
    Partial3,
    /// No object taken.
    Empty,
    /// On its way into or out of the set.
    Nowhere,
}

impl ListName {
    /// Lists of slabs with free objects, in the order in which they are taken from: fullest first.
    pub(crate) const KNOWN: [Self; 5] =
        [Self::Partial0, Self::Partial1, Self::Partial2, Self::Partial3, Self::Empty];

    /// Returns the list of slabs with `free` of `capacity` objects free.
    pub(crate) const fn for_fill(free: usize, capacity: usize) -> Self {
        if free == capacity {
            return Self::Empty;
        }
        match free * 4 / capacity {
            0 => Self::Partial0,
            1 => Self::Partial1,
            2 => Self::Partial2,
            _ => Self::Partial3,
        }
    }
}

/// What a cache knows about one slab.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Record {
    pub(crate) word: FreeWord,
    /// The core of the cache, without its type.
    pub(crate) cache: NonNull<()>,
    /// The first byte of the slab's pages.
    pub(crate) start: NonNull<u8>,
    pending: UnsafeCell<*mut Record>,
    place: UnsafeCell<Place>,
    links: [UnsafeCell<u8>; LINKS_WITHIN],
    pub(crate) colour: u16,
    list: UnsafeCell<ListName>,
    order: u8,
}

page_frame::assert_unless_loom!(size_of::<Record>() == 64);

/// Neighbours in the list that the slab is in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) next: *mut Record,
    pub(crate) previous: *mut Record,
}

// SAFETY: clause 1: always the same field, used by the pending stack alone.
unsafe impl Linked for Record {
    fn link(&self) -> &UnsafeCell<*mut Self> {
        &self.pending
    }
}

impl Record {
    /// Makes the record of a slab whose objects are all free, the first one on top; its links are yet to be written.
    pub(crate) fn new(
        cache: NonNull<()>,
        start: NonNull<u8>,
        colour: usize,
        geometry: &Geometry,
    ) -> Self {
        Self {
            word: FreeWord::new(0, geometry.capacity()),
            cache,
            start,
            pending: UnsafeCell::new(core::ptr::null_mut()),
            place: UnsafeCell::new(Place {
                next: core::ptr::null_mut(),
                previous: core::ptr::null_mut(),
            }),
            links: core::array::from_fn(|_| UnsafeCell::new(0)),
            colour: colour as u16,
            list: UnsafeCell::new(ListName::Nowhere),
            order: geometry.order().get(),
        }
    }

    /// Reads the link of object `index`.
    ///
    /// # Safety
    /// 1. `record` is a live record of a slab cut by `geometry`, with its links in front of it or in it.
    /// 2. `index` is one of the slab's objects.
    /// 3. The caller holds the set lock (I1).
    pub(crate) unsafe fn read_link(
        record: NonNull<Self>,
        geometry: &Geometry,
        index: usize,
    ) -> usize {
        let before = geometry.links_bytes();
        if before == 0 {
            // SAFETY: clauses 1 and 2.
            let link = unsafe { &record.as_ref().links[index] };
            // SAFETY: I1: whoever pushed the object wrote it, and published it by the push.
            return usize::from(link.with(|link| unsafe { *link }));
        }
        // SAFETY: clause 1: so many bytes of links lie in front of the record.
        let links = unsafe { record.as_ptr().cast::<u8>().sub(before) };
        if geometry.has_short_links() {
            // SAFETY: clause 2: there is a byte for each object.
            let link = unsafe { links.add(index) };
            // SAFETY: I1, as above.
            usize::from(unsafe { link.read() })
        } else {
            // SAFETY: clause 2: there are two bytes for each object.
            let link = unsafe { links.cast::<u16>().add(index) };
            // SAFETY: I1, as above.
            usize::from(unsafe { link.read() })
        }
    }

    /// Writes the link of object `index`.
    ///
    /// # Safety
    /// 1. As for `read_link`, clauses 1 and 2.
    /// 2. The caller is the one who frees the object (I1).
    pub(crate) unsafe fn write_link(
        record: NonNull<Self>,
        geometry: &Geometry,
        index: usize,
        next: usize,
    ) {
        let before = geometry.links_bytes();
        if before == 0 {
            // SAFETY: clause 1.
            let link = unsafe { &record.as_ref().links[index] };
            // SAFETY: I1: nobody else uses this object's link before the push.
            link.with_mut(|link| unsafe { *link = next as u8 });
            return;
        }
        // SAFETY: clause 1: so many bytes of links lie in front of the record.
        let links = unsafe { record.as_ptr().cast::<u8>().sub(before) };
        if geometry.has_short_links() {
            // SAFETY: clause 1: there is a byte for each object.
            let link = unsafe { links.add(index) };
            // SAFETY: I1, as above.
            unsafe { link.write(next as u8) };
        } else {
            // SAFETY: clause 1: there are two bytes for each object.
            let link = unsafe { links.cast::<u16>().add(index) };
            // SAFETY: I1, as above.
            unsafe { link.write(next as u16) };
        }
    }

    /// Writes the mark of object `index`.
    ///
    /// # Safety
    /// 1. As for `write_link`, but the caller owns the object instead of freeing it.
    pub(crate) unsafe fn set_mark(
        record: NonNull<Self>,
        geometry: &Geometry,
        index: usize,
        mark: u8,
    ) {
        let shift = if geometry.has_short_links() { 0 } else { 8 };
        // SAFETY: clause 1.
        unsafe { Self::write_link(record, geometry, index, usize::from(mark) << shift) };
    }

    /// Exchanges the mark of object `index` from `from` to `to`, atomically.
    ///
    /// Marks stand where a link of one byte stands, or the upper byte of a longer one; no index looks like one (geometry).
    ///
    /// # Errors
    /// What stood there instead of `from`; then nothing has changed.
    ///
    /// # Safety
    /// 1. As for `read_link`, clauses 1 and 2.
    pub(crate) unsafe fn change_mark(
        record: NonNull<Self>,
        geometry: &Geometry,
        index: usize,
        from: u8,
        to: u8,
    ) -> Result<(), u8> {
        let before = geometry.links_bytes();
        let place = if before == 0 {
            // SAFETY: clause 1.
            let link = unsafe { &record.as_ref().links[index] };
            NonNull::new(link.with_mut(|link| link)).expect("a field has an address")
        } else {
            // SAFETY: clause 1: so many bytes of links lie in front of the record.
            let links = unsafe { record.cast::<u8>().sub(before) };
            let upper = if cfg!(target_endian = "little") { 1 } else { 0 };
            let offset = if geometry.has_short_links() { index } else { 2 * index + upper };
            // SAFETY: clause 1: inside the links.
            unsafe { links.add(offset) }
        };
        // SAFETY: a written byte of the slab's bookkeeping, which is alive; its other users are atomic too, or exclusive.
        unsafe { exchange_byte(place, from, to) }
    }

    /// Returns the neighbours in the list.
    ///
    /// # Safety
    /// 1. The caller holds the set lock, or the slab is in no set (I2).
    pub(crate) unsafe fn place(&self) -> Place {
        // SAFETY: clause 1.
        self.place.with(|place| unsafe { *place })
    }

    /// Changes the neighbours in the list.
    ///
    /// # Safety
    /// 1. As for `place`.
    pub(crate) unsafe fn set_place(&self, new: Place) {
        // SAFETY: clause 1.
        self.place.with_mut(|place| unsafe { *place = new });
    }

    /// Returns the list that the slab is in.
    ///
    /// # Safety
    /// 1. As for `place`.
    pub(crate) unsafe fn list(&self) -> ListName {
        // SAFETY: clause 1.
        self.list.with(|list| unsafe { *list })
    }

    /// Notes the list that the slab is in.
    ///
    /// # Safety
    /// 1. As for `place`.
    pub(crate) unsafe fn set_list(&self, new: ListName) {
        // SAFETY: clause 1.
        self.list.with_mut(|list| unsafe { *list = new });
    }

    /// Returns how the slab is cut, in a cache whose slabs are cut by `best` wherever the page source had a block for it.
    #[inline]
    pub(crate) fn geometry(&self, best: &Geometry) -> Geometry {
        if self.order == best.order().get() { *best } else { self.lower_geometry(best) }
    }

    #[cold]
    fn lower_geometry(&self, best: &Geometry) -> Geometry {
        let lower = Order::new(self.order).and_then(|order| best.at_lower_order(order));
        lower.expect("`grow` has cut the slab so")
    }

    /// Returns the pages of the slab.
    pub(crate) fn pages(&self) -> usize {
        1 << self.order
    }

    /// Returns the offset of the first object in bytes. (A record's colour is one of the geometry's.)
    #[inline]
    fn first_offset(&self, geometry: &Geometry) -> usize {
        usize::from(self.colour) * geometry.colour_step()
    }

    /// Returns the address of the first object.
    #[inline]
    pub(crate) fn first_object(&self, geometry: &Geometry) -> usize {
        self.start.addr().get() + self.first_offset(geometry)
    }

    /// Returns the index of the object at `address`, and how many bytes behind its start the address lies.
    #[inline]
    pub(crate) fn index_of(&self, geometry: &Geometry, address: usize) -> (usize, usize) {
        let offset = address.wrapping_sub(self.first_object(geometry));
        // Slabs are smaller than 2^32 bytes, and narrow divisions take fewer cycles.
        match (u32::try_from(offset), u32::try_from(geometry.stride())) {
            (Ok(offset), Ok(stride)) => ((offset / stride) as usize, (offset % stride) as usize),
            _ => (usize::MAX, 0),
        }
    }

    /// Returns a pointer to object `index`.
    ///
    /// # Safety
    /// 1. `index` is below the capacity of `geometry`, by which the slab is cut.
    pub(crate) unsafe fn object(&self, geometry: &Geometry, index: usize) -> NonNull<u8> {
        let offset = self.first_offset(geometry) + index * geometry.stride();
        // SAFETY: clause 1: every object lies inside the slab (geometry I1).
        unsafe { self.start.add(offset) }
    }
}

/// Objects of one slab that are being freed together, linked to one another.
#[derive(Debug)]
pub(crate) struct FreedChain {
    pub(crate) record: NonNull<Record>,
    head: usize,
    last: usize,
    count: usize,
}

impl FreedChain {
    /// Begins a chain with object `index` of `record`.
    pub(crate) const fn new(record: NonNull<Record>, index: usize) -> Self {
        Self { record, head: index, last: index, count: 1 }
    }

    /// Adds object `index` of the same slab in front.
    ///
    /// # Safety
    /// 1. The slab is alive, of a cache whose best slabs are cut by `best`, and the caller owns its object `index`.
    pub(crate) unsafe fn add(&mut self, index: usize, best: &Geometry) {
        // SAFETY: clause 1.
        let geometry = &unsafe { self.record.as_ref() }.geometry(best);
        // SAFETY: clause 1: the caller frees the object.
        unsafe { Record::write_link(self.record, geometry, index, self.head) };
        self.head = index;
        self.count += 1;
    }

    /// Pushes all objects to the slab's free word.
    ///
    /// # Safety
    /// 1. As for `add`, and the caller owns the objects.
    pub(crate) unsafe fn push(&self, best: &Geometry) -> crate::Pushed {
        // SAFETY: clause 1.
        let slab = unsafe { self.record.as_ref() };
        let geometry = &slab.geometry(best);
        // SAFETY: clause 1: the caller frees the object.
        let link = |next| unsafe { Record::write_link(self.record, geometry, self.last, next) };
        slab.word.push_chain(self.head, self.count, link)
    }
}
