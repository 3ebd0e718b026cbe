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

use crate::core::Core;
use crate::observer::Event;
use crate::record::Record;
use crate::slab_list::SlabList;
use crate::system::System;
use crate::walk::Patience;

impl<S: System> Core<S> {
    /// Sends slabs home that were taken out of the set with all objects free; returns their pages.
    pub(crate) fn send_all_home(&self, slabs: SlabList) -> usize {
        let mut going_home = GoingHome { core: self, slabs, pages: 0 };
        going_home.send_all();
        going_home.pages
    }

    /// Destroys all objects of a slab and gives its pages back.
    ///
    /// # Safety
    /// 1. The slab is the caller's: in no list, all objects free and constructed.
    pub(crate) unsafe fn send_home(&self, record: NonNull<Record>) {
        // SAFETY: clause 1: the slab is not home yet, so its record is there.
        let slab = unsafe { record.as_ref() };
        let (start, pages) = (slab.start, slab.pages());
        let capacity = slab.geometry(&self.plan.geometry).capacity();
        // SAFETY: clause 1: all of its objects are constructed.
        let mut dismantling = unsafe { Dismantling::new(self, record, capacity) };
        self.tell(|| Event::SlabGone { start, pages });
        dismantling.destroy_objects();
    }

    /// Destroys the first `constructed` objects of a slab and gives its pages back.
    ///
    /// # Safety
    /// 1. The slab is the caller's: in no list, its first `constructed` objects constructed, nobody's.
    pub(crate) unsafe fn dismantle(&self, record: NonNull<Record>, constructed: usize) {
        // SAFETY: clause 1 is that of `new`.
        unsafe { Dismantling::new(self, record, constructed) }.destroy_objects();
    }
}

/// Slabs that are sent home one by one. Dropping it sends the rest.
struct GoingHome<'c, S: System> {
    core: &'c Core<S>,
    slabs: SlabList,
    pages: usize,
}

impl<S: System> GoingHome<'_, S> {
    fn send_all(&mut self) {
        while let Some(record) = self.slabs.pop() {
            // SAFETY: alive until it is sent home.
            self.pages += unsafe { record.as_ref() }.pages();
            // SAFETY: `pop_empty` took it out of the set with all objects free.
            unsafe { self.core.send_home(record) };
        }
    }
}

impl<S: System> Drop for GoingHome<'_, S> {
    fn drop(&mut self) {
        self.send_all();
        if self.pages > 0 {
            self.core.system().note_traffic(0, self.pages);
        }
    }
}

/// A slab whose objects are being destroyed. Dropping it destroys the rest and gives the pages back.
struct Dismantling<'c, S: System> {
    core: &'c Core<S>,
    record: NonNull<Record>,
    /// The next object to destroy.
    next: usize,
    constructed: usize,
}

impl<'c, S: System> Dismantling<'c, S> {
    /// # Safety
    /// 1. The slab is the caller's: in no list, its first `constructed` objects constructed, nobody's. It is given up.
    unsafe fn new(core: &'c Core<S>, record: NonNull<Record>, constructed: usize) -> Self {
        Self { core, record, next: 0, constructed }
    }

    fn destroy_objects(&mut self) {
        let Some(destroy) = self.core.plan.destructor else { return };
        // SAFETY: clause 1 of `new`: the record goes with the slab, when `self` is dropped.
        let slab = unsafe { self.record.as_ref() };
        let geometry = &slab.geometry(&self.core.plan.geometry);
        while self.next < self.constructed {
            let index = self.next;
            // Before the call: an object whose destructor panicked is not destroyed again.
            self.next += 1;
            // SAFETY: below the capacity, as only objects of the slab are constructed.
            let place = unsafe { slab.object(geometry, index) };
            // SAFETY: the padding in front lies inside the place.
            let object = unsafe { place.add(self.core.plan.padding.front()) };
            // SAFETY: the builder was promised that this is sound for constructed objects, and by clause 1 of `new` it is one.
            unsafe { destroy(object) };
        }
    }
}

impl<S: System> Drop for Dismantling<'_, S> {
    fn drop(&mut self) {
        self.destroy_objects();
        let (core, record) = (self.core, self.record);
        // SAFETY: clause 1 of `new`: the record is there until its memory is given back below.
        let slab = unsafe { record.as_ref() };
        let geometry = &slab.geometry(&core.plan.geometry);
        let (start, order) = (slab.start, geometry.order());
        let source = &core.system().source;
        // SAFETY: the pages are ours, clause 1 of `new`.
        unsafe { source.clear_owner(start, order) };
        if geometry.bookkeeping_offset().is_none() {
            // SAFETY: the links lie in front of the record, in the same memory.
            let memory = unsafe { record.cast::<u8>().sub(geometry.links_bytes()) };
            core.system().records_of(geometry).give_back(Patience::Wait, &[memory]);
        }
        // SAFETY: the parts of the block that `grow` took apart.
        let block = unsafe { PageBlock::from_raw(start, order, false) };
        // SAFETY: from this source; nothing refers into it, as no object is anybody's.
        unsafe { source.free(block) };
    }
}
