//! The cache as its user sees it: a handle to a cache.

use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use page_frame::OutOfMemory;

use crate::cache::destroy::Destroying;
use crate::cache::inner::{CacheInner, Settings};
use crate::cache_name::CacheName;
use crate::debug::leaks::LiveObject;
use crate::hardening::{Hardening, Off};
use crate::percpu::path::Patience;
use crate::registry::handle::Registry;
use crate::registry::stats::{CacheStats, SlabView};
use crate::slabs::geometry::Geometry;
use crate::system::System;

/// Objects of one size, in constructed state, from slabs that it takes and gives back by itself.
///
/// Dropping it destroys the cache; objects still in use then stay as they are, and their slabs are lost to the page
/// source. [`destroy`](Self::destroy) refuses instead. Neither may be done by a constructor, a destructor or a `reclaim` callback of the
/// same cache, in a callback of the registry ([`Registry::stats`] and others), or in an interrupt: both would wait for
/// what they came upon.
pub struct Cache<S: System, K: Hardening = Off> {
    inner: NonNull<CacheInner<S>>,
    checks: PhantomData<fn() -> K>,
}

// SAFETY: the cache is reached through shared references and is Sync when P and C are; the last handle may drop P and C on
// any CPU, so they are Send.
unsafe impl<S: System<Pages: Send + Sync, Cpus: Send + Sync>, K: Hardening> Send for Cache<S, K> {}
// SAFETY: a shared handle reaches the cache by shared references only, which is Sync when P and C are.
unsafe impl<S: System<Pages: Send + Sync, Cpus: Send + Sync>, K: Hardening> Sync for Cache<S, K> {}

/// A cache has objects in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy {
    /// The cache's name.
    pub name: CacheName,
    /// How many objects were in use.
    pub objects: usize,
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cache {} has {} objects in use", self.name, self.objects)
    }
}

impl core::error::Error for Busy {}

/// The cache that was not destroyed, and why. Dropping it destroys the cache after all; what is in use then is lost to the
/// page source.
#[must_use = "dropping it destroys the cache after all"]
pub struct Refused<S: System, K: Hardening = Off> {
    /// The cache, which goes on. [`for_each_live`](Cache::for_each_live) lists what is in use.
    pub cache: Cache<S, K>,
    /// How many objects are in use.
    pub busy: Busy,
}

impl<S: System, K: Hardening> fmt::Debug for Refused<S, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Refused").field(&self.busy).finish()
    }
}

impl<S: System, K: Hardening> fmt::Display for Refused<S, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.busy.fmt(f)
    }
}

impl<S: System, K: Hardening> core::error::Error for Refused<S, K> {}

impl<S: System, K: Hardening> Cache<S, K> {
    /// # Safety
    /// 1. The handle is the only one of `cache`, and gets a reference to its system.
    pub(crate) unsafe fn from_inner(inner: NonNull<CacheInner<S>>) -> Self {
        Self { inner, checks: PhantomData }
    }

    #[inline(always)]
    pub(crate) fn inner(&self) -> &CacheInner<S> {
        // SAFETY: cache I1: the handle has a reference.
        unsafe { self.inner.as_ref() }
    }

    /// Whether the cache is one of `registry`.
    pub(crate) fn is_of(&self, registry: &Registry<S>) -> bool {
        core::ptr::eq(self.inner().system(), registry.system())
    }

