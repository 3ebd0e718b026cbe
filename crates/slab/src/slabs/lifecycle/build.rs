//! Building a slab: writing a header and links for a block of pages and its free objects.
//!
//! # Concurrency
//! No lock is held. A slab that is being built belongs to its builder.

use core::ptr::NonNull;

use page_frame::{Order, OutOfMemory, PageBlock, PageMap, PageSource};

use crate::hardening::presets::Hardening;
use crate::hardening::{canary, history, poison, requested_size};
use crate::patience::Reclaim;
use crate::slabs::layout::geometry::Geometry;
use crate::slabs::layout::header::SlabHeader;
use crate::slabs::lifecycle::shuffle::shuffle;
use crate::slabs::settings::CacheSettings;

/// Takes a block for a slab: of the best order or, if memory is fragmented, of the highest lower
/// order that is free.
pub(crate) fn take_block(
    source: &impl PageSource,
    best: Geometry,
    reclaim: Reclaim,
) -> Result<(PageBlock, Geometry), OutOfMemory> {
    let take = |order| match reclaim {
        Reclaim::Allowed => source.allocate(order),
        Reclaim::Forbidden => source.try_allocate(order),
    };
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

/// Writes the header and the links of a slab whose objects are all free, and sets the header as the
/// owner of its pages.
///
/// # Safety
/// 1. The caller owns the block at `start` of `geometry.order()`, which came from `source`.
/// 2. The caller owns `memory`, which is aligned to 64, with room for the links of `geometry` and
///    then the header.
/// 3. `identity` is that of the [`Slabs`](crate::slabs::Slabs) with these `settings`.
pub(crate) unsafe fn write_header<K: Hardening>(
    source: &impl PageMap,
    settings: &CacheSettings,
    identity: NonNull<()>,
    start: NonNull<u8>,
    memory: NonNull<u8>,
    colour: usize,
    geometry: &Geometry,
) -> NonNull<SlabHeader> {
    // SAFETY: clause 2: the links lie in front of the header, in the same memory.
    let header = unsafe { memory.add(geometry.links_bytes()) }.cast::<SlabHeader>();
    let (capacity, colour) = (geometry.capacity(), colour % geometry.colours());
    let first = if K::SHUFFLE { 0 } else { geometry.first_taken() };
    // SAFETY: clause 2: room for a header; links are whole lines of 64 bytes, and therefore
    // aligned.
    unsafe { header.write(SlabHeader::new(identity, start, colour, geometry, first)) };
    // SAFETY: clause 1 of `links`: the header was just written for this geometry, in the caller's
    // memory.
    let links = unsafe { SlabHeader::links(header, geometry) };
    if K::SHUFFLE {
        for index in 0..capacity {
            // SAFETY: clause 1 of `write`: the index is below the capacity, and the caller owns the
            // slab.
            unsafe { links.write(index, index) };
        }
        let seed = settings.secret ^ start.addr().get();
        // SAFETY: the caller owns the links, and the loop linked each object to itself.
        unsafe { shuffle(links, capacity, seed) };
    } else {
        // SAFETY: clause 1 of `chain_all`: the caller owns the slab, which has this capacity.
        unsafe { links.chain_all(capacity, first) };
    }
    // SAFETY: clause 1: the caller owns the pages.
    unsafe { source.set_owner(start, geometry.order().pages(), settings.tag, header.cast()) };
    header
}

/// Writes the guard of a fresh slab, fills its free objects with poison, and writes their records,
/// as the preset asks.
///
/// # Safety
/// 1. The caller owns the slab, which is in no list, and its objects are raw memory.
pub(crate) unsafe fn prepare_objects<K: Hardening>(
    settings: &CacheSettings,
    header: NonNull<SlabHeader>,
) {
    // SAFETY: clause 1: the header of a slab that no other code has.
    let slab = unsafe { header.as_ref() };
    let geometry = &slab.geometry(&settings.geometry);
    if let Some(guard) = slab.guard(geometry) {
        // SAFETY: clause 1: the caller owns the slab, and no object has the word in front of the
        // first one.
        unsafe { canary::write(guard, 0, settings.secret) };
    }
    for index in 0..geometry.capacity() {
        // SAFETY: the index is below the capacity.
        let object = settings.object_in(unsafe { slab.object(geometry, index) });
        if settings.is_poisoned::<K>() {
            // SAFETY: clause 1: no caller has an object of the slab.
            unsafe { poison::fill(object, settings.object_size()) };
        }
        if K::REQUESTED_SIZE {
            let record = settings.padding.requested_size(object);
            let size = settings.object_size();
            // SAFETY: clause 1, and the padding of this preset has room for the record.
            unsafe { requested_size::write(record, object, size, settings.secret) };
        }
        if K::HISTORY {
            // SAFETY: clause 1, and the padding of this preset has room for a history.
            unsafe { history::write_empty(settings.padding.history(object), settings.secret) };
        }
    }
}

/// A block of pages that a caller owns. Dropping it frees the block to its source.
pub(crate) struct BlockGuard<'s, P: PageSource> {
    source: &'s P,
    block: Option<PageBlock>,
}

impl<'s, P: PageSource> BlockGuard<'s, P> {
    /// # Safety
    /// 1. `block` came from `source`, and nothing refers into it until [`release`](Self::release).
    pub(crate) unsafe fn new(source: &'s P, block: PageBlock) -> Self {
        Self { source, block: Some(block) }
    }

    /// Takes the block out of the guard.
    pub(crate) fn release(mut self) -> Option<PageBlock> {
        self.block.take()
    }
}

impl<P: PageSource> Drop for BlockGuard<'_, P> {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            // SAFETY: clause 1 of `new`: from this source, and nothing refers into it.
            unsafe { self.source.free(block) };
        }
    }
}
