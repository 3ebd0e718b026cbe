//! Inspection of a cache: its invariants, its slabs, its objects in use and its free objects.

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
    /// The first invariant that does not hold.
    pub fn validate(&self) -> Result<(), Violation> {
        validate_cache(self.inner())
    }

    /// Checks all that [`validate`](Self::validate) checks, and each object in a magazine. Such an
    /// object belongs to this cache, is in only one magazine and only once, and is not free in its
    /// slab. Under a preset with [marks](Hardening::MARKS) it has the mark of a cached object.
    ///
    /// Call it only while no other call uses the cache. An object that another call moves between
    /// two magazines may be counted in both. This function takes each CPU slot over for a moment,
    /// and skips a slot if its CPU is inside.
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
    /// The first invariant that does not hold.
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
    /// slab set. Returns `false` in an interrupt handler that finds the lock held.
    /// Example: see [`Cache`].
    pub fn owns(&self, object: NonNull<u8>) -> bool {
        let slabs = self.inner().slabs();
        let place = object.addr().get().wrapping_sub(slabs.settings.padding.front());
        let found = slabs.find_in_set(self.inner().environment(), place, |_| Ok(()));
        found.is_some_and(|found| found.is_ok())
    }

    /// Empties all magazines, then calls `look` with each object in use, under the lock of the slab
    /// set. Takes `&mut self`, so that no other CPU moves objects meanwhile. O(objects).
    /// Example: see [`LiveObject`].
    pub fn for_each_live(&mut self, look: impl FnMut(LiveObject)) {
        let inner = self.inner();
        inner.percpu.drain(&inner.backing, Patience::Wait);
        // SAFETY: `&mut self` excludes all other calls, and the magazines have just been emptied.
        unsafe { for_each_live::<S, K>(inner.slabs(), inner.environment(), look) }
    }

    /// Checks that `object` is an object of this cache and in use. Under a preset without
    /// [marks](Hardening::MARKS) free objects pass too. Any address is allowed, also while other
    /// CPUs free objects and shrink the cache. Changes nothing. O(slabs), takes the lock of the
    /// slab set. In an interrupt handler that finds the lock held, every address passes.
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

    /// Checks an object that the caller owns as [`check`](Self::check) does. Also checks that no
    /// write went beyond the object, if the preset keeps bytes around it that a write would change.
    /// Changes nothing. O(1), no lock. Example: see [`Cache::set_requested_size`].
    ///
    /// # Errors
    /// The [`Fault`] that a free of `object` would be.
    ///
    /// # Safety
    /// 1. As clause 1 of [`free`](Self::free): `object` came from this cache and has not been freed
    ///    since. If the caller is mistaken, this finds the mistakes that a free finds.
    /// 2. No other code allocates, frees or checks it meanwhile, nor changes its requested size.
    #[track_caller]
    pub unsafe fn check_owned(&self, object: NonNull<u8>) -> Result<(), Fault> {
        // SAFETY: clause 1 of `ObjectChecks::check_owned`: clauses 1 and 2.
        unsafe { self.checks().check_owned::<K>(object) }
    }

    /// Records `bytes` as the requested size of `object`, and fills the rest of the object with a
    /// pattern. [`free`](Self::free) and [`check_owned`](Self::check_owned) then report a write
    /// beyond the requested size as an [`Overflow`](page_frame::FaultKind::Overflow). Does nothing
    /// for presets without [`REQUESTED_SIZE`](Hardening::REQUESTED_SIZE), and for caches with a
    /// constructor.
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
    /// 2. From now on no code uses the bytes of the object after the first `bytes`.
    pub unsafe fn set_requested_size(&self, object: NonNull<u8>, bytes: usize) {
        assert!(bytes <= self.object_size(), "the requested size exceeds the object");
        // SAFETY: clause 1 of `Surroundings::set_requested_size`: by clauses 1 and 2 the caller
        // owns the object and gives up its rest, and the size was compared above.
        unsafe { self.checks().surroundings().set_requested_size::<K>(object, bytes) };
    }

    /// Returns how many bytes of `object` its owner may use: the size that
    /// [`set_requested_size`](Self::set_requested_size) recorded, or the object's size. Any address
    /// is allowed. Under a preset that records sizes this checks `object` and costs what
    /// [`check`](Self::check) does. Under other presets it is O(1) without a lock, and returns the
    /// object's size for every address. Example: see [`Cache::set_requested_size`].
    ///
    /// # Errors
    /// The [`Fault`] that [`check`](Self::check) finds, under presets that record sizes.
    #[track_caller]
    pub fn requested_size(&self, object: NonNull<u8>) -> Result<usize, Fault> {
        if !K::REQUESTED_SIZE {
            return Ok(self.object_size());
        }
        let checks = self.checks();
        // SAFETY: clause 1 of `Surroundings::requested_size`: `check_in_use` calls this only for an
        // object of this cache, under the set lock, which keeps the object's slab alive.
        let read = || unsafe { checks.surroundings().requested_size::<K>(object) };
        let recorded = checks.check_in_use::<K, _>(object, read).transpose()?.flatten();
        Ok(recorded.unwrap_or(self.object_size()))
    }

    /// Returns what [`requested_size`](Self::requested_size) does for an object that the caller
    /// owns, without checks. Returns the object's size if a stray write has changed the record.
    /// O(1), no lock. Example: see [`Cache::set_requested_size`].
    ///
    /// # Safety
    /// 1. As clause 1 of [`check_owned`](Self::check_owned).
    pub unsafe fn requested_size_owned(&self, object: NonNull<u8>) -> usize {
        // SAFETY: clause 1 of `ObjectChecks::requested_size_owned`: clause 1.
        let recorded = unsafe { self.checks().requested_size_owned::<K>(object) };
        recorded.unwrap_or(self.object_size())
    }

    /// Checks all free objects for writes since they were freed. (An allocation makes the same
    /// check for the object that it takes.) Calls the fault hook with each fault, under the lock of
    /// the slab set: the hook must not use the cache. Returns the number of faults. This is zero
    /// for presets without [marks](Hardening::MARKS) or [poison](Hardening::POISON), and for caches
    /// with a constructor. O(objects).
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
        // SAFETY: clause 1 of `ObjectChecks::check_free_objects`: clause 1.
        unsafe { self.checks().check_free_objects::<K>() }
    }
}
