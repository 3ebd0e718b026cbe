//! The registry's public handle: caches over one page source, for one set of CPUs.

use core::fmt;
use core::ptr::NonNull;

use page_frame::{
    CacheName, Cpu, CpuId, Fault, FaultHook, OutOfMemory, PageMap, PageSource, Shrink, Violation,
    panic_on_fault,
};

use crate::cache_inner::stats::{CacheStats, SLABINFO_HEADER, SlabView, Totals, for_each_slab};
use crate::debug::magazines::validate_magazines;
use crate::debug::validate::{validate, validate_cache};
use crate::hardening::presets::Off;
use crate::patience::Patience;
use crate::percpu::slot::PerCpuHandle;
use crate::registry::aging::age;
use crate::registry::frozen::FrozenSlots;
use crate::registry::inner::RegistryInner;
use crate::registry::pressure;
use crate::system::System;

/// The caches of a system.
///
/// The value is a handle; clones refer to the same registry. Caches keep their registry alive, so
/// handles may be dropped in any order.
///
/// ```
/// # use core::{alloc::Layout, mem::MaybeUninit};
/// # use page_frame::{Arena, SingleCpu};
/// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
/// # let arena = Arena::new(&mut memory)?;
/// use slab::Registry;
/// let registry = Registry::new(&arena, SingleCpu::new())?;
/// let inodes = registry.cache("inode", Layout::new::<[u64; 75]>()).build()?;
/// let inode = inodes.allocate()?;
/// assert_eq!(registry.pages_held(), arena.pages() - registry.source().free_pages());
/// registry.stats(|stats| println!("{}: {} pages", stats.name, stats.pages()));
/// registry.for_each_slab(|name, slab| println!("{name}: a slab at {:#x}", slab.start));
/// let mut text = String::new();
/// registry.slabinfo(&mut text)?;
/// assert!(text.lines().any(|line| line.starts_with("inode ")));
/// // SAFETY: clauses 1 and 2: allocated above, and not used any more.
/// unsafe { inodes.free(inode) };
/// registry.age(); // a system with a clock does so at intervals
/// registry.shrink_own(); // releases more, and disturbs no other CPU
/// registry.shrink(1); // pages: only tries locks
/// registry.shrink_all(); // waits for locks
/// registry.validate()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Registry<S: System> {
    inner: NonNull<RegistryInner<S>>,
}

// SAFETY: handles use the registry by shared reference, and it is Sync if its page source and its
// CPUs are. The last handle drops these on any CPU, so they have to be Send too.
unsafe impl<S: System<Pages: Send + Sync, Cpus: Send + Sync>> Send for Registry<S> {}
// SAFETY: a shared handle gives only shared references to the registry.
unsafe impl<S: System<Pages: Send + Sync, Cpus: Send + Sync>> Sync for Registry<S> {}

impl<P: PageSource + PageMap, C: Cpu + Clone> Registry<(P, C)> {
    /// Makes a registry over `source`, for the CPUs of `cpu`. Faults panic.
    ///
    /// Takes one block of `source`, or only the bytes that it needs (about 400, and 64
    /// for each CPU) from a source that [serves bytes](PageSource::byte_source). If
    /// [`Cpu::SLOT_STRIDE`] is not zero, also takes a block of CPU slots, with that many bytes for
    /// each CPU; caches that find no room in it take further ones.
    /// Example: see [`Registry`].
    ///
    /// # Errors
    /// [`OutOfMemory`] when `source` has no such block.
    pub fn new(source: P, cpu: C) -> Result<Self, OutOfMemory> {
        Self::with_fault_hook(source, cpu, panic_on_fault)
    }

