//! Requests that no built cache serves: large ones, the first one of a class, and all requests in a
//! small memory.
//!
//! # Concepts
//! Each cache takes at least one page, so the caches of a few classes would take most of a small
//! memory. If the page source also allocates bytes ([`ByteSource`]) and says that its memory is
//! small, kmalloc builds no cache of a class. The source then serves each request, in steps of 16
//! bytes. A source that grows ([`Regions`](page_frame::Regions)) may become large later. From then
//! on classes get caches, and the classes that got bytes before stay
//! [mixed](crate::classes::class_caches).
//! In a memory that is not small, a class becomes mixed when the source has no page for its cache
//! but still has bytes.
//!
//! Only misses come here: the handle of a class without a cache is closed, and so is the handle for
//! frees by layout in a mixed class. Each call takes the source's lock.
//!
//! Presets with checks use caches in small memories too, as bytes of the source have no room for
//! the data of the checks.

use core::alloc::Layout;
use core::ptr::NonNull;

use page_frame::{ByteSource, Fault, FaultKind, OutOfMemory, PageMap, PageResize, PageSource, Tag};
use slab::{CacheBuilder, Hardening, System};

use crate::classes::class::ClassIndex;
use crate::classes::class_caches::ClassCaches;
use crate::large::LargeRuns;

/// Whether a request may reclaim memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reclaim {
    Allowed,
    Forbidden,
}

/// Returns whether the preset `K` makes any check. Checks need caches.
pub(crate) const fn is_checked<K: Hardening>() -> bool {
    let around = K::CANARY || K::RED_ZONE > 0 || K::REQUESTED_SIZE || K::HISTORY;
    K::MARKS || K::POISON || K::SHUFFLE || around
}

#[inline(always)]
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
    /// Returns the page source's interface for bytes, if it has one and the preset allows its use.
    pub(crate) fn byte_source(&self) -> Option<&dyn ByteSource> {
        if is_checked::<K>() { None } else { self.registry.source().byte_source() }
    }

    /// Allocates for `layout`, of `class`, which is not pure (see the head of
    /// [`class_caches`](crate::classes::class_caches)).
    ///
    /// In a small memory the byte source serves the request. In a larger one the class's cache
    /// does, which the first request builds; if the source has no page for the cache, the byte
    /// source serves the request.
    #[inline(always)]
    pub(crate) fn allocate_mixed(
        &self,
        class: ClassIndex,
        layout: Layout,
        reclaim: Reclaim,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        match self.byte_source() {
            Some(bytes) if bytes.is_small() && self.mix(class) => {
                allocate_from(bytes, layout, reclaim)
            }
            bytes => self.allocate_mixed_object(bytes, class, layout, reclaim),
        }
    }

    /// Allocates for `layout`, of `class`, from the class's cache, or from `bytes` if the source
    /// has no page for the cache.
    #[cold]
    #[inline(never)]
    fn allocate_mixed_object(
        &self,
        bytes: Option<&dyn ByteSource>,
        class: ClassIndex,
        layout: Layout,
        reclaim: Reclaim,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let mut object = self.allocate_or_build(class, reclaim);
        // Without a cache the failure may be that of `build`, which needs pages for the cache
        // itself: unused slabs of other caches may have some.
        let may_shrink = reclaim == Reclaim::Allowed && self.get(class).is_none();
        if object.is_err() && may_shrink && self.registry.shrink_unused(1) > 0 {
            object = self.allocate_or_build(class, reclaim);
        }
        match bytes {
            // The source may have bytes, though it has no free page.
            Some(bytes) if object.is_err() && self.mix(class) => {
                allocate_from(bytes, layout, reclaim)
            }
            _ => object,
        }
    }

    /// Allocates an object of `class`. Builds the class's cache first, if the class has none.
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

    /// Allocates a run of pages for a layout without a class. If the source has no such run, tries
    /// [`retry_large`](Self::retry_large).
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

    /// Allocates for a layout without a class after the source had no run of pages: bytes, or a run
    /// or bytes of the pages that the caches release.
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
        // All unused pages are released, as only neighbours make a run.
        if self.registry.shrink_unused(usize::MAX) == 0 {
            return Err(OutOfMemory);
        }
        let run = large.try_allocate(self.registry.source(), layout).map(|run| run.start());
        run.or_else(|_| self.try_allocate_bytes(layout))
    }

    /// Allocates bytes for a layout without a class, after the source had no run of pages. Does not
    /// reclaim: the request for pages has reclaimed, if it was allowed to.
    #[cold]
    pub(crate) fn try_allocate_bytes(&self, layout: Layout) -> Result<NonNull<u8>, OutOfMemory> {
        self.byte_source().ok_or(OutOfMemory)?.try_allocate_bytes(layout)
    }

    /// Frees the bytes at `start`, if bytes are allocated there. Returns whether they are.
    ///
    /// # Safety
    /// 1. If bytes are allocated at `start`, the caller owns them, and no code uses them from now
    ///    on.
    #[inline(always)]
    pub(crate) unsafe fn free_bytes(&self, start: NonNull<u8>) -> bool {
        // SAFETY: clauses 1 and 2 of `free_at`: clause 1.
        self.byte_source().is_some_and(|bytes| unsafe { bytes.free_at(start) }.is_ok())
    }

    /// Frees a run of pages, or bytes. Reports a fault if neither starts at `start`.
    ///
    /// # Safety
    /// 1. `start` is not an object of a class.
    /// 2. The caller owns the allocation at `start`, and no code uses it from now on.
    #[track_caller]
    pub(crate) unsafe fn free_without_class(&self, large: &LargeRuns, start: NonNull<u8>) {
        // SAFETY: clause 1 of `LargeRuns::free`: clause 2.
        if unsafe { large.free(self.registry.source(), start) } {
            return;
        }
        // SAFETY: clause 1 of `free_bytes`: clause 2.
        if !unsafe { self.free_bytes(start) } {
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
    /// 1. The caller owns the allocation at `start`. If the new size is smaller, no code uses the
    ///    bytes after it.
    #[cold]
    pub(crate) unsafe fn resize_bytes(&self, start: NonNull<u8>, new: Layout) -> bool {
        let Some(source) = self.byte_source() else { return false };
        let fits = self.bytes_at(start).is_some() && start.addr().get() % new.align() == 0;
        // SAFETY: clause 1 of `resize_at`: `fits` says that bytes are allocated there, and by
        // clause 1 the caller owns them. Clause 2: clause 1.
        fits && ClassIndex::for_layout(new).is_none_or(|class| self.mix(class))
            && unsafe { source.resize_at(start, new.size()) }
    }

    /// Reports that no allocation starts at `start`.
    #[cold]
    #[track_caller]
    pub(crate) fn report_foreign(&self, start: NonNull<u8>) {
        self.registry.report(&self.misuse_of(start));
    }

    /// Returns the fault of a free of `start`, at which no allocation starts.
    #[track_caller]
    pub(crate) fn misuse_of(&self, start: NonNull<u8>) -> Fault {
        let address = start.addr().get();
        Fault::at_address(self.misuse_at(address), address)
    }

    /// Returns which mistake a free of `address` is: no allocation starts there.
    fn misuse_at(&self, address: usize) -> FaultKind {
        let source = self.registry.source();
        let bytes = self.byte_source().filter(|_| source.tag(address) == Tag::NONE);
        // A byte source recognises the faults in its own memory only.
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
