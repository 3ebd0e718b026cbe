//! Looking into a cache: its invariants, its slabs, its objects in use, and its free objects.

use core::ptr::NonNull;

use page_frame::{Fault, Violation};

use crate::cache::handle::Cache;
use crate::cache_inner::stats::{SlabView, for_each_slab};
use crate::debug::leaks::{LiveObject, for_each_live};
use crate::debug::magazines::validate_magazines;
use crate::debug::validate::validate_cache;
use crate::hardening::presets::Hardening;
use crate::patience::Patience;
use crate::system::System;

impl<S: System, K: Hardening> Cache<S, K> {
    /// Checks the invariants of the cache: the lists of slabs, their headers, their entries in the
    /// page map, their free objects, and the depot. Other CPUs may use the cache meanwhile.
    /// O(objects), takes the cache's locks. Example: see [`Cache`].
    ///
    /// # Errors
    /// Names the first invariant that does not hold.
    pub fn validate(&self) -> Result<(), Violation> {
        validate_cache(self.inner())
    }

    /// Checks all that [`validate`](Self::validate) checks, and each object in a magazine: the
    /// object belongs to this cache, is in one magazine, once, and is not free in its slab. Under a
    /// preset with [marks](Hardening::MARKS) it has the mark of a cached object.
    ///
    /// Call it only while no other call uses the cache: an object that moves meanwhile may be seen
    /// twice. It takes each CPU slot over for a moment, and skips a slot that a CPU is inside of.
    /// O(objects), and O(n^2) for n objects in magazines; takes the cache's locks.
    ///
    /// ```
    /// # use core::{alloc::Layout, mem::MaybeUninit};
    /// # use page_frame::{Arena, SingleCpu};
    /// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    /// # let arena = Arena::new(&mut memory)?;
    /// # let registry = slab::Registry::new(&arena, SingleCpu::new())?;
    /// let keys = registry.cache("key", Layout::new::<[u8; 24]>()).build()?;
    /// let key = keys.allocate()?;
    /// // SAFETY: clauses 1 and 2: allocated above, and not used any more.
    /// unsafe { keys.free(key) };
    /// keys.validate_quiet()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Names the first invariant that does not hold.
    pub fn validate_quiet(&self) -> Result<(), Violation> {
        self.validate()?;
        validate_magazines::<S, K>(self.inner())
    }

    /// Calls `look` with each slab, under the lock of the slab set: `look` must not use the cache.
    /// O(slabs). Example: see [`Cache`].
    pub fn for_each_slab(&self, look: impl FnMut(SlabView)) {
        for_each_slab(self.inner().slabs(), self.inner().environment(), look);
    }

    /// Returns whether `object` is the address of an object of this cache, in use or free. Any
    /// address is allowed, also while other CPUs shrink the cache. O(slabs), takes the lock of the
    /// slab set; `false` in an interrupt that found that lock held. Example: see [`Cache`].
    pub fn owns(&self, object: NonNull<u8>) -> bool {
        let slabs = self.inner().slabs();
        let place = object.addr().get().wrapping_sub(slabs.settings.padding.front());
        let found = slabs.find_in_set(self.inner().environment(), place, |_| Ok(()));
        found.is_some_and(|found| found.is_ok())
    }

    /// Calls `look` with each object in use, under the lock of the slab set. Empties all magazines
    /// first. Takes `&mut self`, so that no other CPU moves objects meanwhile. O(objects). Example:
    /// see [`LiveObject`].
    pub fn for_each_live(&mut self, look: impl FnMut(LiveObject)) {
        let inner = self.inner();
        inner.percpu.drain(&inner.backing, Patience::Wait);
        // SAFETY: `&mut self`: the only handle, and the magazines have just been emptied.
        unsafe { for_each_live::<S, K>(inner.slabs(), inner.environment(), look) }
    }

    /// Checks that `object` is an object of this cache and in use, as far as the preset can tell:
    /// without [marks](Hardening::MARKS) free objects pass. Any address is allowed, also while
    /// other CPUs free objects and shrink the cache. Changes nothing. O(slabs), takes the lock of
    /// the slab set; in an interrupt that found that lock held each object passes.
    ///
    /// ```
    /// # use core::{alloc::Layout, mem::MaybeUninit};
    /// # use page_frame::{Arena, SingleCpu};
    /// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    /// # let arena = Arena::new(&mut memory)?;
    /// # let registry = slab::Registry::new(&arena, SingleCpu::new())?;
    /// use page_frame::FaultKind;
    /// use slab::Hardened;
    /// let keys = registry.cache("key", Layout::new::<[u8; 24]>());
    /// let keys = keys.hardening::<Hardened>().build()?;
    /// let key = keys.allocate()?;
    /// assert!(keys.check(key).is_ok());
    /// // SAFETY: clauses 1 and 2: allocated above, and not used any more.
    /// unsafe { keys.free(key) };
    /// assert_eq!(keys.check(key).unwrap_err().kind, FaultKind::DoubleFree);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The [`Fault`] that a free of `object` would be.
    #[track_caller]
    pub fn check(&self, object: NonNull<u8>) -> Result<(), Fault> {
        self.checks().check_in_use::<K, _>(object, || ()).unwrap_or(Ok(()))
    }

    /// Checks an object that the caller owns: what [`check`](Self::check) checks, and that no write
    /// went beyond it, as far as the preset can tell. Changes nothing. O(1), no lock.
    /// Example: see [`Cache::set_requested_size`].
    ///
    /// # Errors
    /// The [`Fault`] that a free of `object` would be.
    ///
    /// # Safety
    /// 1. As clause 1 of [`free`](Self::free): `object` came from this cache and has not been freed
    ///    since. Where that is a mistake, the check finds it as a free does.
    /// 2. No other code allocates, frees or checks it meanwhile, nor changes its requested size.
    #[track_caller]
    pub unsafe fn check_owned(&self, object: NonNull<u8>) -> Result<(), Fault> {
        // SAFETY: clauses 1 and 2.
        unsafe { self.checks().check_owned::<K>(object) }
    }

