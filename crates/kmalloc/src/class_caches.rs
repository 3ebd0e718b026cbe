//! The caches of the size classes, and the table through which hits find them.
//!
//! # Concepts
//! Each class has a cache in the slab registry, built by the first request that needs it. Hits use
//! a table of the caches' per-CPU handles, indexed by page tag. The table has an entry for every
//! tag, so that a hit needs no check of the tag. For a tag without a class, or a class without a
//! cache yet, the handle is closed and never hits.
//!
//! A request of a class is not always an object of its cache: in a small memory it may be bytes of
//! the page source ([`ByteSource`](page_frame::ByteSource)). A free that knows the layout does not
//! look at the page map, so such a class is **mixed** for ever: its frees by layout find a closed
//! handle, and then the page map decides. Frees by layout therefore have a table of their own.
//!
//! # Invariants
//! - I1: `caches[class]` is null or the raw handle of the cache of `class`, owned by this value,
//!   the same for ever; `handles[tag]` is the per-CPU handle of the cache of the tag's class, or a
//!   closed one.
//! - I2: `states[class]` changes once, from fresh to pure or to mixed. `pure_caches[class]` is null
//!   and `pure_handles[class]` closed unless it is pure; then they are those of the cache.
//! - I3: no memory of a class that is not mixed is anything but an object of the class's cache.
//!
//! # Concurrency
//! Two CPUs that need a class for the first time both build a cache; one compare-exchange decides,
//! and the loser destroys its own, still empty. Another one decides whether a class is pure or
//! mixed: before the handle for its frees by layout is opened, and before it gets bytes.

use core::alloc::Layout;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ops::Range;
use core::ptr::NonNull;

use page_frame::sync::{AtomicPtr, AtomicU8, Ordering};
use page_frame::{Order, OutOfMemory, PageMap, Tag};
use slab::internals::PerCpuHandle;
use slab::{BuildError, Cache, CacheBuilder, Hardening, Registry, System};

use crate::cache_name::cache_name;
use crate::class::ClassIndex;

const _: () = assert!(ClassIndex::COUNT <= Tag::CLASSES);

/// How a cache is built from a builder.
pub(crate) type Build<'r, S, K> = fn(CacheBuilder<'r, S, K>) -> Result<Cache<S, K>, BuildError>;

/// The number of tags.
const TAGS: usize = 1 << u8::BITS;

/// The tag of the first class; those of the others follow it.
pub(crate) const FIRST_TAG: usize = match Tag::class(0) {
    Some(tag) => tag.get() as usize,
    None => panic!("there is a first class"),
};
const _: () = assert!(FIRST_TAG + ClassIndex::COUNT <= TAGS);
const _: () = match Tag::class(ClassIndex::COUNT - 1) {
    Some(last) => assert!(last.get() as usize == FIRST_TAG + ClassIndex::COUNT - 1),
    None => panic!("there are fewer classes than tags for them"),
};

