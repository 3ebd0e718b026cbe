//! The caches of the size classes, and the table through which hits find them.
//!
//! # Concepts
//! Each class has a cache in the slab registry. The first request that needs the cache builds it.
//! Hits use a table of the caches' per-CPU handles, indexed by page tag. The table has an entry for
//! every tag, so that a hit does not check the tag. A tag without a class, and a class without a
//! cache, have a **closed** handle: its slots stay empty, so it never hits.
//!
//! Memory for a request of a class is not always an object of the class's cache. In a small memory
//! it may be bytes of the page source ([`ByteSource`](page_frame::ByteSource)). A class that ever
//! got such bytes is **mixed** from then on. A free that passes the layout does not look at the
//! page map, so it must miss in a mixed class: it finds a closed handle, and the miss asks the page
//! map. All other classes that have a cache are **pure**. Frees by layout have a table of their
//! own, which has the handles of pure classes only.
//!
//! # Invariants
//! - I1: `caches[class]` is null or the raw handle of the cache of `class`, which this value owns.
//!   It changes once, from null. `handles[tag]` is the per-CPU handle of the cache of the tag's
//!   class, or a closed one.
//! - I2: `states[class]` changes once, from fresh to pure or to mixed. When it
//!   is pure, `build` stores its cache in `pure_caches[class]` and the handle in
//!   `pure_handles[class]`. Until then, and in all other classes, they are null and closed.
//! - I3: all memory of a class that is not mixed consists of objects of the class's cache.
//!
//! # Concurrency
//! Two CPUs that need a class for the first time both build a cache. One compare-exchange installs
//! one of the two caches; the CPU that loses destroys its own, which is still empty. A
//! compare-exchange of the state makes a class pure or mixed. It comes before the handle for frees
//! by layout is stored (pure), and before the class gets bytes (mixed).

use core::alloc::Layout;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ops::Range;
use core::ptr::NonNull;

use page_frame::sync::{AtomicPtr, AtomicU8, Ordering};
use page_frame::{Order, OutOfMemory, PageMap, Tag};
use slab::internals::PerCpuHandle;
use slab::{BuildError, Cache, CacheBuilder, Hardening, Registry, System};

use crate::classes::cache_name::cache_name;
use crate::classes::class::ClassIndex;

const _: () = assert!(ClassIndex::COUNT <= Tag::CLASSES);

/// The method of the builder that builds a cache: with reclaiming or without.
pub(crate) type Build<'r, S, K> = fn(CacheBuilder<'r, S, K>) -> Result<Cache<S, K>, BuildError>;

/// The number of tags.
const TAGS: usize = 1 << u8::BITS;

/// The tag of the first class. The tags of the other classes follow it.
pub(crate) const FIRST_TAG: usize = match Tag::class(0) {
    Some(tag) => tag.get() as usize,
    None => panic!("there is a first class"),
};
const _: () = assert!(FIRST_TAG + ClassIndex::COUNT <= TAGS);
const _: () = match Tag::class(ClassIndex::COUNT - 1) {
    Some(last) => assert!(last.get() as usize == FIRST_TAG + ClassIndex::COUNT - 1),
    None => panic!("there are fewer classes than tags for them"),
};

/// The number of pages of a memory of medium size: about 4 MiB to 64 MiB.
const MEDIUM_PAGES: Range<usize> = 1000..1 << 14;
/// The largest order of slabs in a memory of medium size: 16 KiB.
///
/// Measured with 8 MiB filled by requests of 1 to 512 bytes. The requests got 89.4 % of the memory
/// with the orders of a large memory, and 90.7 % with slabs up to 8 KiB. They got 91.9 % with
/// 16 KiB, and 91 to 92.4 % with 32 KiB.
const TIGHT_ORDER: u8 = 2;

/// The class has no memory in use.
const FRESH: u8 = 0;
/// All memory of the class is from its cache.
const PURE: u8 = 1;
/// Memory of the class may be from elsewhere.
const MIXED: u8 = 2;

/// The caches of all classes.
#[repr(C)]
pub(crate) struct ClassCaches<S: System, K: Hardening> {
    /// The first field, so that a hit finds the table at the address of the allocator.
    handles: [AtomicPtr<()>; TAGS],
    pure_handles: [AtomicPtr<()>; ClassIndex::COUNT],
    pub(crate) registry: Registry<S>,
    caches: [AtomicPtr<()>; ClassIndex::COUNT],
    pure_caches: [AtomicPtr<()>; ClassIndex::COUNT],
    states: [AtomicU8; ClassIndex::COUNT],
    pub(crate) secret: Option<usize>,
    pub(crate) magazine_bytes: Option<usize>,
    pub(crate) depot_bytes: Option<usize>,
    pub(crate) min_objects: usize,
    owned: PhantomData<Cache<S, K>>,
}