    /// Makes a registry whose faults go to `hook`. Takes memory as [`new`](Self::new) does.
    ///
    /// ```
    /// # use core::{alloc::Layout, mem::MaybeUninit};
    /// # use page_frame::{Arena, SingleCpu};
    /// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    /// # let arena = Arena::new(&mut memory)?;
    /// use page_frame::{Cpu, Fault, FaultKind};
    /// use slab::Registry;
    /// use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    /// static FAULTS: AtomicUsize = AtomicUsize::new(0);
    /// let count = |_: &Fault| _ = FAULTS.fetch_add(1, Relaxed);
    /// let registry = Registry::with_fault_hook(&arena, SingleCpu::new(), count)?;
    /// // Code above the caches finds a pointer that belongs to none of them:
    /// registry.report(&Fault::at_address(FaultKind::ForeignPointer, 0x5000));
    /// assert_eq!((FAULTS.load(Relaxed), registry.cpu().slots()), (1, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`OutOfMemory`] when `source` has no such block.
    pub fn with_fault_hook(source: P, cpu: C, hook: FaultHook) -> Result<Self, OutOfMemory> {
        Ok(Self { inner: RegistryInner::make(source, cpu, hook)? })
    }
}

impl<S: System> Registry<S> {
    /// Makes a registry for a [`System`] that the caller has declared. Faults go to `hook`. Takes
    /// memory as [`new`](Registry::new) does. Example: see [`System`].
    ///
    /// # Errors
    /// [`OutOfMemory`] when `source` has no such block.
    pub fn for_system(
        source: S::Pages,
        cpu: S::Cpus,
        hook: FaultHook,
    ) -> Result<Self, OutOfMemory> {
        Ok(Self { inner: RegistryInner::make(source, cpu, hook)? })
    }

    /// Returns the page source. Example: see [`Registry`].
    pub fn source(&self) -> &S::Pages {
        &self.inner().environment().source
    }

    /// Passes `fault` to the fault hook, for users of this crate that detect misuse themselves.
    /// Example: see [`Registry::with_fault_hook`].
    #[cold]
    pub fn report(&self, fault: &Fault) {
        self.inner().environment().report(fault);
    }

    /// Returns the pages held by all caches, the internal caches, and the registry itself. Over a
    /// source that [serves bytes](PageSource::byte_source), where the registry lies in such bytes,
    /// all pages of the source count that have any, those of its other users too. O(caches), takes
    /// their locks. Example: see [`Registry`].
    pub fn pages_held(&self) -> usize {
        let registry = self.inner();
        let environment = registry.environment();
        let mut pages = registry.own_pages();
        registry.visit(|cache| pages += cache.slabs().pages(environment));
        pages + registry.shared.internal().map(|slabs| slabs.pages(environment)).sum::<usize>()
    }

    /// Calls `look` with the statistics of each cache, internal ones last. No lock is held during
    /// the call. `look` must not destroy a cache of the registry: that waits for the end of the
    /// visit, for ever. A panic in it leaves the registry as it was. O(slabs). Example: see
    /// [`Registry`].
    pub fn stats(&self, mut look: impl FnMut(&CacheStats)) {
        let registry = self.inner();
        registry.visit(|cache| look(&cache.stats()));
        for slabs in registry.shared.internal() {
            look(&CacheStats::of_slabs(slabs, registry.environment()));
        }
    }

    /// Returns the pages of caches whose objects can be freed on demand, and of all others,
    /// internal ones and the registry itself among them: the kernel's `SReclaimable` and
    /// `SUnreclaim`. O(caches), takes their locks. Example: see [`Totals`].
    pub fn totals(&self) -> Totals {
        let registry = self.inner();
        let mut reclaimable = 0;
        registry.visit(|cache| {
            if cache.slabs().settings.is_reclaimable {
                reclaimable += cache.slabs().pages(registry.environment());
            }
        });
        Totals { reclaimable, unreclaimable: self.pages_held().saturating_sub(reclaimable) }
    }

    /// Calls `look` with each slab of each cache and the cache's name, internal caches last. The
    /// lock of the cache's slab set is held, so `look` must use no cache and destroy none. A panic
    /// in it leaves the registry as it was. O(slabs). Example: see [`Registry`].
    pub fn for_each_slab(&self, mut look: impl FnMut(CacheName, SlabView)) {
        let registry = self.inner();
        let environment = registry.environment();
        registry.visit(|cache| {
            let name = cache.slabs().settings.name;
            for_each_slab(cache.slabs(), environment, |slab| look(name, slab));
        });
        for slabs in registry.shared.internal() {
            for_each_slab(slabs, environment, |slab| look(slabs.settings.name, slab));
        }
    }

