//! Growing: a block of the page source becomes a slab. The way back is in `releasing`.
//!
//! # Concurrency
//! Nothing is held. A slab that is being made, or that is out of the set, belongs to the caller alone.

use core::ptr::NonNull;

use page_frame::{Order, OutOfMemory, PageBlock, PageMap, PageSource};

use crate::cache::inner::CacheInner;
use crate::debug::trace::Event;
use crate::hardening::{Hardening, Off, shuffle};
use crate::percpu::path::Reclaim;
use crate::slabs::geometry::{Geometry, HEADER};
use crate::slabs::header::SlabHeader;
use crate::slabs::links::Links;
use crate::system::System;
use crate::unwind::BlockGuard;

impl<S: System> CacheInner<S> {
    /// Makes a slab of colour `colour`: all objects constructed and free, in no list.
    ///
    /// # Errors
    /// [`OutOfMemory`] when there is no block, or no room for its header; then nothing is held.
    ///
    /// # Panics
    /// When a constructor or the observer does; then nothing is held.
    pub(crate) fn grow<K: Hardening>(
        &self,
        colour: usize,
        reclaim: Reclaim,
    ) -> Result<NonNull<SlabHeader>, OutOfMemory> {
        let (block, geometry) = self.take_block(reclaim)?;
        let geometry = &geometry;
        let (block_start, source) = (block.start(), &self.system().source);
        // SAFETY: from this source just now, and nothing refers into it.
        let block = unsafe { BlockGuard::new(source, block) };
        let memory = match geometry.bookkeeping_offset() {
            // SAFETY: the bookkeeping lies inside the slab (geometry I1).
            Some(offset) => unsafe { block_start.add(offset) },
            // The page source may run code of the user for it.
            None => self.system().records_of(geometry).take_one::<Off>(reclaim)?,
        };
        let (start, order) = block.release().ok_or(OutOfMemory)?.into_raw();
        // SAFETY: the memory holds the links in front of the header.
        let header = unsafe { memory.add(geometry.links_bytes()) }.cast::<SlabHeader>();
        let (capacity, colour) = (geometry.capacity(), colour % geometry.colours());
        // SAFETY: ours, large enough and aligned to 64: bookkeeping lies in whole lines.
        unsafe { header.write(SlabHeader::new(self.identity(), start, colour, geometry)) };
        // SAFETY: just written, and ours.
        let links = unsafe { Links::of(header, geometry) };
        for index in 0..capacity {
            let next = match index + 1 {
                _ if K::SHUFFLE => index,
                next if next < capacity => next,
                _ => 0,
            };
            // SAFETY: below the capacity, and ours.
            unsafe { links.write(index, next) };
        }
        if K::SHUFFLE {
            let seed = self.settings.secret ^ start.addr().get();
            // SAFETY: ours, and each object was linked to itself above.
            unsafe { shuffle(links, capacity, seed) };
        }
        // SAFETY: the pages are ours.
        unsafe { source.set_owner(start, order.pages(), self.settings.tag, header.cast()) };
        if K::POISON || K::HISTORY {
            // SAFETY: ours, in no list.
            unsafe { self.prepare_slab::<K>(header) };
        }
        let mut unfinished = Unfinished { inner: self, header, constructed: 0 };
        while unfinished.constructed < capacity {
            let Some(construct) = self.settings.constructor else {
                unfinished.constructed = capacity;
                break;
            };
            // SAFETY: just written.
            let slab = unsafe { header.as_ref() };
            // SAFETY: the index is below the capacity.
            let place = unsafe { slab.object(geometry, unfinished.constructed) };
            // SAFETY: the padding in front lies inside the place.
            let object = unsafe { place.add(self.settings.padding.front()) };
            // SAFETY: the builder was promised that this is sound for raw memory of an object.
            unsafe { construct(object) };
            unfinished.constructed += 1;
        }
        let (pages, colour_offset) = (order.pages(), geometry.colour_offset(colour));
        self.trace(|| Event::SlabMade { start, pages, colour_offset });
        core::mem::forget(unfinished);
        Ok(header)
    }

    /// Takes a block for a slab: of the best order or, where memory is fragmented, of the next lower one that there is.
    fn take_block(&self, reclaim: Reclaim) -> Result<(PageBlock, Geometry), OutOfMemory> {
        let source = &self.system().source;
        let take = |order| match reclaim {
            Reclaim::Allowed => source.allocate(order),
            Reclaim::Forbidden => source.try_allocate(order),
        };
        let best = self.settings.geometry;
        if let Ok(block) = take(best.order()) {
            return Ok((block, best));
        }
        let lower = Order::all().rev().skip_while(|order| *order >= best.order());
        for geometry in lower.map_while(|order| best.at_lower_order(order)) {
            if let Ok(block) = take(geometry.order()) {
                return Ok((block, geometry));
            }
        }
        Err(OutOfMemory)
    }
}

const _: () = assert!(HEADER % align_of::<u16>() == 0);

/// A slab whose constructors are running. It is dropped when one of them, or the observer, panics.
struct Unfinished<'c, S: System> {
    inner: &'c CacheInner<S>,
    header: NonNull<SlabHeader>,
    constructed: usize,
}

impl<S: System> Drop for Unfinished<'_, S> {
    fn drop(&mut self) {
        // SAFETY: the slab was never added to the set, so nobody has an object of it.
        unsafe { self.inner.dismantle(self.header, self.constructed) };
    }
}
