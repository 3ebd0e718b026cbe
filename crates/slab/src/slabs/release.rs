//! Slabs on their way from the set to the page source: their destructors run, then their pages go back.
//!
//! # Concurrency
//! Nothing is held. The slabs are out of the set, so they belong to the caller alone.
//!
//! # Panics
//! A destructor that panics counts as run. The other objects of the slab are destroyed, the slab and all others of the list go
//! back, and then the panic goes on. A second panic meanwhile ends the program, as it does when a slice is dropped.

use core::ptr::NonNull;

use page_frame::{PageBlock, PageMap, PageSource};

use crate::cache::inner::CacheInner;
use crate::debug::trace::Event;
use crate::percpu::path::Patience;
use crate::slabs::header::SlabHeader;
use crate::slabs::list::SlabList;
use crate::system::System;

impl<S: System> CacheInner<S> {
    /// Sends slabs home that were taken out of the set with all objects free; returns their pages.
    pub(crate) fn release_all(&self, slabs: SlabList) -> usize {
        let mut releasing = Releasing { inner: self, slabs, pages: 0 };
        releasing.send_all();
        releasing.pages
    }

    /// Destroys all objects of a slab and gives its pages back.
    ///
    /// # Safety
    /// 1. The slab is the caller's: in no list, all objects free and constructed.
    pub(crate) unsafe fn release(&self, header: NonNull<SlabHeader>) {
        // SAFETY: clause 1: the slab is not home yet, so its header is there.
        let slab = unsafe { header.as_ref() };
        let (start, pages) = (slab.start, slab.pages());
        let capacity = slab.geometry(&self.settings.geometry).capacity();
        // SAFETY: clause 1: all of its objects are constructed.
        let mut dismantling = unsafe { Dismantling::new(self, header, capacity) };
        self.trace(|| Event::SlabGone { start, pages });
        dismantling.destroy_objects();
    }

    /// Destroys the first `constructed` objects of a slab and gives its pages back.
    ///
    /// # Safety
    /// 1. The slab is the caller's: in no list, its first `constructed` objects constructed, nobody's.
    pub(crate) unsafe fn dismantle(&self, header: NonNull<SlabHeader>, constructed: usize) {
        // SAFETY: clause 1 is that of `new`.
        unsafe { Dismantling::new(self, header, constructed) }.destroy_objects();
    }
}

/// Slabs that are sent home one by one. Dropping it sends the rest.
struct Releasing<'c, S: System> {
    inner: &'c CacheInner<S>,
    slabs: SlabList,
    pages: usize,
}

impl<S: System> Releasing<'_, S> {
    fn send_all(&mut self) {
        while let Some(header) = self.slabs.pop() {
            // SAFETY: alive until it is sent home.
            self.pages += unsafe { header.as_ref() }.pages();
            // SAFETY: `pop_empty` took it out of the set with all objects free.
            unsafe { self.inner.release(header) };
        }
    }
}

impl<S: System> Drop for Releasing<'_, S> {
    fn drop(&mut self) {
        self.send_all();
        if self.pages > 0 {
            self.inner.system().note_traffic(0, self.pages);
        }
    }
}

/// A slab whose objects are being destroyed. Dropping it destroys the rest and gives the pages back.
struct Dismantling<'c, S: System> {
    inner: &'c CacheInner<S>,
    header: NonNull<SlabHeader>,
    /// The next object to destroy.
    next: usize,
    constructed: usize,
}

impl<'c, S: System> Dismantling<'c, S> {
    /// # Safety
    /// 1. The slab is the caller's: in no list, its first `constructed` objects constructed, nobody's. It is given up.
    unsafe fn new(
        inner: &'c CacheInner<S>,
        header: NonNull<SlabHeader>,
        constructed: usize,
    ) -> Self {
        Self { inner, header, next: 0, constructed }
    }

    fn destroy_objects(&mut self) {
        let Some(destroy) = self.inner.settings.destructor else { return };
        // SAFETY: clause 1 of `new`: the header goes with the slab, when `self` is dropped.
        let slab = unsafe { self.header.as_ref() };
        let geometry = &slab.geometry(&self.inner.settings.geometry);
        while self.next < self.constructed {
            let index = self.next;
            // Before the call: an object whose destructor panicked is not destroyed again.
            self.next += 1;
            // SAFETY: below the capacity, as only objects of the slab are constructed.
            let place = unsafe { slab.object(geometry, index) };
            // SAFETY: the padding in front lies inside the place.
            let object = unsafe { place.add(self.inner.settings.padding.front()) };
            // SAFETY: the builder was promised that this is sound for constructed objects, and by clause 1 of `new` it is one.
            unsafe { destroy(object) };
        }
    }
}

impl<S: System> Drop for Dismantling<'_, S> {
    fn drop(&mut self) {
        self.destroy_objects();
        let (inner, header) = (self.inner, self.header);
        // SAFETY: clause 1 of `new`: the header is there until its memory is given back below.
        let slab = unsafe { header.as_ref() };
        let geometry = &slab.geometry(&inner.settings.geometry);
        let (start, order) = (slab.start, geometry.order());
        let source = &inner.system().source;
        // SAFETY: the pages are ours, clause 1 of `new`.
        unsafe { source.clear_owner(start, order) };
        if geometry.bookkeeping_offset().is_none() {
            // SAFETY: the links lie in front of the header, in the same memory.
            let memory = unsafe { header.cast::<u8>().sub(geometry.links_bytes()) };
            inner.system().records_of(geometry).give_back(Patience::Wait, &[memory]);
        }
        // SAFETY: the parts of the block that `grow` took apart.
        let block = unsafe { PageBlock::from_raw(start, order, false) };
        // SAFETY: from this source; nothing refers into it, as no object is anybody's.
        unsafe { source.free(block) };
    }
}
