//! A registry without its handles: the part that the caches share, and the list of the caches.
//!
//! # Invariants
//! - I1: the value lives while it has references: registry handles and caches. The release of the
//!   last one frees its memory.
//! - I2: every cache that users made is in the list until it is destroyed or abandoned.

use core::ptr::NonNull;

use page_frame::sync::{AtomicBool, AtomicUsize, Ordering};
use page_frame::{Cpu, FaultHook, Order, OutOfMemory, PAGE_SIZE, PageMap, PageSource, TagRange};

use crate::cache_inner::cache_list::CacheList;
use crate::cache_inner::depot::Depot;
use crate::cache_inner::shared::{InternalCaches, Shared, free_slot_block};
use crate::cache_inner::sizing::MagazineSizing;
use crate::cache_inner::{CacheInner, ReclaimHook};
use crate::own_memory::OwnMemory;
use crate::patience::{Patience, Reclaim};
use crate::percpu::slot::CacheSlots;
use crate::percpu::slot_arena::{SlotArena, slots_behind, slots_in};
use crate::slabs::clock::{AgingClock, AgingPace};
use crate::slabs::environment::Environment;
use crate::slabs::layout::geometry::Geometry;
use crate::slabs::settings::CacheSettings;
use crate::system::System;

/// A registry. It lies in memory of its page source.
#[repr(C)]
pub(crate) struct RegistryInner<S: System> {
    /// First, as caches point to it and cast that pointer to the registry (cache I2).
    pub(crate) shared: Shared<S>,
    pub(crate) list: CacheList<CacheInner<S>>,
    references: AtomicUsize,
    /// Set while the slots of all caches are frozen.
    pub(crate) is_frozen: AtomicBool,
    memory: OwnMemory,
}

impl<S: System> RegistryInner<S> {
    /// The bytes of a registry, in whole lines.
    const OWN_BYTES: usize = size_of::<Self>().next_multiple_of(64);

    /// Returns the bytes of a registry with its slots.
    fn bytes(cpus: usize) -> Option<usize> {
        slots_behind::<S::Cpus>(cpus)?.checked_add(Self::OWN_BYTES)
    }

    /// Returns bytes that are enough for a registry for `cpus` CPUs, and for its first cache if
    /// there `is_cache`.
    pub(crate) fn needed_bytes(cpus: usize, is_cache: bool) -> Option<usize> {
        let block = |order: Option<Order>| Some(order?.bytes() * 2);
        let slots = if SlotArena::<S::Cpus>::IS_USED {
            block(SlotArena::<S::Cpus>::order(cpus))?
        } else {
            0
        };
        let caches = Geometry::new(cache_bytes::<S>(cpus)?, 64, 64).ok()?;
        // Slabs of the cache, of magazines and of headers outside their slabs.
        let cache = if is_cache { block(Some(caches.order()))? + 8 * PAGE_SIZE } else { 0 };
        Self::bytes(cpus)?.checked_add(slots)?.checked_add(cache)
    }