    /// Writes all caches in the text of the kernel's `/proc/slabinfo`, version 2.1. O(slabs), takes
    /// the locks of the caches. Example: see [`Registry`].
    ///
    /// # Errors
    /// Those of `out`.
    pub fn slabinfo(&self, out: &mut impl fmt::Write) -> fmt::Result {
        out.write_str(SLABINFO_HEADER)?;
        let mut outcome = Ok(());
        self.stats(|stats| {
            if outcome.is_ok() {
                outcome = stats.write_slabinfo(out);
            }
        });
        outcome
    }

    /// Checks the invariants of all caches, see [`Cache::validate`](crate::Cache::validate). Other
    /// CPUs may use the caches meanwhile. O(objects), takes their locks.
    /// Example: see [`Registry`].
    ///
    /// # Errors
    /// Names the first invariant that does not hold.
    pub fn validate(&self) -> Result<(), Violation> {
        let registry = self.inner();
        let environment = registry.environment();
        let mut outcome = Ok(());
        registry.visit(|cache| {
            outcome = outcome.and_then(|()| validate_cache(cache));
        });
        registry
            .shared
            .internal()
            .try_fold((), |(), slabs| validate(slabs, environment))
            .and(outcome)
    }

    /// Checks all that [`validate`](Self::validate) checks, and the objects in magazines, as
    /// [`Cache::validate_quiet`](crate::Cache::validate_quiet) does, except for marks. Call it
    /// only while no other call uses a cache of the registry.
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
    /// registry.validate_quiet()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Names the first invariant that does not hold.
    pub fn validate_quiet(&self) -> Result<(), Violation> {
        let mut outcome = self.validate();
        self.inner().visit(|cache| {
            outcome = outcome.and_then(|()| validate_magazines::<S, Off>(cache));
        });
        outcome
    }

    /// Releases all pages that hold no object in use, except the slabs that
    /// [`keep_at_least`](crate::CacheBuilder::keep_at_least) keeps, after the caches'
    /// [`reclaim`](crate::CacheBuilder::reclaim) callbacks have freed what they can; returns how
    /// many. Waits for locks, and as [`Cache::shrink_all`](crate::Cache::shrink_all) does for grace
    /// periods. Example: see [`Registry`].
    pub fn shrink_all(&self) -> usize {
        pressure::shrink(self.inner(), usize::MAX, Patience::Wait)
    }

    /// Releases at least `target_pages` if it can; returns how many. Only tries the locks of
    /// caches.
    ///
    /// First what each cache did not need since it was last aged, then empty slabs of all, then
    /// magazines, then internal caches, then objects that the caches'
    /// [`reclaim`](crate::CacheBuilder::reclaim) callbacks free. Example: see [`Registry`].
    pub fn shrink(&self, target_pages: usize) -> usize {
        pressure::shrink(self.inner(), target_pages, Patience::Try)
    }

    /// Releases pages as [`shrink`](Self::shrink) does, but calls no callback. Does nothing where
    /// the source has more than 64 MiB.
    #[doc(hidden)]
    pub fn shrink_unused(&self, target_pages: usize) -> usize {
        let registry = self.inner();
        if !pressure::has_few_pages(registry) {
            return 0;
        }
        pressure::shrink_unused(registry, target_pages, Patience::Try)
    }

    /// Releases pages that hold no object in use: those of each cache's depot, of the magazines of
    /// the caller's CPU, and empty slabs. The magazines of other CPUs and the internal caches stay
    /// as they are, no callback is called, and it only tries the locks of caches. So no CPU is
    /// fenced. Returns how many pages. O(caches). Example: see [`Registry`].
    pub fn shrink_own(&self) -> usize {
        let registry = self.inner();
        let mut released = 0;
        registry.visit(|cache| released += cache.shrink_own(Patience::Try));
        released
    }

    /// Ages all caches: each releases the magazines of its depot and the empty slabs that it did
    /// not need since it was last aged. Only tries the locks of caches, allocates nothing, and
    /// leaves the magazines in CPU slots alone. Does nothing while another CPU ages the caches, or
    /// inside an interrupt that found a lock held. O(caches).
    ///
    /// The registry ages its caches by itself, by the pages that they take and release, a few
    /// caches at each miss. A system with a clock calls this at intervals too: then caches release
    /// memory also when no cache takes pages. Example: see [`Registry`].
    pub fn age(&self) {
        age(self.inner());
    }