    /// Whether an object of `other` is as good as one of this cache.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.inner().settings, &other.inner().settings);
        let hooks = |settings: &Settings| {
            [settings.constructor, settings.destructor].map(|hook| hook.map(|hook| hook as usize))
        };
        let cut = |settings: &Settings| {
            (settings.geometry, settings.padding, settings.size, settings.is_pinned)
        };
        cut(ours) == cut(theirs) && hooks(ours) == hooks(theirs)
    }

    /// Allocates an object: in constructed state, if there is a constructor; otherwise with arbitrary content.
    ///
    /// A hit is a pop in the caller's CPU slot. A miss may take locks and ask the page source.
    ///
    /// # Errors
    /// [`OutOfMemory`] when no slab has an object free and the page source has no block.
    #[inline]
    #[track_caller]
    pub fn allocate(&self) -> Result<NonNull<u8>, OutOfMemory> {
        self.inner().allocate::<K>()
    }

    /// Allocates an object as [`allocate`](Self::allocate) does, but has the page source reclaim nothing for it: where that has
    /// no block free, it fails at once. Costs more than `allocate` where that would be a hit.
    ///
    /// # Errors
    /// [`OutOfMemory`] when no slab has an object free and the page source has no block as it is.
    #[track_caller]
    pub fn try_allocate(&self) -> Result<NonNull<u8>, OutOfMemory> {
        self.inner().try_allocate::<K>()
    }

    /// Frees an object.
    ///
    /// A hit is a push in the caller's CPU slot; a miss may take locks. Misuse that shows at once is a
    /// [fault](page_frame::Fault): freeing the object freed last a second time. Pointers that are not objects of this
    /// cache are found when the magazine is emptied into the slabs.
    ///
    /// Should code of the user panic meanwhile (a destructor, a shrinker that the page source asks), the object is freed all
    /// the same. Only a fault leaves it as it is.
    ///
    /// # Safety
    /// 1. `object` came from this cache (from [`allocate`](Self::allocate) or another way to allocate) and has not been freed since.
    /// 2. Nobody uses it from now on.
    /// 3. With a constructor or a destructor, `object` is in **constructed state**: it holds what the constructor leaves, or
    ///    what the users of this cache agree on in its place, so that the next user and the destructor may have it. In a
    ///    cache of an [`ObjectCache`](crate::ObjectCache) that is a value of its type that [`Reset::reset`](crate::Reset::reset) left,
    ///    or that has not been changed since it was allocated.
    #[inline]
    #[track_caller]
    pub unsafe fn free(&self, object: NonNull<u8>) {
        // SAFETY: the caller's clauses are those of the cache's `free`.
        unsafe { self.inner().free::<K>(object) }
    }

    /// Allocates as many objects as `objects` has room for, as [`allocate`](Self::allocate) does one, and writes them there;
    /// returns how many there were. Fewer than asked for means that memory ran out.
    /// Should a constructor panic, none is allocated.
    ///
    /// The CPU slot is entered once for as many as it has.
    ///
    /// ```
    /// # use core::{alloc::Layout, mem::MaybeUninit, ptr::NonNull};
    /// # use page_frame::{Arena, SingleCpu};
    /// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    /// # let arena = Arena::new(&mut memory)?;
    /// # let registry = slab::Registry::new(&arena, SingleCpu::new())?;
    /// let cache = registry.cache("message", Layout::new::<[u64; 6]>()).build()?;
    /// let mut messages = [NonNull::dangling(); 16];
    /// assert_eq!(cache.allocate_many(&mut messages), 16);
    /// // SAFETY: from this cache, and not used any more.
    /// unsafe { cache.free_many(&messages) };
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[track_caller]
    pub fn allocate_many(&self, objects: &mut [NonNull<u8>]) -> usize {
        self.inner().allocate_many::<K>(objects)
    }

    /// Frees objects, as [`free`](Self::free) does one. The CPU slot is entered once for as many as it has room for.
    /// Should code of the user panic meanwhile, all are freed all the same.
    ///
    /// # Safety
    /// 1. All clauses of [`free`](Self::free), for each of `objects`; none is there twice.
    #[inline]
    #[track_caller]
    pub unsafe fn free_many(&self, objects: &[NonNull<u8>]) {
        // SAFETY: the caller's clause.
        unsafe { self.inner().free_many::<K>(objects) }
    }

    /// Allocates an object and fills it with zeros.
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate).
    ///
    /// # Panics
    /// When the cache has a constructor: zeros are not the constructed state, and would overwrite a value that may be pinned.
    #[inline]
    #[track_caller]
    pub fn allocate_zeroed(&self) -> Result<NonNull<u8>, OutOfMemory> {
        if self.inner().settings.constructor.is_some() {
            refuse_zeros();
        }
        let object = self.allocate()?;
        // SAFETY: the caller's now, and so large.
        unsafe { object.write_bytes(0, self.object_size()) };
        Ok(object)
    }

    /// AgingClock the handle into a pointer, for places that hold one as an atomic word.
    pub fn into_raw(self) -> NonNull<()> {
        ManuallyDrop::new(self).inner.cast()
    }

    /// Takes a handle up again.
    ///
    /// # Safety
    /// 1. `raw` came from [`into_raw`](Self::into_raw) of a cache of this type, and stands for one handle: of those made
    ///    from it at most one is dropped, and none is used afterwards.
    /// 2. While one of them is borrowed exclusively ([`for_each_live`](Self::for_each_live)), no other is used.
    #[inline(always)]
    pub unsafe fn from_raw(raw: NonNull<()>) -> Self {
        Self { inner: raw.cast(), checks: PhantomData }
    }

    /// Returns the name.
    pub fn name(&self) -> CacheName {
        self.inner().settings.name
    }

    /// Returns how the slabs are cut.
    pub fn geometry(&self) -> Geometry {
        self.inner().settings.geometry
    }

    /// Returns the size of an object in bytes, as asked for.
    pub fn object_size(&self) -> usize {
        self.inner().object_size()
    }

    /// Returns the numbers of the cache. O(slabs), takes its locks.
    pub fn stats(&self) -> CacheStats {
        self.inner().stats()
    }

    /// Returns how many objects are in the loaded and in the previous magazine of the caller's CPU, for pictures; `None` for
    /// a magazine that is not there.
    pub fn magazines(&self) -> [Option<usize>; 2] {
        match self.inner().slots.enter() {
            Ok(slot) => [slot.loaded_length(), slot.previous_length()],
            Err(_) => [None, None],
        }
    }

    /// Gives back all pages that hold no object in use; returns how many. Waits for locks.
    pub fn shrink_all(&self) -> usize {
        self.inner().shrink(usize::MAX, Patience::Wait)
    }

    /// Checks the invariants of the cache. O(objects), takes its locks.
    ///
    /// # Errors
    /// Names the first invariant that does not hold.
    pub fn validate(&self) -> Result<(), &'static str> {
        self.inner().validate()
    }

    /// Calls `look` with each slab, under the lock of the slab set: `look` must not use the cache.
    pub fn for_each_slab(&self, look: impl FnMut(SlabView)) {
        self.inner().for_each_slab(look);
    }

    /// Whether `object` is the address of an object of this cache, in use or free. Any address may be asked for, also while other
    /// CPUs shrink the cache. O(slabs), takes the lock of the slab set; `false` for an interrupt that came upon that lock.
    pub fn owns(&self, object: NonNull<u8>) -> bool {
        let place = object.addr().get().wrapping_sub(self.inner().settings.padding.front());
        self.inner().has_object_at(place)
    }

    /// Calls `look` with each object in use, under the lock of the slab set. Exclusive, as what other CPUs have in their
    /// hands would be neither here nor there; empties all magazines. O(objects).
    ///
    /// ```
    /// # use core::{alloc::Layout, mem::MaybeUninit};
    /// # use page_frame::{Arena, SingleCpu};
    /// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    /// # let arena = Arena::new(&mut memory)?;
    /// # let registry = slab::Registry::new(&arena, SingleCpu::new())?;
    /// let cache = registry.cache("inode", Layout::new::<[u64; 75]>()).hardening::<slab::Debugging>().build()?;
    /// let forgotten = cache.allocate()?;
    /// let mut refused = cache.destroy().expect_err("an object is in use");
    /// refused.cache.for_each_live(|live| {
    ///     assert_eq!((live.object, live.index), (forgotten, live.index));
    ///     let history = live.history.expect("Debug keeps it");
    ///     assert!(history.allocated_by.is_some_and(|place| place.line() > 0));
    /// });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn for_each_live(&mut self, look: impl FnMut(LiveObject)) {
        // SAFETY: `&mut self`, the only handle.
        unsafe { self.inner().for_each_live::<K>(look) }
    }

    /// Destroys the cache. Waits for locks, and for shrinkers and statistics that are at this cache.
    ///
    /// # Errors
    /// [`Refused`], with the cache, when objects are in use.
    pub fn destroy(self) -> Result<(), Refused<S, K>> {
        // SAFETY: the handle is the cache's only one, and is used again only if the answer is an error.
        match unsafe { self.inner().system().detach(self.inner) } {
            Ok(()) => {
                // SAFETY: the cache is detached, and the handle is not used again.
                unsafe { Destroying::new(ManuallyDrop::new(self).inner) }.free();
                Ok(())
            }
            Err(objects) => {
                let busy = Busy { name: self.name(), objects };
                Err(Refused { cache: self, busy })
            }
        }
    }
}

impl<S: System, K: Hardening> Drop for Cache<S, K> {
    fn drop(&mut self) {
        // SAFETY: the only handle, which is not used again.
        unsafe { Destroying::new(self.inner) }.end();
    }
}

#[cold]
#[inline(never)]
#[track_caller]
fn refuse_zeros() -> ! {
    panic!("an object of a cache with a constructor is not allocated as zeros")
}

impl<S: System, K: Hardening> fmt::Debug for Cache<S, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("name", &self.name()).finish_non_exhaustive()
    }
}
