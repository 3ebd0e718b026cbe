//! The environment of slabs: the page source, lock tokens, the fault hook, and the aging clock.

use core::ptr::NonNull;

use page_frame::sync::prefetch;
use page_frame::{Fault, FaultHook, IrqLockToken, PageMap, Tag, TagRange};

use crate::percpu::slot::{CacheSlots, CpuSlot};
use crate::slabs::clock::AgingClock;
use crate::slabs::layout::divisor::Divisor;
use crate::slabs::layout::geometry::Geometry;
use crate::slabs::layout::header::LinksPlace;
use crate::system::System;

/// Minimum number of objects for which headers are prefetched.
const WORTH_FETCHING: usize = 8;

/// The parts of a registry that all its slabs use.
pub(crate) struct Environment<S: System> {
    pub(crate) source: S::Pages,
    /// Tags and owners of most pages of the source.
    pub(crate) range: TagRange,
    /// Marks CPUs that hold a lock of any cache, and so tells contexts that are nested on them.
    /// The bodies of these slots stay empty: closed per-CPU handles enter them and find
    /// nothing.
    pub(crate) locking: CacheSlots<S::Cpus>,
    pub(crate) hook: FaultHook,
    pub(crate) aging: AgingClock,
}

impl<S: System> Environment<S> {
    /// Prepares the caller for the locks of the registry's caches.
    pub(crate) fn lock_token(&self) -> IrqLockToken<'_, CpuSlot, S::Cpus> {
        self.locking.lock_token()
    }

    /// Returns tag and owner word of the page that `address` lies in.
    #[inline]
    pub(crate) fn tag_and_owner(&self, address: usize) -> (Tag, *mut ()) {
        // SAFETY: the source has not moved since `range` was taken: both lie in the registry's
        // block.
        match unsafe { self.range.tag_and_owner(address) } {
            Some(found) if found.0.is_slab() => found,
            _ => (self.source.tag(address), self.source.owner(address)),
        }
    }

    /// Prefetches the headers and the links of `objects`, whose slabs are cut by `best`, into the
    /// CPU's cache, before the caller takes a lock. Objects that were freed in random order lie in
    /// different slabs, so each header is a cache miss, and each link one more. The prefetches make
    /// these misses overlap. If two sampled pairs of neighbours each lie in one slab, the objects
    /// are probably in order and lie in few slabs: then it prefetches nothing.
    pub(crate) fn prefetch_headers(&self, objects: &[NonNull<u8>], best: &Geometry) {
        if objects.len() < WORTH_FETCHING {
            return;
        }
        // Most sources align blocks to their size, so the shifted address identifies a slab. For
        // other sources, and for slabs of lower orders, some headers are fetched twice or not at
        // all.
        let shift = best.slab_bytes().trailing_zeros();
        let slab_of = |object: NonNull<u8>| object.addr().get() >> shift;
        let share_slab = |index| slab_of(objects[index]) == slab_of(objects[index + 1]);
        if share_slab(0) && share_slab(objects.len() / 2) {
            return;
        }
        let (links, stride) = (LinksPlace::of(best), Divisor::new(best.stride()));
        let mut last_slab = 0;
        for object in objects {
            let (address, slab) = (object.addr().get(), slab_of(*object));
            if slab == last_slab {
                continue;
            }
            last_slab = slab;
            // SAFETY: the source has not moved since `range` was taken, as in `tag_and_owner`.
            if let Some((tag, owner)) = unsafe { self.range.tag_and_owner(address) } {
                if tag.is_slab() {
                    let header = owner.cast::<u8>();
                    prefetch(header);
                    // The slab's colour is not known yet, so the index may be off. The link's line
                    // is nearly always the same. A prefetch of any address is harmless.
                    let index = || stride.quotient(address & (best.slab_bytes() - 1));
                    match links {
                        LinksPlace::Within => {}
                        LinksPlace::Short { before } => {
                            prefetch(header.wrapping_sub(before).wrapping_add(index()));
                        }
                        LinksPlace::Long { before } => {
                            prefetch(header.wrapping_sub(before).wrapping_add(2 * index()));
                        }
                    }
                }
            }
        }
    }

    /// Passes `fault` to the fault hook.
    pub(crate) fn report(&self, fault: &Fault) {
        (self.hook)(fault);
    }
}