    /// Records that `bytes` bytes of `object` were asked for: a write behind them is an
    /// [`Overflow`](page_frame::FaultKind::Overflow) at the free, and of a
    /// [`check_owned`](Self::check_owned). Writes the rest of the object. Does nothing for presets
    /// without [`REQUESTED_SIZE`](Hardening::REQUESTED_SIZE), and for caches with a constructor.
    ///
    /// ```
    /// # use core::{alloc::Layout, mem::MaybeUninit};
    /// # use page_frame::{Arena, SingleCpu};
    /// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    /// # let arena = Arena::new(&mut memory)?;
    /// # let registry = slab::Registry::new(&arena, SingleCpu::new())?;
    /// let buffers = registry.cache("buffer", Layout::new::<[u8; 112]>());
    /// let buffers = buffers.hardening::<slab::Debugging>().build()?;
    /// let buffer = buffers.allocate()?;
    /// assert_eq!(buffers.requested_size(buffer).ok(), Some(112));
    /// // SAFETY: clauses 1 and 2: allocated above, and not larger.
    /// unsafe { buffers.set_requested_size(buffer, 100) };
    /// assert_eq!(buffers.requested_size(buffer).ok(), Some(100));
    /// // SAFETY: clause 1: allocated above.
    /// assert_eq!(unsafe { buffers.requested_size_owned(buffer) }, 100);
    /// // SAFETY: the bug shown. The byte lies in the object.
    /// unsafe { buffer.add(100).write(1) };
    /// // SAFETY: clauses 1 and 2: allocated above; there is no other thread.
    /// let fault = unsafe { buffers.check_owned(buffer) }.unwrap_err();
    /// assert!(fault.to_string().contains("offset 100 of 100 bytes asked for"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    /// When `bytes` exceeds [`object_size`](Self::object_size).
    ///
    /// # Safety
    /// 1. `object` came from this cache and has not been freed since.
    /// 2. No code uses the bytes behind the first `bytes` from now on.
    pub unsafe fn set_requested_size(&self, object: NonNull<u8>, bytes: usize) {
        assert!(bytes <= self.object_size(), "no more than the object has");
        // SAFETY: clauses 1 and 2, and the comparison above.
        unsafe { self.checks().surroundings().set_requested_size::<K>(object, bytes) };
    }

    /// Returns how many bytes of `object` its owner may use: as many as
    /// [`set_requested_size`](Self::set_requested_size) recorded, or all. Any address is allowed.
    /// Costs what [`check`](Self::check) does; O(1), no lock, for presets that record no size.
    /// Example: see [`Cache::set_requested_size`].
    ///
    /// # Errors
    /// The [`Fault`] that [`check`](Self::check) finds, for presets that record the size.
    #[track_caller]
    pub fn requested_size(&self, object: NonNull<u8>) -> Result<usize, Fault> {
        if !K::REQUESTED_SIZE {
            return Ok(self.object_size());
        }
        let checks = self.checks();
        // SAFETY: clause 1 of `requested_size`: called for an object of a slab that is alive.
        let read = || unsafe { checks.surroundings().requested_size::<K>(object) };
        let recorded = checks.check_in_use::<K, _>(object, read).transpose()?.flatten();
        Ok(recorded.unwrap_or(self.object_size()))
    }

    /// Returns [`requested_size`](Self::requested_size) of an object of the caller's; the size of
    /// all of it where the record is spoilt. O(1), no lock.
    /// Example: see [`Cache::set_requested_size`].
    ///
    /// # Safety
    /// 1. As clause 1 of [`check_owned`](Self::check_owned).
    pub unsafe fn requested_size_owned(&self, object: NonNull<u8>) -> usize {
        // SAFETY: clause 1.
        let recorded = unsafe { self.checks().requested_size_owned::<K>(object) };
        recorded.unwrap_or(self.object_size())
    }

    /// Checks all free objects for writes since they were freed, as an allocation checks one. Calls
    /// the fault hook with each fault, under the lock of the slab set: the hook must not use the
    /// cache. Returns the number of faults; zero for presets without [marks](Hardening::MARKS) and
    /// [poison](Hardening::POISON), and for caches with a constructor. O(objects).
    ///
    /// ```
    /// # use core::{alloc::Layout, mem::MaybeUninit};
    /// # use page_frame::{Arena, SingleCpu};
    /// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    /// # let arena = Arena::new(&mut memory)?;
    /// use slab::{Hardened, Registry};
    /// let hook = |fault: &page_frame::Fault| eprintln!("{fault}"); // WriteAfterFree at 0x...
    /// let registry = Registry::with_fault_hook(&arena, SingleCpu::new(), hook)?;
    /// let keys = registry.cache("key", Layout::new::<[u8; 24]>());
    /// let keys = keys.hardening::<Hardened>().build()?;
    /// let key = keys.allocate()?;
    /// // SAFETY: clauses 1 and 2: allocated above, and not used by right any more.
    /// unsafe { keys.free(key) };
    /// // SAFETY: the bug shown. The byte lies in the arena, which is ours.
    /// unsafe { key.write(1) };
    /// // SAFETY: clause 1: there is no other thread.
    /// assert_eq!(unsafe { keys.check_free_objects() }, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Safety
    /// 1. No other code uses the cache or its objects meanwhile.
    pub unsafe fn check_free_objects(&self) -> usize {
        // SAFETY: clause 1.
        unsafe { self.checks().check_free_objects::<K>() }
    }
}