    /// Makes a registry, and returns it with one reference, which the caller owns.
    ///
    /// # Errors
    /// [`OutOfMemory`] when `source` has no block for it, or none for the first slots.
    pub(crate) fn make(
        source: S::Pages,
        cpu: S::Cpus,
        hook: FaultHook,
    ) -> Result<NonNull<Self>, OutOfMemory> {
        let count = cpu.slots();
        let (own_bytes, bytes) = (Self::OWN_BYTES, Self::bytes(count).ok_or(OutOfMemory)?);
        let cache_size = cache_bytes::<S>(count).ok_or(OutOfMemory)?;
        let caches = Geometry::new(cache_size, 64, 64).map_err(|_| OutOfMemory)?;
        // Behind the slots, where there is a page for the registry anyway.
        let all_bytes = bytes.checked_add(size_of::<InternalCaches>()).ok_or(OutOfMemory)?;
        let (start, memory) = match OwnMemory::allocate_bytes(&source, bytes, Reclaim::Allowed) {
            Some(start) => (start, OwnMemory::Bytes),
            None => OwnMemory::allocate(&source, all_bytes, Reclaim::Allowed)?,
        };
        let mut slot_arena = SlotArena::<S::Cpus>::new();
        if SlotArena::<S::Cpus>::IS_USED {
            let order = SlotArena::<S::Cpus>::order(count).ok_or(OutOfMemory);
            match order.and_then(|order| source.allocate(order)) {
                Ok(slots) => slot_arena.add(slots),
                Err(error) => {
                    // SAFETY: clause 1: just allocated from this source.
                    unsafe { memory.free(&source, start) };
                    return Err(error);
                }
            }
        }
        let slots = match slot_arena.take(count) {
            Some(row) => row,
            None => {
                assert!(!SlotArena::<S::Cpus>::IS_USED, "slot arena I3: the first block has a row");
                // SAFETY: the slots follow the registry, inside its memory.
                let slots = unsafe { start.add(own_bytes) };
                // SAFETY: clause 1 of `slots_in`: our memory has room there for `count` slots,
                // aligned to 64.
                unsafe { slots_in(slots, count) }
            }
        };
        // SAFETY: clause 1 of `CacheSlots::at`: there is a slot for each CPU, at the distance of a
        // row or an array; they live as long as the registry. Clause 2: there is one such value
        // besides the handles, which are of the same machine.
        let locking = unsafe { CacheSlots::at(slots, count, cpu) };
        let has_clock = <S::Cpus as Cpu>::HAS_MISS_HOOK;
        let pace = if has_clock { AgingPace::BESIDE_TIME } else { AgingPace::BY_TRAFFIC };
        let (range, aging) = (TagRange::EMPTY, AgingClock::new(pace));
        let environment = Environment { source, range, locking, hook, aging };
        const {
            let largest = if align_of::<Self>() > align_of::<InternalCaches>() {
                align_of::<Self>()
            } else {
                align_of::<InternalCaches>()
            };
            assert!(largest <= 64, "the memory is aligned to 64");
        };
        let made = Self {
            shared: Shared::new(environment, slot_arena),
            list: CacheList::new(),
            references: AtomicUsize::new(1),
            is_frozen: AtomicBool::new(false),
            memory,
        };
        let this = start.cast::<Self>();
        // SAFETY: the memory is ours, large enough, and aligned to 64.
        unsafe { this.write(made) };
        if let OwnMemory::Block(_) = memory {
            // SAFETY: `all_bytes` includes the internal caches behind the slots.
            let place = unsafe { start.add(bytes) }.cast::<InternalCaches>();
            // SAFETY: ours, and aligned to 64, as the bytes in front of it are whole lines.
            unsafe { place.write(InternalCaches::new(cache_size, caches, None)) };
            // SAFETY: the registry was just written.
            let shared = unsafe { &(*this.as_ptr()).shared };
            // SAFETY: clause 1 of `set_internal`: written above, and it stays with the registry.
            unsafe { shared.set_internal(place) }.expect("it is the first one");
        }
        // SAFETY: the registry was just written, and no other code has it.
        let environment = unsafe { &mut (*this.as_ptr()).shared.slab_source.environment };
        // Only now, as the source does not move any more.
        environment.range = environment.source.tag_range();
        Ok(this)
    }

    /// Adds a reference. The caller has one already.
    ///
    /// # Panics
    /// When so many handles were forgotten that the count would overflow, and the registry would be
    /// freed in use.
    pub(crate) fn add_reference(&self) {
        // Relaxed: the caller has a reference; only the last release has to see everything.
        let before = self.references.fetch_add(1, Ordering::Relaxed);
        if before > isize::MAX as usize {
            // Relaxed: undoes the addition, as no caller gets this reference.
            self.references.fetch_sub(1, Ordering::Relaxed);
            panic!("a registry has at most isize::MAX handles and caches");
        }
    }

