//! The public handle of a cache.

use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ptr::{self, NonNull};

use page_frame::{CacheName, Cpu, OutOfMemory};

use crate::cache::destroy::{Busy, EndOfHandle};
use crate::cache_inner::CacheInner;
use crate::cache_inner::stats::CacheStats;
use crate::hardening::presets::{Hardening, Off, is_any_on};
use crate::patience::Patience;
use crate::percpu::slot::{PerCpuHandle, Push};
use crate::registry::aging::age_if_due;
use crate::registry::inner::RegistryInner;
use crate::registry::pressure::allocate_after_shrinking;
use crate::slabs::checks::ObjectChecks;
use crate::slabs::layout::geometry::Geometry;
use crate::slabs::settings::CacheSettings;
use crate::system::System;

/// Objects of one size, in constructed state, from slabs that the cache takes and releases by
/// itself.
///
/// Dropping it destroys the cache; objects still in use then stay as they are, and their slabs are
/// lost to the page source. [`destroy`](Self::destroy) refuses instead. Both wait for
/// the end of calls that use the cache. So do neither inside such a call: in a constructor, a
/// destructor or a `reclaim` callback of the same cache, in a callback of the registry
/// ([`Registry::stats`](crate::Registry::stats) and others), or in an interrupt.
///
/// ```
/// # use core::{alloc::Layout, mem::MaybeUninit};
/// # use page_frame::{Arena, SingleCpu};
/// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
/// # let arena = Arena::new(&mut memory)?;
/// # let registry = slab::Registry::new(&arena, SingleCpu::new())?;
/// let buffers = registry.cache("buffer", Layout::new::<[u8; 256]>()).build()?;
/// let buffer = buffers.allocate()?;
/// // SAFETY: the object is ours, and has 256 bytes.
/// unsafe { buffer.write_bytes(7, buffers.object_size()) };
/// assert!(buffers.owns(buffer));
/// let zeros = buffers.allocate_zeroed()?;
/// let last = buffers.try_allocate()?; // the page source reclaims nothing for it
/// // SAFETY: clauses 1 and 2 of `free`: allocated above, and not used any more.
/// [buffer, zeros, last].map(|object| unsafe { buffers.free(object) });
/// println!("objects in magazines of this CPU: {:?}", buffers.magazines());
/// buffers.for_each_slab(|slab| assert_eq!(slab.capacity, buffers.geometry().capacity()));
/// buffers.validate()?;
/// let pages = buffers.stats().pages();
/// assert_eq!((buffers.name().as_str(), buffers.shrink_all()), ("buffer", pages));
/// buffers.destroy().map_err(|busy| busy.to_string())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Cache<S: System, K: Hardening = Off> {
    inner: NonNull<CacheInner<S>>,
    checks: PhantomData<fn() -> K>,
}

// SAFETY: a handle reaches the cache through shared references, and the cache is `Sync` if its page
// source and its CPUs are. The last handle may drop both on any CPU, so both are `Send`.
unsafe impl<S: System<Pages: Send + Sync, Cpus: Send + Sync>, K: Hardening> Send for Cache<S, K> {}
// SAFETY: a shared handle gives only shared references to the cache, which is `Sync` as above.
unsafe impl<S: System<Pages: Send + Sync, Cpus: Send + Sync>, K: Hardening> Sync for Cache<S, K> {}

impl<S: System, K: Hardening> Cache<S, K> {
    /// # Safety
    /// 1. The handle is the only one of the cache, and gets a reference to its registry.
    pub(crate) unsafe fn from_inner(inner: NonNull<CacheInner<S>>) -> Self {
        Self { inner, checks: PhantomData }
    }

    #[inline(always)]
    pub(crate) fn inner(&self) -> &CacheInner<S> {
        // SAFETY: cache I1: the handle has a reference.
        unsafe { self.inner.as_ref() }
    }

    /// Returns the registry.
    #[inline]
    pub(crate) fn registry(&self) -> &RegistryInner<S> {
        let registry = self.inner().backing.shared_pointer().cast();
        // SAFETY: the handle has a reference to the registry, and by I2 of the cache the pointer is
        // that of the registry.
        unsafe { registry.as_ref() }
    }