    /// Freezes the CPU slots of all caches while the guard lives, see
    /// [`PerCpu::freeze`](page_frame::PerCpu::freeze): for a caller that is about to `fork`. `own`
    /// is the caller's CPU, for whose slot the call does not wait. Caches built meanwhile are not
    /// frozen. Waits while another guard lives. O(caches times CPUs), and a heavy fence for each
    /// cache. Example: see [`FrozenSlots`].
    pub fn freeze_slots(&self, own: Option<CpuId>) -> FrozenSlots<'_, S> {
        FrozenSlots::new(self.inner(), own)
    }

    /// Returns the CPUs. Example: see [`Registry::with_fault_hook`].
    #[inline(always)]
    pub fn cpu(&self) -> &S::Cpus {
        self.inner().environment().locking.cpu()
    }

    /// Returns a number of bytes that is enough for a registry on a machine with `cpus` CPU slots,
    /// and if `is_cache` for its first cache too; in whole pages. `None` on overflow.
    #[doc(hidden)]
    pub fn needed_bytes(cpus: usize, is_cache: bool) -> Option<usize> {
        RegistryInner::<S>::needed_bytes(cpus, is_cache)
    }

    /// Returns a per-CPU handle that never hits.
    #[doc(hidden)]
    pub fn closed_handle(&self) -> PerCpuHandle {
        PerCpuHandle::of(&self.inner().environment().locking)
    }

    #[inline(always)]
    pub(crate) fn inner(&self) -> &RegistryInner<S> {
        // SAFETY: registry I1: this handle has a reference.
        unsafe { self.inner.as_ref() }
    }

    /// Returns a pointer to the registry. The caller keeps the handle while it uses the pointer.
    pub(crate) fn pointer(&self) -> NonNull<RegistryInner<S>> {
        self.inner
    }
}

impl<S: System> Clone for Registry<S> {
    fn clone(&self) -> Self {
        self.inner().add_reference();
        Self { inner: self.inner }
    }
}

impl<S: System> Drop for Registry<S> {
    fn drop(&mut self) {
        // SAFETY: clause 1 of `release`: the handle owns a reference, and is not used again.
        unsafe { RegistryInner::release(self.inner) };
    }
}

impl<S: System> fmt::Debug for Registry<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("pages_held", &self.pages_held()).finish()
    }
}

impl<S: System<Pages: Send + Sync, Cpus: Send + Sync>> Shrink for Registry<S> {
    fn reclaimable(&self) -> usize {
        let registry = self.inner();
        let mut pages = 0;
        registry.visit(|cache| pages += cache.slabs().reclaimable(registry.environment()));
        pages
    }

    fn shrink(&self, target_pages: usize) -> usize {
        Self::shrink(self, target_pages)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    extern crate std;
    use core::alloc::Layout;
    use core::mem::MaybeUninit;
    use std::vec;

    use page_frame::{Arena, EnterError, SwitchedCpu};

    use page_frame::sync::Ordering;

    use super::*;

    /// Mutations that it catches: a guard that freezes nothing; one that thaws nothing.
    #[test]
    fn nobody_enters_frozen_slots_and_objects_come_and_go_without() {
        let mut memory = vec![MaybeUninit::uninit(); 256 << 10];
        let arena = Arena::new(&mut memory).expect("large enough");
        let registry = Registry::new(&arena, SwitchedCpu::new(2)).expect("room");
        let layout = Layout::new::<[u64; 4]>();
        let build = |name| registry.cache(name, layout).build().expect("room");
        let cache = build("before");
        let frozen = registry.freeze_slots(None);
        assert!(registry.inner().is_frozen.load(Ordering::Relaxed));
        assert_eq!(cache.inner().percpu.slots.enter().err(), Some(EnterError::Detached));
        let object = cache.allocate().expect("room");
        // SAFETY: from this cache, and not used.
        unsafe { cache.free(object) };
        let later = build("meanwhile");
        assert!(later.inner().percpu.slots.enter().is_ok());
        drop(frozen);
        assert!(!registry.inner().is_frozen.load(Ordering::Relaxed));
        assert!(
            cache.inner().percpu.slots.enter().is_ok()
                && later.inner().percpu.slots.enter().is_ok()
        );
    }
}
