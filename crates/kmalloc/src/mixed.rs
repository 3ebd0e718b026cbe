//! Requests that no cache serves at once: large ones, the first one of a class, and in a small
//! memory all others.
//!
//! # Concepts
//! A cache takes at least a page for each class, which is most of a small memory. If the page
//! source serves bytes ([`ByteSource`]) and says that its memory is small, no cache of a class is
//! built: the source serves each request, in steps of 16 bytes. A source that grows
//! ([`Regions`](page_frame::Regions)) may become large later. Then caches are built for classes,
//! and those that got bytes before stay [mixed](crate::class_caches). In a memory that is not small
//! a class becomes mixed when there is no page for its cache, but there are bytes.
//!
//! All of this is reached by misses only: the handle of a class without a cache never hits, nor
//! does a free by layout in a mixed class. The source's lock is taken at each call.
//!
//! Presets with checks use caches in small memories too, as bytes have no room for the checks'
//! data.

use core::alloc::Layout;
use core::ptr::NonNull;

use page_frame::{ByteSource, Fault, FaultKind, OutOfMemory, PageMap, PageResize, PageSource, Tag};
use slab::{CacheBuilder, Hardening, System};

use crate::class::ClassIndex;
use crate::class_caches::ClassCaches;
use crate::large::LargeRuns;

/// Whether a request may reclaim memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reclaim {
    Allowed,
    Forbidden,
}

/// Returns whether the preset `K` makes checks, which need caches.
pub(crate) const fn is_checked<K: Hardening>() -> bool {
    let around = K::CANARY || K::RED_ZONE > 0 || K::REQUESTED_SIZE || K::HISTORY;
    K::MARKS || K::POISON || K::SHUFFLE || around
}

fn allocate_from(
    bytes: &dyn ByteSource,
    layout: Layout,
    reclaim: Reclaim,
) -> Result<NonNull<u8>, OutOfMemory> {
    match reclaim {
        Reclaim::Allowed => bytes.allocate_bytes(layout),
        Reclaim::Forbidden => bytes.try_allocate_bytes(layout),
    }
}

impl<S: System<Pages: PageResize>, K: Hardening> ClassCaches<S, K> {
    /// Returns the page source's interface for bytes, if there is one and it may be used.
    pub(crate) fn byte_source(&self) -> Option<&dyn ByteSource> {
        if is_checked::<K>() { None } else { self.registry.source().byte_source() }
    }

    /// Allocates for `layout`, of `class`, which is not pure (see the head of
    /// [`class_caches`](crate::class_caches)): from the byte source if the memory is small, else
    /// from the class's cache, which it builds at the first request, and from the byte source
    /// if there is no page for the cache.
    #[cold]
    #[inline(never)]
    pub(crate) fn allocate_mixed(
        &self,
        class: ClassIndex,
        layout: Layout,
        reclaim: Reclaim,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let bytes = self.byte_source();
        if let Some(bytes) = bytes.filter(|bytes| bytes.is_small()) {
            if self.mix(class) {
                return allocate_from(bytes, layout, reclaim);
            }
        }
        let mut object = self.allocate_or_build(class, reclaim);
        // A cache that is built needs pages of its own.
        let may_shrink = reclaim == Reclaim::Allowed && self.get(class).is_none();
        if object.is_err() && may_shrink && self.registry.shrink_unused(1) > 0 {
            object = self.allocate_or_build(class, reclaim);
        }
        match bytes {
            // There may be bytes where there is no page.
            Some(bytes) if object.is_err() && self.mix(class) => {
                allocate_from(bytes, layout, reclaim)
            }
            _ => object,
        }
    }

    /// Allocates an object of `class`, whose cache it builds if there is none.
    #[cold]
    #[inline(never)]
    fn allocate_or_build(
        &self,
        class: ClassIndex,
        reclaim: Reclaim,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        match reclaim {
            Reclaim::Allowed => self.get_or_build(class, CacheBuilder::build)?.allocate_missed(),
            Reclaim::Forbidden => self.get_or_build(class, CacheBuilder::try_build)?.try_allocate(),
        }
    }

    /// Allocates for a layout without a class: pages or, where there is no run of pages, as
    /// [`retry_large`](Self::retry_large) does.
    #[cold]
    #[inline(never)]
    pub(crate) fn allocate_large(
        &self,
        large: &LargeRuns,
        layout: Layout,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        match large.allocate(self.registry.source(), layout) {
            Ok(run) => Ok(run.start()),
            Err(OutOfMemory) => self.retry_large(large, layout),
        }
    }

