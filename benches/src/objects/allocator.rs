//! The trait to implement for an object allocator, and our caches behind it.

use std::alloc::Layout;
use std::ptr::NonNull;

use buddy::{Buddy, Mode, ZeroedMemory};
use hosted::{Mapped, Threads};
use page_frame::DirectMap;
use slab::{Cache, CacheBuilder, Hardening, Off, Registry};

/// The page allocator below our caches.
pub type Pages = Buddy<'static, DirectMap, Threads>;

/// An allocator of objects of one layout that can be measured.
///
/// # Safety
/// 1. `allocate` returns memory of the layout that has no other user until it is freed, or
///    addresses that are never written to.
pub unsafe trait Objects: Sync {
    /// Returns an object, its content arbitrary.
    fn allocate(&self) -> NonNull<u8>;

    /// Takes an object back.
    ///
    /// # Safety
    /// 1. `object` came from this allocator, was not freed since, and is not used any more.
    unsafe fn free(&self, object: NonNull<u8>);
}

/// A cache over a real buddy, with threads as CPUs.
///
/// Fields are dropped in this order: memory last.
pub struct Ours<K: Hardening = Off> {
    /// The cache.
    pub cache: Cache<(Pages, Threads), K>,
    _memory: [Mapped; 2],
}

impl<K: Hardening> Ours<K> {
    /// Makes a cache of objects of `layout`, described further by `describe`, over `bytes` bytes of
    /// address space.
    ///
    /// # Panics
    /// When there is no address space, or no such cache.
    pub fn new(
        bytes: usize,
        layout: Layout,
        describe: impl FnOnce(
            CacheBuilder<'_, (Pages, Threads)>,
        ) -> CacheBuilder<'_, (Pages, Threads), K>,
    ) -> Self {
        let (buddy, memory) = pages(bytes);
        let registry = Registry::new(buddy, Threads).expect("a page is free");
        let cache = describe(registry.cache("bench", layout)).build();
        Self { cache: cache.expect("a good layout"), _memory: memory }
    }
}

/// Returns a buddy over `bytes` bytes of address space, which live as long as the two mappings.
///
/// # Panics
/// When there is no address space.
pub fn pages(bytes: usize) -> (Pages, [Mapped; 2]) {
    let memory = Mapped::reserve(bytes).expect("address space");
    let ranges = [memory.frames()];
    let layout = Pages::metadata_layout(&ranges, hosted::THREAD_SLOTS).expect("a good range");
    let metadata = Mapped::reserve(layout.size()).expect("address space");
    let map = memory.direct_map();
    // SAFETY: the mapping is fresh, so it reads as zero, is page-aligned and has no other user. It
    // lives as long as the allocator.
    let zeroed = unsafe { ZeroedMemory::from_zeroed(metadata.start(), metadata.bytes()) };
    // SAFETY: the frames are a fresh mapping that has no other user, and `map` covers it.
    let buddy = unsafe { Buddy::new_in(zeroed, &ranges, map, Threads, Mode::Cached) };
    (buddy.expect("a good range"), [memory, metadata])
}

// SAFETY: the cache's objects are of its layout and each somebody's.
unsafe impl<K: Hardening> Objects for Ours<K> {
    #[inline]
    fn allocate(&self) -> NonNull<u8> {
        self.cache.allocate().expect("the workloads use little memory")
    }

    #[inline]
    unsafe fn free(&self, object: NonNull<u8>) {
        // SAFETY: the caller's clause.
        unsafe { self.cache.free(object) };
    }
}
