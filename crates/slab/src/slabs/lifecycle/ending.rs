//! The end of slabs: their objects are destroyed and their pages freed, also when code of the user
//! panics meanwhile.
//!
//! # Panics
//! `core` cannot catch a panic, so guards own the slabs that a function holds at such a moment. A
//! destructor that panics counts as run: the other objects of its slab are destroyed, all slabs of
//! the list are released, and then the panic goes on. A second panic meanwhile ends the program, as
//! it does when a slice is dropped.

use core::ptr::NonNull;

use page_frame::{PageBlock, PageMap, PageSource};

use crate::patience::Patience;
use crate::slabs::layout::geometry::Geometry;
use crate::slabs::layout::header::SlabHeader;
use crate::slabs::list::SlabList;
use crate::slabs::{SlabSource, Slabs};
use crate::system::System;
use crate::trace::Event;

/// A slab whose constructors run. It is dropped only if one of them, or the trace, panics: it then
/// destroys the constructed objects and frees the slab.
pub(crate) struct UnfinishedSlab<'c, S: System> {
    pub(crate) slabs: &'c Slabs,
    pub(crate) source: &'c SlabSource<S>,
    pub(crate) header: NonNull<SlabHeader>,
    pub(crate) constructed: usize,
}

impl<S: System> UnfinishedSlab<'_, S> {
    pub(crate) fn construct_objects(&mut self, geometry: &Geometry) {
        let settings = &self.slabs.settings;
        let Some(construct) = settings.constructor else {
            self.constructed = geometry.capacity();
            return;
        };
        while self.constructed < geometry.capacity() {
            // SAFETY: the slab is ours, so its header lives.
            let slab = unsafe { self.header.as_ref() };
            // SAFETY: the index is below the capacity.
            let object = settings.object_in(unsafe { slab.object(geometry, self.constructed) });
            // SAFETY: clause 1 of `CacheBuilder::constructor`: it is sound for raw memory of an
            // object.
            unsafe { construct(object) };
            self.constructed += 1;
        }
    }
}

impl<S: System> Drop for UnfinishedSlab<'_, S> {
    fn drop(&mut self) {
        let Self { slabs, source, header, constructed } = *self;
        // The slab was never added to the set, so no caller has an object of it.
        DyingSlab { slabs, source, header, next: 0, constructed }.destroy_objects();
    }
}

/// Slabs that are released one by one. Dropping it releases the rest.
pub(crate) struct ReleasingSlabs<'c, S: System> {
    pub(crate) slabs: &'c Slabs,
    pub(crate) source: &'c SlabSource<S>,
    pub(crate) list: SlabList,
    /// The pages released.
    pub(crate) pages: usize,
}

impl<'c, S: System> ReleasingSlabs<'c, S> {
    /// Makes a list without slabs.
    pub(crate) const fn new(slabs: &'c Slabs, source: &'c SlabSource<S>) -> Self {
        Self { slabs, source, list: SlabList::new(), pages: 0 }
    }

    /// Releases the slabs, which were taken out of the set with all objects free. Returns their
    /// pages.
    pub(crate) fn finish(mut self) -> usize {
        self.release_all();
        self.pages
    }

    fn release_all(&mut self) {
        while let Some(header) = self.list.pop() {
            // SAFETY: a slab of the list lives until it is released.
            self.pages += unsafe { header.as_ref() }.pages();
            // SAFETY: clause 1 of `release`: `pop_empty` took the slab out of the set with all
            // objects free, and `pop` took it out of the list.
            unsafe { release(self.slabs, self.source, header) };
        }
    }
}

impl<S: System> Drop for ReleasingSlabs<'_, S> {
    fn drop(&mut self) {
        self.release_all();
        if self.pages > 0 {
            self.source.environment.aging.note(0, self.pages);
        }
    }
}

/// Destroys all objects of a slab and returns its pages to the page source.
///
/// # Safety
/// 1. The slab is the caller's: in no list, all objects free and constructed.
unsafe fn release<S: System>(slabs: &Slabs, source: &SlabSource<S>, header: NonNull<SlabHeader>) {
    // SAFETY: clause 1: the slab is not released yet, so its header lives.
    let slab = unsafe { header.as_ref() };
    let (start, pages) = (slab.start, slab.pages());
    let constructed = slab.geometry(&slabs.settings.geometry).capacity();
    let mut slab = DyingSlab { slabs, source, header, next: 0, constructed };
    slabs.settings.trace(|| Event::SlabReleased { start, pages });
    slab.destroy_objects();
}

/// A slab to be freed: in no list, and no caller owns an object of it. Dropping it destroys the
/// remaining objects and returns the pages.
struct DyingSlab<'c, S: System> {
    slabs: &'c Slabs,
    source: &'c SlabSource<S>,
    header: NonNull<SlabHeader>,
    /// The next object to destroy.
    next: usize,
    /// The objects below this index are constructed.
    constructed: usize,
}

impl<S: System> DyingSlab<'_, S> {
    fn destroy_objects(&mut self) {
        let settings = &self.slabs.settings;
        let Some(destroy) = settings.destructor else { return };
        // SAFETY: the header dies with the slab, when `self` is dropped.
        let slab = unsafe { self.header.as_ref() };
        let geometry = &slab.geometry(&settings.geometry);
        while self.next < self.constructed {
            let index = self.next;
            // Before the call: an object whose destructor panicked is not destroyed again.
            self.next += 1;
            // SAFETY: clause 1 of `object`: `constructed` is at most the capacity.
            let object = settings.object_in(unsafe { slab.object(geometry, index) });
            // SAFETY: clause 1 of `CacheBuilder::destructor`: it is sound for constructed objects,
            // and object `index` is one.
            unsafe { destroy(object) };
        }
    }
}

impl<S: System> Drop for DyingSlab<'_, S> {
    fn drop(&mut self) {
        self.destroy_objects();
        // SAFETY: the header lives until this function frees its memory.
        let slab = unsafe { self.header.as_ref() };
        let geometry = &slab.geometry(&self.slabs.settings.geometry);
        let (start, order) = (slab.start, geometry.order());
        let pages = &self.source.environment.source;
        // SAFETY: no other code uses the slab, so its pages are ours.
        unsafe { pages.clear_owner(start, order) };
        if geometry.bookkeeping_offset().is_none() {
            // SAFETY: the links lie in front of the header, in the same memory.
            let memory = unsafe { self.header.cast::<u8>().sub(geometry.links_bytes()) };
            let headers = self.source.headers_for(geometry);
            headers.give_internal(self.source, Patience::Wait, memory);
        }
        // SAFETY: `start` and `order` are those of the block that `grow` took apart.
        let block = unsafe { PageBlock::from_raw(start, order, false) };
        // SAFETY: the block came from this source; nothing refers into it, as no caller has an
        // object of it.
        unsafe { pages.free(block) };
    }
}