impl<S: System, K: Hardening> ClassCaches<S, K> {
    /// Makes the table, with no cache yet.
    pub(crate) fn new(registry: Registry<S>) -> Self {
        let closed = registry.closed_handle().into_raw();
        Self {
            handles: core::array::from_fn(|_| AtomicPtr::new(closed.as_ptr())),
            pure_handles: core::array::from_fn(|_| AtomicPtr::new(closed.as_ptr())),
            registry,
            caches: core::array::from_fn(|_| AtomicPtr::new(core::ptr::null_mut())),
            pure_caches: core::array::from_fn(|_| AtomicPtr::new(core::ptr::null_mut())),
            states: core::array::from_fn(|_| AtomicU8::new(FRESH)),
            secret: None,
            magazine_bytes: None,
            depot_bytes: None,
            min_objects: 0,
            owned: PhantomData,
        }
    }

    /// Pops an object of `class` from the caller's CPU slot. `None` means a miss, not that memory
    /// has run out.
    #[inline(always)]
    pub(crate) fn allocate_hit(&self, class: ClassIndex) -> Option<NonNull<u8>> {
        // SAFETY: a class is below `COUNT`, and `COUNT` tags from `FIRST_TAG` on are asserted to be
        // bytes.
        let handle = unsafe { self.handles.get_unchecked(FIRST_TAG + class.index()) };
        // SAFETY: clause 1: I1. Clause 2: this value owns the caches, and the CPUs are those of
        // their registry.
        unsafe { PerCpuHandle::allocate_through(handle, self.registry.cpu()) }
    }

    /// Pushes `object` to the caller's CPU slot, if the class is pure. Returns whether it was a
    /// hit; a miss changes nothing.
    ///
    /// # Safety
    /// 1. `object` is memory that was allocated for `class`, and that the caller owns.
    /// 2. After a hit no code uses it.
    #[inline(always)]
    pub(crate) unsafe fn free_hit(&self, class: ClassIndex, object: NonNull<u8>) -> bool {
        // SAFETY: a class is below `COUNT`.
        let handle = unsafe { self.pure_handles.get_unchecked(class.index()) };
        // SAFETY: clause 1: I2. Clause 2: this value owns the caches. Clause 3: a handle that is
        // not closed belongs to the cache of a pure class (I2), so by I3 and clause 1 `object` is
        // an object of that cache. By clause 2 no code uses it after a hit. Caches of classes have
        // no constructor.
        unsafe { PerCpuHandle::free_through(handle, self.registry.cpu(), object) }
    }

    /// Pushes `object` to the caller's CPU slot for the class that the page tag `tag` names.
    /// Returns whether it was a hit; a miss changes nothing.
    ///
    /// # Safety
    /// 1. `tag` is at most 255.
    /// 2. If `tag` names a class, `object` is an object of the class's cache that the caller owns.
    ///    After a hit no code uses it.
    #[inline(always)]
    pub(crate) unsafe fn free_hit_by_tag(&self, tag: usize, object: NonNull<u8>) -> bool {
        let (handles, cpu) = (self.handles.as_ptr(), self.registry.cpu());
        // SAFETY: clause 1: clause 1, and I1: a handle for each byte. Clause 2: the caches live as
        // long as this value. Clause 3: clause 2.
        unsafe { PerCpuHandle::free_through_index(handles, tag, cpu, object) }
    }