    /// Returns whether objects of `other` can replace objects of this cache.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.inner(), other.inner());
        let hooks = |slabs: &CacheSettings| {
            [slabs.constructor, slabs.destructor].map(|hook| hook.map(|hook| hook as usize))
        };
        // The address of a value without bytes says nothing.
        let grace = |slabs: &CacheSettings| {
            slabs.grace.map(|it| if size_of_val(it) > 0 { ptr::from_ref(it).addr() } else { 0 })
        };
        let cut = |cache: &CacheInner<S>| {
            let slabs = &cache.slabs().settings;
            (slabs.geometry, slabs.padding, slabs.size, slabs.is_pinned, grace(slabs))
        };
        cut(ours) == cut(theirs) && hooks(&ours.slabs().settings) == hooks(&theirs.slabs().settings)
    }

    /// Returns the checks of the preset.
    #[inline]
    pub(crate) fn checks(&self) -> ObjectChecks<'_, S> {
        let inner = self.inner();
        ObjectChecks { slabs: inner.slabs(), environment: inner.environment() }
    }

    /// Allocates an object: in constructed state, if there is a constructor; otherwise with
    /// arbitrary content.
    ///
    /// A hit is a pop in the caller's CPU slot. A miss may take locks and ask the page source: at
    /// most O(objects of a magazine or a slab). Example: see [`Cache`].
    ///
    /// Longest path counted: 12,145 instructions with objects of 192 bytes (`cache-allocate`),
    /// 7,965 with 8 bytes (`cache-8-allocate`), 22,498 with 2,048 bytes (`cache-2048-allocate`),
    /// 1,594 when the page source has no page (`cache-fail`).
    ///
    /// # Errors
    /// [`OutOfMemory`] when no slab has an object free and the page source has no block.
    #[inline]
    #[track_caller]
    pub fn allocate(&self) -> Result<NonNull<u8>, OutOfMemory> {
        loop {
            let place = match self.inner().percpu.pop() {
                Some(place) => place,
                None => self.allocate_place_missed()?,
            };
            if !is_any_on::<K>() {
                return Ok(place);
            }
            // A corrupted object stays isolated; try the next one.
            if let Some(object) = self.checks().check_allocated::<K>(place) {
                return Ok(object);
            }
        }
    }

    /// Allocates an object for a caller whose [per-CPU handle](Self::per_cpu_handle) has missed.
    #[doc(hidden)]
    #[inline]
    #[track_caller]
    pub fn allocate_missed(&self) -> Result<NonNull<u8>, OutOfMemory> {
        // The handle of a preset with checks is closed, so the slot has not been tried.
        if is_any_on::<K>() { self.allocate() } else { self.allocate_place_missed() }
    }

    #[cold]
    #[inline(never)]
    fn allocate_place_missed(&self) -> Result<NonNull<u8>, OutOfMemory> {
        let place = self.inner().allocate_from_depot().or_else(|miss| {
            match self.inner().allocate_from_slabs::<K>(miss) {
                Ok(place) => Ok(self.age_holding(place)),
                Err(OutOfMemory) => allocate_after_shrinking::<S, K>(self.registry(), self.inner()),
            }
        })?;
        if S::Cpus::HAS_MISS_HOOK {
            let held = self.inner().backing.guard(None, Some(place));
            self.note_miss();
            held.disarm();
        }
        Ok(place)
    }

    /// Calls the machine's hook of misses.
    #[inline]
    fn note_miss(&self) {
        if S::Cpus::HAS_MISS_HOOK {
            self.inner().environment().locking.cpu().note_miss();
        }
    }

    /// Runs an aging pass, if one is due, and frees `place` if that panics. Returns `place`.
    fn age_holding(&self, place: NonNull<u8>) -> NonNull<u8> {
        if self.registry().environment().aging.is_due() {
            let held = self.inner().backing.guard(None, Some(place));
            age_if_due(self.registry());
            held.disarm();
        }
        place
    }

    /// Allocates an object as [`allocate`](Self::allocate) does, but the page source reclaims
    /// nothing for it: if it has no free block, the call fails at once. Costs more than `allocate`
    /// where that would be a hit. Example: see [`Cache`].
    ///
    /// # Errors
    /// [`OutOfMemory`] when no slab has an object free and the page source has no block as it is.
    #[track_caller]
    pub fn try_allocate(&self) -> Result<NonNull<u8>, OutOfMemory> {
        loop {
            let place = self.age_holding(self.inner().try_allocate_place::<K>()?);
            if let Some(object) = self.checks().check_allocated::<K>(place) {
                return Ok(object);
            }
        }
    }

    /// Frees an object.
    ///
    /// A hit is a push in the caller's CPU slot; a miss may take locks. Freeing the object that
    /// this CPU freed last a second time is a [fault](page_frame::Fault) at once. Pointers that are
    /// not objects of this cache are found when the magazine is emptied into the slabs. A miss
    /// returns at most the objects of a few magazines to their slabs, and the slabs that this
    /// empties to the page source.
    ///
    /// Longest path counted: 33,581 instructions with objects of 192 bytes (`cache-free`), 11,045
    /// with 8 bytes (`cache-8-free`), 41,234 with 2,048 bytes (`cache-2048-free`).
    ///
    /// If code of the user panics meanwhile (a destructor, or a shrinker that the page source
    /// calls), the object is freed all the same. Only a fault leaves it as it is.
    /// Example: see [`Cache`].
    ///
    /// # Safety
    /// 1. `object` came from this cache (from [`allocate`](Self::allocate) or another way to
    ///    allocate) and has not been freed since.
    /// 2. No code uses it from now on.
    /// 3. With a constructor or a destructor, `object` is in **constructed state**: its content is
    ///    that which the constructor leaves, or another that the users of this cache and the
    ///    destructor agree on. In a cache of an [`ObjectCache`](crate::ObjectCache) that is a value
    ///    of its type that [`Reset::reset`](crate::Reset::reset) left, or that has not been changed
    ///    since it was allocated.
    #[inline]
    #[track_caller]
    pub unsafe fn free(&self, object: NonNull<u8>) {
        if !is_any_on::<K>() {
            self.free_place(object);
        } else if let Some(place) = self.checks().check_freed::<K>(object) {
            self.free_place(place);
        }
    }

    /// Frees the place of an object that has been checked.
    #[inline(always)]
    #[track_caller]
    pub(crate) fn free_place(&self, place: NonNull<u8>) {
        if self.inner().free_place(place) == Push::Full {
            self.free_missed(place);
        }
    }

    #[cold]
    #[inline(never)]
    #[track_caller]
    fn free_missed(&self, place: NonNull<u8>) {
        if self.inner().free_missed(place) {
            age_if_due(self.registry());
        }
        self.note_miss();
    }

    /// Allocates an object and fills it with zeros. Example: see [`Cache`].
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate).
    ///
    /// # Panics
    /// When the cache has a constructor: zeros are not the constructed state, and would overwrite a
    /// value that may be pinned.
    #[inline]
    #[track_caller]
    pub fn allocate_zeroed(&self) -> Result<NonNull<u8>, OutOfMemory> {
        if self.inner().slabs().settings.constructor.is_some() {
            refuse_zeros();
        }
        let object = self.allocate()?;
        // SAFETY: the object was just allocated, and has that many bytes.
        unsafe { object.write_bytes(0, self.object_size()) };
        Ok(object)
    }

    /// Turns the handle into a pointer, to be stored in an atomic word.
    ///
    /// ```
    /// # use core::{alloc::Layout, mem::MaybeUninit};
    /// # use page_frame::{Arena, SingleCpu};
    /// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    /// # let arena = Arena::new(&mut memory)?;
    /// # let registry = slab::Registry::new(&arena, SingleCpu::new())?;
    /// # use slab::Cache;
    /// let raw = registry.cache("late", Layout::new::<u64>()).build()?.into_raw();
    /// // SAFETY: clause 1: the only handle made of `raw`. Clause 2: none is borrowed.
    /// let late: Cache<(&Arena<'_>, SingleCpu)> = unsafe { Cache::from_raw(raw) };
    /// assert_eq!(late.name().as_str(), "late");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_raw(self) -> NonNull<()> {
        ManuallyDrop::new(self).inner.cast()
    }

    /// Makes a handle from a pointer. Example: see [`Cache::into_raw`].
    ///
    /// # Safety
    /// 1. `raw` came from [`into_raw`](Self::into_raw) of a cache of this type, and stands for one
    ///    handle: of those made from it at most one is dropped, and none is used afterwards.
    /// 2. While one of them is borrowed exclusively ([`for_each_live`](Self::for_each_live)), no
    ///    other is used.
    #[inline(always)]
    pub unsafe fn from_raw(raw: NonNull<()>) -> Self {
        Self { inner: raw.cast(), checks: PhantomData }
    }

    /// Returns the name. Example: see [`Cache`].
    pub fn name(&self) -> CacheName {
        self.inner().slabs().settings.name
    }

    /// Returns how the slabs are cut. Example: see [`Cache`].
    pub fn geometry(&self) -> Geometry {
        self.inner().slabs().settings.geometry
    }

    /// Returns the size of an object in bytes, as asked for. Example: see [`Cache`].
    pub fn object_size(&self) -> usize {
        self.inner().slabs().settings.object_size()
    }

    /// Returns the statistics of the cache. O(slabs), takes its locks. Example: see [`Cache`].
    pub fn stats(&self) -> CacheStats {
        self.inner().stats()
    }

    /// Returns how many objects are in the loaded and in the previous magazine of the caller's CPU,
    /// for tools that draw them; `None` for a magazine that is not there. O(1), no lock.
    /// Example: see [`Cache`].
    pub fn magazines(&self) -> [Option<usize>; 2] {
        self.inner().percpu.lengths()
    }

    /// Releases all pages that hold no object in use, except the slabs that
    /// [`keep_at_least`](crate::CacheBuilder::keep_at_least) keeps; returns how many. Waits for
    /// locks, and for grace periods where the cache is
    /// [type-stable](crate::CacheBuilder::type_stable) and the machine can wait. O(free objects).
    /// Longest path counted: 211 instructions an object of 2,000 that are free (`cache-shrink`).
    /// Example: see [`Cache`].
    pub fn shrink_all(&self) -> usize {
        let released = self.inner().shrink(usize::MAX, Patience::Wait);
        age_if_due(self.registry());
        released
    }

    /// Destroys the cache. Waits for locks, for shrinkers and statistics that visit this cache, and
    /// as [`shrink_all`](Self::shrink_all) for grace periods. O(free objects).
    /// Longest path counted: 1,683 instructions after a `shrink_all` (`cache-destroy`).
    /// Example: see [`Cache`].
    ///
    /// # Errors
    /// [`Busy`], with the cache, when objects are in use, or slabs still wait for a grace period.
    pub fn destroy(self) -> Result<(), Busy<Self>> {
        // SAFETY: the handle is the cache's only one, and is used again only if the answer is an
        // error.
        match unsafe { self.registry().detach(self.inner) } {
            Ok(()) => {
                // SAFETY: the cache is detached, and the handle is not used again.
                unsafe { EndOfHandle::new(ManuallyDrop::new(self).inner) }.free();
                Ok(())
            }
            Err(objects) => Err(Busy { name: self.name(), objects, cache: self }),
        }
    }

    /// Returns the per-CPU handle: a closed one if the preset checks every object.
    #[doc(hidden)]
    pub fn per_cpu_handle(&self) -> PerCpuHandle {
        let inner = self.inner();
        PerCpuHandle::of(if is_any_on::<K>() {
            &inner.environment().locking
        } else {
            &inner.percpu.slots
        })
    }
}

impl<S: System, K: Hardening> Drop for Cache<S, K> {
    fn drop(&mut self) {
        // SAFETY: the only handle, which is not used again.
        unsafe { EndOfHandle::new(self.inner) }.end();
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
