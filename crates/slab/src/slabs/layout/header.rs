//! The header: the cache's data about one slab, in one line of 64 bytes.
//!
//! # Concepts
//! The header lies at the end of its slab or, where it would cost an object there, in memory of an
//! internal cache. The page map's owner word of every page of the slab points to it. The
//! [links](crate::slabs::layout::links) of the free objects lie in the header or in front of it.
//!
//! ```text
//! inside:   | ... objects ... | links, in whole lines | header |
//! outside:  | links, in whole lines | header |
//!           | header with the links in it |       for up to twelve objects
//! ```
//!
//! # Invariants
//! - I1: `neighbours` and `list` are used only under the set lock, or by the owner of a slab that
//!   is in no set.

use core::ptr::NonNull;

use page_frame::Order;
use page_frame::sync::{Linked, UnsafeCell};

use crate::slabs::free_word::FreeWord;
use crate::slabs::layout::geometry::{GUARD, Geometry, HEADER};
use crate::slabs::layout::links::{LINKS_WITHIN, Links};

/// The list of the slab set that a slab is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ListName {
    /// Every object is taken; or some were freed, and the slab is pending.
    Full,
    /// Partial, by quarter of free objects.
    Partial0,
    Partial1,
    Partial2,
    Partial3,
    /// No object taken.
    Empty,
    /// No object taken, and the slab waits for a grace period before it may be released. Only in
    /// type-stable caches.
    Waiting,
    /// The slab is not yet in the set, or has left it.
    Nowhere,
}

impl ListName {
    /// Lists of slabs with free objects, in the order in which they are taken from: fullest first.
    /// Those that wait are last.
    pub(crate) const KNOWN: [Self; 6] = [
        Self::Partial0,
        Self::Partial1,
        Self::Partial2,
        Self::Partial3,
        Self::Empty,
        Self::Waiting,
    ];

    /// Returns the list of slabs with `free` of `capacity` objects free.
    pub(crate) const fn for_fill(free: usize, capacity: usize) -> Self {
        match 4 * free {
            quarters if quarters < capacity => Self::Partial0,
            quarters if quarters < 2 * capacity => Self::Partial1,
            quarters if quarters < 3 * capacity => Self::Partial2,
            _ if free < capacity => Self::Partial3,
            _ => Self::Empty,
        }
    }
}

/// Where the links of a slab lie.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LinksPlace {
    /// In the header.
    Within,
    /// One byte per object, from `before` bytes before the header on.
    Short { before: usize },
    /// Two bytes per object, from `before` bytes before the header on.
    Long { before: usize },
}

impl LinksPlace {
    /// Returns the place in slabs cut by `geometry`.
    #[inline]
    pub(crate) const fn of(geometry: &Geometry) -> Self {
        match geometry.links_bytes() {
            0 => Self::Within,
            before if geometry.has_short_links() => Self::Short { before },
            before => Self::Long { before },
        }
    }
}

/// The header of one slab.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct SlabHeader {
    pub(crate) word: FreeWord,
    /// The identity of the [`Slabs`](crate::slabs::Slabs) that owns the slab.
    pub(crate) cache: NonNull<()>,
    /// The first byte of the slab's pages.
    pub(crate) start: NonNull<u8>,
    pending: UnsafeCell<*mut SlabHeader>,
    neighbours: UnsafeCell<Neighbours>,
    links: [UnsafeCell<u8>; LINKS_WITHIN],
    pub(crate) colour: u16,
    list: UnsafeCell<ListName>,
    order: u8,
}

const _: () = assert!(size_of::<SlabHeader>() == HEADER && HEADER % align_of::<u16>() == 0);

/// Neighbours in the list that the slab is in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neighbours {
    pub(crate) next: *mut SlabHeader,
    pub(crate) previous: *mut SlabHeader,
}

// SAFETY: clause 1 of `Linked`: always the same field, used only by the pending stack.
unsafe impl Linked for SlabHeader {
    fn link(&self) -> &UnsafeCell<*mut Self> {
        &self.pending
    }
}

impl SlabHeader {
    /// Makes the header of a slab whose objects are all free, object `first` on top. The caller
    /// writes the links.
    pub(crate) fn new(
        cache: NonNull<()>,
        start: NonNull<u8>,
        colour: usize,
        geometry: &Geometry,
        first: usize,
    ) -> Self {
        Self {
            word: FreeWord::new(first, geometry.capacity()),
            cache,
            start,
            pending: UnsafeCell::new(core::ptr::null_mut()),
            neighbours: UnsafeCell::new(Neighbours {
                next: core::ptr::null_mut(),
                previous: core::ptr::null_mut(),
            }),
            links: core::array::from_fn(|_| UnsafeCell::new(0)),
            colour: colour as u16,
            list: UnsafeCell::new(ListName::Nowhere),
            order: geometry.order().get(),
        }
    }

    /// Returns the links of the slab of `header`.
    ///
    /// # Safety
    /// 1. `header` is that of a slab cut by `geometry`, and lives as long as the links are used.
    #[inline]
    pub(crate) unsafe fn links(header: NonNull<Self>, geometry: &Geometry) -> Links {
        // SAFETY: clause 1 of `links_at` is clause 1.
        unsafe { Self::links_at(header, LinksPlace::of(geometry)) }
    }