    /// Returns the cache of `class`, which `build` builds at the first request.
    #[inline]
    pub(crate) fn get_or_build<'r>(
        &'r self,
        class: ClassIndex,
        build: Build<'r, S, K>,
    ) -> Result<ManuallyDrop<Cache<S, K>>, OutOfMemory> {
        match self.get(class) {
            Some(cache) => Ok(cache),
            // SAFETY: clause 1 of `borrow_cache`: `build` stored the handle in `caches`.
            None => self.build(class, build).map(|raw| unsafe { Self::borrow_cache(raw) }),
        }
    }

    /// Returns the cache of `class`, if there is one.
    #[inline]
    pub(crate) fn get(&self, class: ClassIndex) -> Option<ManuallyDrop<Cache<S, K>>> {
        // SAFETY: clause 1 of `load_cache`: an entry of `caches`.
        unsafe { Self::load_cache(&self.caches[class.index()]) }
    }

    /// Returns the cache of `class`, if the class is pure: all its memory is from the cache.
    #[inline]
    pub(crate) fn get_pure(&self, class: ClassIndex) -> Option<ManuallyDrop<Cache<S, K>>> {
        // SAFETY: clause 1 of `load_cache`: an entry of `pure_caches`.
        unsafe { Self::load_cache(&self.pure_caches[class.index()]) }
    }

    /// # Safety
    /// 1. `entry` is one of `caches` or `pure_caches`.
    #[inline(always)]
    unsafe fn load_cache(entry: &AtomicPtr<()>) -> Option<ManuallyDrop<Cache<S, K>>> {
        // Acquire: pairs with the Release in `build`; sees the cache as it was built.
        let raw = NonNull::new(entry.load(Ordering::Acquire))?;
        // SAFETY: clause 1 of `borrow_cache`: clause 1, as by I2 `pure_caches` are some of
        // `caches`.
        Some(unsafe { Self::borrow_cache(raw) })
    }

    /// Makes `class` mixed, unless it is pure. Returns whether it is mixed. The caller may allocate
    /// memory for the class from elsewhere than its cache only if it is.
    pub(crate) fn mix(&self, class: ClassIndex) -> bool {
        let state = &self.states[class.index()];
        // Relaxed: the state alone decides, and publishes nothing. It is mixed for ever.
        if state.load(Ordering::Relaxed) == MIXED {
            return true;
        }
        // Relaxed: as above.
        match state.compare_exchange(FRESH, MIXED, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => true,
            Err(state) => state == MIXED,
        }
    }

    /// Builds the cache of `class`, unless another CPU has built it meanwhile.
    #[cold]
    fn build<'r>(
        &'r self,
        class: ClassIndex,
        build: Build<'r, S, K>,
    ) -> Result<NonNull<()>, OutOfMemory> {
        let layout = Layout::from_size_align(class.size(), class.alignment())
            .expect("a class's alignment is a power of two that divides its size");
        let tag = Tag::class(class.index()).expect("there are fewer classes than tags for them");
        let name = cache_name(class.size());
        let builder = self.registry.cache(name.as_str(), layout).tag(tag).hardening::<K>();
        let builder = builder.min_objects(self.min_objects);
        let builder = match self.tight_order() {
            Some(order) => builder.tight_order(order),
            None => builder,
        };
        let builder = match self.secret {
            Some(secret) => builder.secret(secret),
            None => builder,
        };
        let builder = match self.magazine_bytes {
            Some(bytes) => builder.magazine_bytes(bytes),
            None => builder,
        };
        let builder = match self.depot_bytes {
            Some(bytes) => builder.depot_bytes(bytes),
            None => builder,
        };
        let new = build(builder).map_err(|_| OutOfMemory)?.into_raw();
        let entry = &self.caches[class.index()];
        let empty = core::ptr::null_mut();
        // Release: pairs with the Acquire in `load_cache`; publishes the cache. Acquire on failure:
        // pairs with this Release of the CPU that was faster, and sees its cache.
        match entry.compare_exchange(empty, new.as_ptr(), Ordering::Release, Ordering::Acquire) {
            Ok(_) => {
                // SAFETY: clause 1 of `borrow_cache`: the exchange has stored it in `caches`.
                let handle = unsafe { Self::borrow_cache(new) }.per_cpu_handle().into_raw();
                // Release: pairs with the Acquire in `PerCpuHandle::allocate_through` and in
                // `free_through_index`.
                self.handles[usize::from(tag.get())].store(handle.as_ptr(), Ordering::Release);
                let (state, index) = (&self.states[class.index()], class.index());
                // Relaxed: as in `mix`.
                let decided =
                    state.compare_exchange(FRESH, PURE, Ordering::Relaxed, Ordering::Relaxed);
                if decided.is_ok() {
                    // Release: pairs with the Acquire in `PerCpuHandle::free_through`.
                    self.pure_handles[index].store(handle.as_ptr(), Ordering::Release);
                    // Release: pairs with the Acquire in `load_cache`.
                    self.pure_caches[index].store(new.as_ptr(), Ordering::Release);
                }
                Ok(new)
            }
            Err(first) => {
                // SAFETY: clause 1: the only handle made from the `into_raw` above: the exchange
                // failed, so no other code has seen the pointer. Clause 2: nothing borrows it.
                drop(unsafe { Cache::<S, K>::from_raw(new) });
                Ok(NonNull::new(first).expect("the exchange failed because it is not null"))
            }
        }
    }

    /// Returns the largest order of slabs that are cut to waste least, if the memory is of medium
    /// size. A small memory has no slabs of classes, and in a large one a few percent do not
    /// matter.
    fn tight_order(&self) -> Option<Order> {
        let pages = self.registry.source().tag_range().pages();
        if MEDIUM_PAGES.contains(&pages) { Order::new(TIGHT_ORDER) } else { None }
    }

    /// # Safety
    /// 1. `raw` is one of `caches` (I1).
    #[inline(always)]
    unsafe fn borrow_cache(raw: NonNull<()>) -> ManuallyDrop<Cache<S, K>> {
        // SAFETY: clause 1: by clause 1 and I1 from `into_raw`. `ManuallyDrop` leaves the cache to
        // this value. Clause 2: no handle of a class's cache is ever borrowed exclusively.
        ManuallyDrop::new(unsafe { Cache::from_raw(raw) })
    }
}

impl<S: System, K: Hardening> Drop for ClassCaches<S, K> {
    /// Destroys the caches. Memory in use stays valid, and its pages never return to the page
    /// source.
    fn drop(&mut self) {
        for entry in &mut self.caches {
            // Relaxed: `&mut self` proves exclusive use.
            if let Some(raw) = NonNull::new(entry.load(Ordering::Relaxed)) {
                // SAFETY: clause 1 of `from_raw`: by I1 this value owns the handle, and does not
                // use it again.
                drop(unsafe { Cache::<S, K>::from_raw(raw) });
            }
        }
    }
}