    /// Allocates for a layout without a class, for which there is no run of pages: of pages that
    /// the caches do not use, or bytes.
    #[cold]
    #[inline(never)]
    pub(crate) fn retry_large(
        &self,
        large: &LargeRuns,
        layout: Layout,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        if let Ok(start) = self.try_allocate_bytes(layout) {
            return Ok(start);
        }
        // All of them, as pages make a run only where they are neighbours.
        if self.registry.shrink_unused(usize::MAX) == 0 {
            return Err(OutOfMemory);
        }
        let run = large.try_allocate(self.registry.source(), layout).map(|run| run.start());
        run.or_else(|_| self.try_allocate_bytes(layout))
    }

    /// Allocates bytes for a layout without a class, after a run of pages could not be allocated.
    /// Does not reclaim: the request for pages has done so, if it may.
    #[cold]
    pub(crate) fn try_allocate_bytes(&self, layout: Layout) -> Result<NonNull<u8>, OutOfMemory> {
        self.byte_source().ok_or(OutOfMemory)?.try_allocate_bytes(layout)
    }

    /// Frees a run of pages, or bytes. Reports a mistake: an address at which neither starts.
    ///
    /// # Safety
    /// 1. `start` is not an object of a class.
    /// 2. The caller owns the allocation at `start`, and no code uses it from now on.
    #[track_caller]
    pub(crate) unsafe fn free_without_class(&self, large: &LargeRuns, start: NonNull<u8>) {
        // SAFETY: clause 1: clause 2.
        if unsafe { large.free(self.registry.source(), start) } {
            return;
        }
        // SAFETY: clauses 1 and 2: clause 2.
        let freed = self.byte_source().map(|bytes| unsafe { bytes.free_at(start) });
        if freed != Some(Ok(())) {
            self.report_foreign(start);
        }
    }

    /// Returns the size of the bytes allocated at `start`.
    #[cold]
    pub(crate) fn bytes_at(&self, start: NonNull<u8>) -> Option<usize> {
        self.byte_source()?.bytes_at(start.addr().get()).ok()
    }

    /// Changes the bytes allocated at `start` to those of the layout `new` without moving them.
    /// Returns whether that succeeded. It fails for a layout of a pure class, whose frees expect
    /// objects of its cache.
    ///
    /// # Safety
    /// 1. The caller owns what is at `start`, and no code uses a tail that is given up.
    #[cold]
    pub(crate) unsafe fn resize_bytes(&self, start: NonNull<u8>, new: Layout) -> bool {
        let Some(source) = self.byte_source() else { return false };
        let fits = self.bytes_at(start).is_some() && start.addr().get() % new.align() == 0;
        // SAFETY: clauses 1 and 2: bytes are allocated there; clause 1.
        fits && ClassIndex::for_layout(new).is_none_or(|class| self.mix(class))
            && unsafe { source.resize_at(start, new.size()) }
    }

    /// Reports that no allocation starts at `start`.
    #[cold]
    #[track_caller]
    pub(crate) fn report_foreign(&self, start: NonNull<u8>) {
        let address = start.addr().get();
        self.registry.report(&Fault::at_address(self.misuse_at(address), address));
    }

    /// Returns the fault of a free of `start`, at which no allocation starts.
    #[track_caller]
    pub(crate) fn misuse_of(&self, start: NonNull<u8>) -> Fault {
        let address = start.addr().get();
        Fault::at_address(self.misuse_at(address), address)
    }

    /// Returns what is wrong with a free of `address`, at which no allocation starts.
    fn misuse_at(&self, address: usize) -> FaultKind {
        let source = self.registry.source();
        let bytes = self.byte_source().filter(|_| source.tag(address) == Tag::NONE);
        // A byte source knows the faults of its own memory only.
        if let Some(fault) = bytes.and_then(|bytes| bytes.bytes_at(address).err()) {
            if fault != FaultKind::ForeignPointer {
                return fault;
            }
        }
        let range = source.tag_range();
        // SAFETY: clause 1 of `tag`: the registry does not move its source.
        let is_ours = |address| unsafe { range.tag(address) }.is_some();
        LargeRuns::misuse_at(source, is_ours, address)
    }
}