    /// Releases a reference; the last release frees all pages of the registry.
    ///
    /// # Safety
    /// 1. The caller owns the reference, and does not use it again.
    pub(crate) unsafe fn release(this: NonNull<Self>) {
        // SAFETY: clause 1: the reference keeps the registry alive until it is given up below.
        let registry = unsafe { this.as_ref() };
        // AcqRel: the last release sees what all others did.
        if registry.references.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let source = &registry.shared.slab_source;
        for slabs in registry.shared.internal().rev() {
            slabs.release_empty(source, usize::MAX, 0, Patience::Wait);
        }
        let internal = registry.shared.internal_pointer();
        let internal_memory = registry.shared.internal_caches().and_then(|caches| caches.memory);
        let (memory, cpus) = (registry.memory, registry.environment().locking.count());
        // SAFETY: it was the last reference: the value is moved out, and its memory is not used as
        // a registry again.
        let (source, mut slot_arena) = unsafe { this.read() }.shared.into_parts();
        // SAFETY: clause 1 of `remove`: no cache is left, and the registry's own slots are not used
        // any more.
        while let Some(block) = unsafe { slot_arena.remove() } {
            // SAFETY: clause 1 of `free_slot_block`: the arena gave the block up, which came from
            // this source.
            unsafe { free_slot_block::<S>(&source, block, cpus) };
        }
        if let (Some(caches), Some(own)) = (internal, internal_memory) {
            // SAFETY: clause 1: it came from this source, and its caches have no slab any more.
            unsafe { own.free(&source, caches.cast()) };
        }
        // SAFETY: clause 1: it came from this source, and no reference to the registry is left.
        unsafe { memory.free(&source, this.cast()) };
    }

    pub(crate) fn environment(&self) -> &Environment<S> {
        self.shared.environment()
    }

    /// Calls `look` with each cache that users made. None is destroyed meanwhile, and no lock is
    /// held.
    pub(crate) fn visit(&self, look: impl FnMut(&CacheInner<S>)) {
        self.list.visit(&self.environment().locking, look);
    }

    /// Returns the pages of the registry itself, of the slot arena, and of all bytes that the
    /// source has allocated.
    pub(crate) fn own_pages(&self) -> usize {
        let bytes = self.environment().source.byte_source();
        let byte_pages = bytes.map_or(0, |bytes| bytes.byte_pages());
        self.memory.pages() + self.shared.slot_pages() + byte_pages
    }

    /// Makes a cache, links it into the list, and adds a reference to the registry. Fails also in a
    /// nested context that found the list's lock held.
    ///
    /// # Safety
    /// 1. The caller owns a reference to `this`.
    pub(crate) unsafe fn make_cache(
        this: NonNull<Self>,
        settings: CacheSettings,
        reclaim_hook: Option<ReclaimHook>,
        sizing: MagazineSizing,
        depot: Depot,
        reclaim: Reclaim,
    ) -> Result<NonNull<CacheInner<S>>, OutOfMemory> {
        // SAFETY: clause 1: the caller's reference keeps the registry alive.
        let registry = unsafe { this.as_ref() };
        let (shared, locking) = (&registry.shared, &registry.environment().locking);
        // First, as the user's `clone` may panic.
        let (count, cpu) = (locking.count(), locking.cpu().clone());
        let internal = registry.internal_caches(reclaim)?;
        let memory = internal.caches.take_internal(&shared.slab_source, reclaim)?;
        let mut held = MemoryGuard { shared, memory: Some(memory) };
        let slots = match shared.take_slots()? {
            Some(row) => row,
            None => {
                // SAFETY: the slots follow the cache, inside the memory.
                let slots = unsafe { memory.add(size_of::<CacheInner<S>>()) };
                // SAFETY: clause 1 of `slots_in`: `cache_bytes` left room for `count` slots,
                // aligned to 64.
                unsafe { slots_in(slots, count) }
            }
        };
        held.memory = None;
        // SAFETY: clause 1 of `CacheSlots::at`: a row or an array of ours, with a slot for each
        // CPU, which lives as long as the cache. Clause 2: per-CPU handles have clones of the same
        // machine, or references to it, and no code visits all slots.
        let slots = unsafe { CacheSlots::at(slots, count, cpu) };
        let cache = memory.cast::<CacheInner<S>>();
        let made = CacheInner::new(this.cast(), slots, settings, reclaim_hook, sizing, depot);
        // SAFETY: our memory has the size and alignment of a cache.
        unsafe { cache.write(made) };
        // SAFETY: clause 1 of `link`: the cache was just made; `detach` or `abandon` unlinks it.
        if !unsafe { registry.list.link(cache, locking) } {
            // SAFETY: clause 1 of `free_cache`: the cache is in no list, has no slab, and no other
            // code has it.
            unsafe { registry.free_cache(cache) };
            return Err(OutOfMemory);
        }
        registry.add_reference();
        Ok(cache)
    }