    /// Returns the links of the slab of `header`, which lie at `place`.
    ///
    /// # Safety
    /// 1. `header` is that of a slab whose geometry has this place, and lives as long as the links
    ///    are used.
    #[inline]
    pub(crate) unsafe fn links_at(header: NonNull<Self>, place: LinksPlace) -> Links {
        let before = match place {
            LinksPlace::Within => {
                // SAFETY: clause 1: the header lives.
                return Links::Within(NonNull::from(&unsafe { header.as_ref() }.links));
            }
            LinksPlace::Short { before } | LinksPlace::Long { before } => before,
        };
        // SAFETY: clause 1: `before` bytes of links lie in front of the header.
        let first = unsafe { header.cast::<u8>().sub(before) };
        if let LinksPlace::Short { .. } = place {
            Links::Short(first)
        } else {
            Links::Long(first.cast())
        }
    }

    /// Returns the neighbours in the list.
    ///
    /// # Safety
    /// 1. The caller holds the set lock, or the slab is in no set (I1).
    pub(crate) unsafe fn neighbours(&self) -> Neighbours {
        // SAFETY: clause 1 and I1: no other code changes it meanwhile.
        self.neighbours.with(|neighbours| unsafe { *neighbours })
    }

    /// Changes the neighbours in the list.
    ///
    /// # Safety
    /// 1. As for `neighbours`.
    pub(crate) unsafe fn set_neighbours(&self, new: Neighbours) {
        // SAFETY: clause 1 and I1: no other code uses it.
        self.neighbours.with_mut(|neighbours| unsafe { *neighbours = new });
    }

    /// Returns the list that the slab is in.
    ///
    /// # Safety
    /// 1. As for `neighbours`.
    pub(crate) unsafe fn list(&self) -> ListName {
        // SAFETY: clause 1 and I1: no other code changes it meanwhile.
        self.list.with(|list| unsafe { *list })
    }

    /// Sets the list that the slab is in.
    ///
    /// # Safety
    /// 1. As for `neighbours`.
    pub(crate) unsafe fn set_list(&self, new: ListName) {
        // SAFETY: clause 1 and I1: no other code uses it.
        self.list.with_mut(|list| unsafe { *list = new });
    }

    /// Returns the geometry of the slab. `best` is the cache's geometry; slabs are cut otherwise
    /// only if the page source had no block of the best order.
    #[inline]
    pub(crate) fn geometry(&self, best: &Geometry) -> Geometry {
        if self.is_cut_by(best) { *best } else { self.lower_geometry(best) }
    }

    /// Returns the number of objects of the slab; `best` is as for [`geometry`](Self::geometry).
    #[inline]
    pub(crate) fn capacity(&self, best: &Geometry) -> usize {
        if self.is_cut_by(best) { best.capacity() } else { self.lower_geometry(best).capacity() }
    }

    /// Returns the slab's geometry as [`geometry`](Self::geometry) does, or `None` if the cache
    /// cuts no slab of this order.
    pub(crate) fn known_geometry(&self, best: &Geometry) -> Option<Geometry> {
        match Order::new(self.order) {
            Some(order) if order == best.order() => Some(*best),
            Some(order) if order < best.order() => best.at_lower_order(order),
            _ => None,
        }
    }

    /// Returns whether `best`, as in [`geometry`](Self::geometry), is the slab's geometry.
    #[inline]
    pub(crate) fn is_cut_by(&self, best: &Geometry) -> bool {
        self.order == best.order().get()
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

    /// Returns the offset of the first object in bytes. (The header's colour is below
    /// `geometry.colours()`.)
    #[inline]
    fn first_offset(&self, geometry: &Geometry) -> usize {
        geometry.guard_bytes() + usize::from(self.colour) * geometry.colour_step()
    }

    /// Returns the address of the first object.
    #[inline]
    pub(crate) fn first_object(&self, geometry: &Geometry) -> usize {
        self.start.addr().get() + self.first_offset(geometry)
    }

    /// Returns the index of the object at `address`, and the offset of `address` in it in bytes.
    #[inline]
    pub(crate) fn index_of(&self, geometry: &Geometry, address: usize) -> (usize, usize) {
        let offset = address.wrapping_sub(self.first_object(geometry));
        // Slabs are smaller than 2^32 bytes, and narrow divisions take fewer cycles.
        match (u32::try_from(offset), u32::try_from(geometry.stride())) {
            (Ok(offset), Ok(stride)) => ((offset / stride) as usize, (offset % stride) as usize),
            _ => (usize::MAX, 0),
        }
    }

    /// Returns the place of the word in front of the first object, if the slab has one.
    pub(crate) fn guard(&self, geometry: &Geometry) -> Option<NonNull<u8>> {
        if geometry.guard_bytes() == 0 {
            return None;
        }
        // SAFETY: the first object lies behind the guard, inside the slab (geometry I1).
        Some(unsafe { self.start.add(self.first_offset(geometry) - GUARD) })
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

#[cfg(test)]
impl SlabHeader {
    /// Sets the order, as a bug would.
    pub(crate) fn corrupt_order(&mut self, order: u8) {
        self.order = order;
    }
}