/// The pages of a memory of medium size: about 4 MiB to 64 MiB.
const MEDIUM_PAGES: Range<usize> = 1000..1 << 14;
/// Its largest slabs: 16 KiB. Filled with requests of 1 to 512 bytes, 8 MiB serve 89.4 % with the
/// usual orders, 90.7 % with 8 KiB, 91.9 % with 16 KiB, and 91 to 92.4 % with 32 KiB.
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
    /// First, so that they are at the address of the allocator.
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
        // SAFETY: clause 1: I1. Clause 2: the caches live as long as this value, and the CPUs are
        // their registry's.
        unsafe { PerCpuHandle::allocate_through(handle, self.registry.cpu()) }
    }

    /// Pushes `object` to the caller's CPU slot, if the class is pure. Returns whether it was a
    /// hit; if not, nothing has changed.
    ///
    /// # Safety
    /// 1. `object` is memory that was allocated for `class`, and that the caller owns.
    /// 2. If the answer is true, no code uses it from then on.
    #[inline(always)]
    pub(crate) unsafe fn free_hit(&self, class: ClassIndex, object: NonNull<u8>) -> bool {
        // SAFETY: a class is below `COUNT`.
        let handle = unsafe { self.pure_handles.get_unchecked(class.index()) };
        // SAFETY: clause 1: I2. Clause 2: the caches live as long as this
        // value. Clause 3: a handle that is not closed is that of a pure class (I2), so that by I3
        // and clause 1 the object is the cache's; clause 2. Caches of classes have no constructor.
        unsafe { PerCpuHandle::free_through(handle, self.registry.cpu(), object) }
    }

    /// Pushes `object` as [`free_hit`](Self::free_hit) does, for the class that the page tag of
    /// byte `tag` names.
    ///
    /// # Safety
    /// 1. `tag` is a byte.
    /// 2. If the answer is true, `object` is one of the tag's class that the caller owns; no code
    ///    uses it from then on.
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
            // SAFETY: clause 1 of `borrow_cache`: `build` stored the handle in `caches` (I1).
            None => self.build(class, build).map(|raw| unsafe { Self::borrow_cache(raw) }),
        }
    }

    /// Returns the cache of `class`, if there is one.
    #[inline]
    pub(crate) fn get(&self, class: ClassIndex) -> Option<ManuallyDrop<Cache<S, K>>> {
        // SAFETY: clause 1 of `load_cache`: `caches` (I1).
        unsafe { Self::load_cache(&self.caches[class.index()]) }
    }

    /// Returns the cache of `class`, if all memory of the class is from it.
    #[inline]
    pub(crate) fn get_pure(&self, class: ClassIndex) -> Option<ManuallyDrop<Cache<S, K>>> {
        // SAFETY: clause 1 of `load_cache`: `pure_caches` (I2).
        unsafe { Self::load_cache(&self.pure_caches[class.index()]) }
    }

    /// # Safety
    /// 1. `place` is one of `caches` or `pure_caches`.
    #[inline(always)]
    unsafe fn load_cache(place: &AtomicPtr<()>) -> Option<ManuallyDrop<Cache<S, K>>> {
        // Acquire: pairs with the Release in `build`; sees the cache as it was built.
        let raw = NonNull::new(place.load(Ordering::Acquire))?;
        // SAFETY: clause 1 of `borrow_cache`: clause 1, I1 and I2.
        Some(unsafe { Self::borrow_cache(raw) })
    }

    /// Makes `class` mixed, unless it is pure. Returns whether it is mixed. Memory that is not from
    /// the class's cache may be allocated for it only after that.
    pub(crate) fn mix(&self, class: ClassIndex) -> bool {
        let state = &self.states[class.index()];
        // Relaxed: the state alone decides, and publishes nothing.
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
        let name = cache_name(class);
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
        let place = &self.caches[class.index()];
        let empty = core::ptr::null_mut();
        // Release: pairs with the Acquire loads; publishes the cache. Acquire on failure: sees the
        // other one.
        match place.compare_exchange(empty, new.as_ptr(), Ordering::Release, Ordering::Acquire) {
            Ok(_) => {
                // SAFETY: I1: from just above.
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
                // SAFETY: ours from `into_raw` above, which no other code has seen. It never had an
                // object.
                drop(unsafe { Cache::<S, K>::from_raw(new) });
                Ok(NonNull::new(first).expect("the exchange failed because it is not null"))
            }
        }
    }

    /// Returns the largest order of slabs that are cut to waste least, if the memory is of medium
    /// size: larger than a small one, and not so large that a few percent do not matter.
    fn tight_order(&self) -> Option<Order> {
        let pages = self.registry.source().tag_range().pages();
        if MEDIUM_PAGES.contains(&pages) { Order::new(TIGHT_ORDER) } else { None }
    }

    /// # Safety
    /// 1. `raw` is one of `caches` (I1).
    #[inline(always)]
    unsafe fn borrow_cache(raw: NonNull<()>) -> ManuallyDrop<Cache<S, K>> {
        // SAFETY: clause 1: from `into_raw`. It is not dropped here, so the handle stays this
        // value's.
        ManuallyDrop::new(unsafe { Cache::from_raw(raw) })
    }
}

impl<S: System, K: Hardening> Drop for ClassCaches<S, K> {
    /// Destroys the caches. Memory in use stays as it is, and its pages are lost to the page
    /// source.
    fn drop(&mut self) {
        for place in &mut self.caches {
            // Relaxed: `&mut self` proves exclusive use.
            if let Some(raw) = NonNull::new(place.load(Ordering::Relaxed)) {
                // SAFETY: clause 1 of `from_raw`: by I1 this value owns the handle, and does not
                // use it again.
                drop(unsafe { Cache::<S, K>::from_raw(raw) });
            }
        }
    }
}