    /// Releases all slabs of a cache and takes it out of the list. If a destructor panics, the
    /// cache stays closed, and the caller calls `detach` again.
    ///
    /// # Errors
    /// How many objects are in use; the cache stays usable. Zero in a nested context that found the
    /// list's lock held.
    ///
    /// # Safety
    /// 1. `cache` came from `make_cache`. The caller has its only handle, and after a success only
    ///    frees the cache.
    pub(crate) unsafe fn detach(&self, cache: NonNull<CacheInner<S>>) -> Result<(), usize> {
        let locking = &self.environment().locking;
        // SAFETY: clause 1: the caller's handle keeps the cache alive.
        let inner = unsafe { cache.as_ref() };
        if !self.list.close(inner, locking) {
            return Err(0);
        }
        inner.shrink(usize::MAX, Patience::Wait);
        let slabs = inner.slabs().count(self.environment());
        // SAFETY: clause 1 of `unlink`: the cache is closed, and by clause 1 still in the list.
        if slabs > 0 || !unsafe { self.list.unlink(cache, locking) } {
            self.list.reopen(inner);
            return Err(inner.stats().objects_active);
        }
        Ok(())
    }

    /// Takes a cache that could not be destroyed out of the list, so that it is not visited any
    /// more.
    ///
    /// # Safety
    /// 1. As for `detach`, which has failed; the handle is not used again.
    pub(crate) unsafe fn abandon(&self, cache: NonNull<CacheInner<S>>) {
        let locking = &self.environment().locking;
        // SAFETY: clause 1: the cache was not destroyed, so it lives.
        if self.list.close(unsafe { cache.as_ref() }, locking) {
            // SAFETY: clause 1 of `unlink`: the cache is closed, and still in the list.
            unsafe { self.list.unlink(cache, locking) };
        }
    }

    /// Frees the memory of a cache and its slots.
    ///
    /// # Safety
    /// 1. `cache` is in no list, no code uses it, and it has no slab.
    pub(crate) unsafe fn free_cache(&self, cache: NonNull<CacheInner<S>>) {
        // SAFETY: clause 1: the cache lives until this function drops it.
        let slots = unsafe { cache.as_ref() }.percpu.slots.first();
        // SAFETY: clause 1: no other code uses the cache, and it is dropped only here.
        unsafe { cache.drop_in_place() };
        if SlotArena::<S::Cpus>::IS_USED {
            // SAFETY: clause 1 of `give_slots`: the cache's row; by clause 1 its slots are unused.
            unsafe { self.shared.give_slots(slots) };
        }
        self.shared.give_cache(cache.cast());
    }

    /// Returns the internal caches, and makes them if this is the first time that they are needed.
    fn internal_caches(&self, reclaim: Reclaim) -> Result<&InternalCaches, OutOfMemory> {
        match self.shared.internal_caches() {
            Some(caches) => Ok(caches),
            None => self.make_internal_caches(reclaim),
        }
    }

    #[cold]
    fn make_internal_caches(&self, reclaim: Reclaim) -> Result<&InternalCaches, OutOfMemory> {
        let environment = self.environment();
        let size = cache_bytes::<S>(environment.locking.count()).ok_or(OutOfMemory)?;
        let geometry = Geometry::new(size, 64, 64).map_err(|_| OutOfMemory)?;
        let source = &environment.source;
        let (start, memory) = OwnMemory::allocate(source, size_of::<InternalCaches>(), reclaim)?;
        let place = start.cast::<InternalCaches>();
        // SAFETY: just allocated, of that size, and aligned to 64.
        unsafe { place.write(InternalCaches::new(size, geometry, Some(memory))) };
        // SAFETY: clause 1 of `set_internal`: written above; the registry frees it at its end.
        unsafe { self.shared.set_internal(place) }.or_else(|first| {
            // SAFETY: clause 1: allocated above; no other code has seen it.
            unsafe { memory.free(source, start) };
            Ok(first)
        })
    }
}

/// The memory of a cache that is not made yet. Dropping it frees the memory.
struct MemoryGuard<'r, S: System> {
    shared: &'r Shared<S>,
    memory: Option<NonNull<u8>>,
}

impl<S: System> Drop for MemoryGuard<'_, S> {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.shared.give_cache(memory);
        }
    }
}

/// Returns the bytes of a cache, and of its slots if they follow it in memory.
fn cache_bytes<S: System>(slots: usize) -> Option<usize> {
    slots_behind::<S::Cpus>(slots)?.checked_add(size_of::<CacheInner<S>>())
}
