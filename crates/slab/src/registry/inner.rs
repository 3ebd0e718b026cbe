//! A registry without its handles: what the caches share, and the list of the caches.
//!
//! # Invariants
//! - I1: the value lives while it has references: registry handles and caches. The last one returns
//!   its block of pages.
//! - I2: every cache that users made is in the list until it is destroyed.

use core::ptr::NonNull;

use page_frame::sync::{AtomicBool, AtomicUsize, Ordering};
use page_frame::{Cpu, FaultHook, Order, OutOfMemory, PageBlock, PageMap, PageSource, TagRange};

use crate::cache_inner::cache_list::CacheList;
use crate::cache_inner::shared::{Shared, free_slot_block};
use crate::cache_inner::sizing::MagazineSizing;
use crate::cache_inner::{CacheInner, ReclaimHook};
use crate::patience::{Patience, Reclaim};
use crate::percpu::slot::CacheSlots;
use crate::percpu::slot_arena::{SlotArena, slots_behind, slots_in};
use crate::slabs::clock::AgingClock;
use crate::slabs::environment::Environment;
use crate::slabs::geometry::Geometry;
use crate::slabs::settings::CacheSettings;
use crate::system::System;

/// A registry, in a block of its page source that is held from its first moment to its last.
#[repr(C)]
pub(crate) struct RegistryInner<S: System> {
    /// First, as caches point to it and cast that pointer to the registry (cache I2).
    pub(crate) shared: Shared<S>,
    pub(crate) list: CacheList<CacheInner<S>>,
    references: AtomicUsize,
    /// Set while the slots of all caches are frozen.
    pub(crate) is_frozen: AtomicBool,
    order: Order,
}

impl<S: System> RegistryInner<S> {
    /// Makes a registry, and returns it with one reference, which is the caller's.
    ///
    /// # Errors
    /// [`OutOfMemory`] when `source` has no block for it, or none for the first slots.
    pub(crate) fn make(
        source: S::Pages,
        cpu: S::Cpus,
        hook: FaultHook,
    ) -> Result<NonNull<Self>, OutOfMemory> {
        let count = cpu.slots();
        let slots_bytes = slots_behind::<S::Cpus>(count).ok_or(OutOfMemory)?;
        let own_bytes = size_of::<Self>().next_multiple_of(64);
        let bytes = slots_bytes.checked_add(own_bytes).ok_or(OutOfMemory)?;
        let order = Order::for_bytes(bytes).ok_or(OutOfMemory)?.order;
        let cache_size = cache_bytes::<S>(count).ok_or(OutOfMemory)?;
        let caches = Geometry::new(cache_size, 64, 64).map_err(|_| OutOfMemory)?;
        let block = source.allocate(order)?;
        let mut slot_arena = SlotArena::<S::Cpus>::new();
        if SlotArena::<S::Cpus>::IS_USED {
            let order = SlotArena::<S::Cpus>::order(count).ok_or(OutOfMemory);
            match order.and_then(|order| source.allocate(order)) {
                Ok(slots) => slot_arena.add(slots),
                Err(error) => {
                    // SAFETY: just allocated from this source.
                    unsafe { source.free(block) };
                    return Err(error);
                }
            }
        }
        let (start, _) = block.into_raw();
        let slots = match slot_arena.take(count) {
            Some(row) => row,
            None => {
                assert!(!SlotArena::<S::Cpus>::IS_USED, "slot arena I3: the first block has a row");
                // SAFETY: behind the registry, inside the block.
                let slots = unsafe { start.add(own_bytes) };
                // SAFETY: ours, for `count` slots, aligned to 64.
                unsafe { slots_in(slots, count) }
            }
        };
        // SAFETY: clause 1: as many as CPUs, as far apart as they are in a row or an array; they
        // live as long as the registry. Clause 2: there is one such value, beside the handles,
        // which are of the same machine.
        let locking = unsafe { CacheSlots::at(slots, count, cpu) };
        let (range, aging) = (TagRange::EMPTY, AgingClock::new());
        let environment = Environment { source, range, locking, hook, aging };
        let made = Self {
            shared: Shared::new(environment, slot_arena, cache_size, caches),
            list: CacheList::new(),
            references: AtomicUsize::new(1),
            is_frozen: AtomicBool::new(false),
            order,
        };
        let this = start.cast::<Self>();
        // SAFETY: the block is ours, large enough, aligned to a page.
        unsafe { this.write(made) };
        // SAFETY: just written, and no other code has it.
        let environment = unsafe { &mut (*this.as_ptr()).shared.slab_source.environment };
        // The source is in its final place from here on.
        environment.range = environment.source.tag_range();
        Ok(this)
    }

    /// Adds a reference for a caller that keeps one alive.
    ///
    /// # Panics
    /// When handles were forgotten so often that the count would overflow, and the registry be
    /// freed while it is used.
    pub(crate) fn add_reference(&self) {
        // Relaxed: whoever adds one has one; only the last release has to see everything.
        let before = self.references.fetch_add(1, Ordering::Relaxed);
        if before > isize::MAX as usize {
            // Relaxed: the reference that is not handed out.
            self.references.fetch_sub(1, Ordering::Relaxed);
            panic!("a registry has at most isize::MAX handles and caches");
        }
    }

    /// Gives a reference up; the last one returns all pages of the registry.
    ///
    /// # Safety
    /// 1. The caller has that reference, and does not use it again.
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
        let (order, cpus) = (registry.order, registry.environment().locking.count());
        // SAFETY: it was the last reference: the value is moved out, and its memory is not used as
        // a registry again.
        let (source, mut slot_arena) = unsafe { this.read() }.shared.into_parts();
        // SAFETY: no slot is used: no cache is left, and the registry's own slots end here.
        while let Some(block) = unsafe { slot_arena.remove() } {
            // SAFETY: the arena gave it up, and it came from this source.
            unsafe { free_slot_block::<S>(&source, block, cpus) };
        }
        // SAFETY: the block that `make` took apart.
        let block = unsafe { PageBlock::from_raw(this.cast(), order, false) };
        // SAFETY: from this source, and no reference is left.
        unsafe { source.free(block) };
    }

    pub(crate) fn environment(&self) -> &Environment<S> {
        self.shared.environment()
    }

    /// Calls `look` with each cache that users made. None is destroyed meanwhile, and no lock is
    /// held.
    pub(crate) fn visit(&self, look: impl FnMut(&CacheInner<S>)) {
        self.list.visit(&self.environment().locking, look);
    }

    /// Returns the pages that no cache holds: the registry's, and those of slots.
    pub(crate) fn own_pages(&self) -> usize {
        self.order.pages() + self.shared.slot_pages()
    }

    /// Makes a cache and puts it into the list; the registry then has one reference more. Fails too
    /// for a nested context that found the list's lock held.
    ///
    /// # Safety
    /// 1. `this` has a reference of the caller's.
    pub(crate) unsafe fn make_cache(
        this: NonNull<Self>,
        settings: CacheSettings,
        reclaim_hook: Option<ReclaimHook>,
        sizing: MagazineSizing,
        reclaim: Reclaim,
    ) -> Result<NonNull<CacheInner<S>>, OutOfMemory> {
        // SAFETY: clause 1: the reference keeps it alive.
        let registry = unsafe { this.as_ref() };
        let (shared, locking) = (&registry.shared, &registry.environment().locking);
        // First, as a clone of the user's may panic.
        let (count, cpu) = (locking.count(), locking.cpu().clone());
        let memory = shared.caches.take_internal(&shared.slab_source, reclaim)?;
        let mut held = MemoryGuard { shared, memory: Some(memory) };
        let slots = match shared.take_slots()? {
            Some(row) => row,
            None => {
                // SAFETY: behind the cache, inside the memory.
                let slots = unsafe { memory.add(size_of::<CacheInner<S>>()) };
                // SAFETY: ours, `cache_bytes` left room for `count` slots, aligned to 64.
                unsafe { slots_in(slots, count) }
            }
        };
        held.memory = None;
        // SAFETY: clause 1: ours: a row, or an array that lives as long as the cache; as many as
        // CPUs. Clause 2: per-CPU handles have clones of the same machine, or references to it, and
        // no code visits all slots.
        let slots = unsafe { CacheSlots::at(slots, count, cpu) };
        let cache = memory.cast::<CacheInner<S>>();
        let made = CacheInner::new(this.cast(), slots, settings, reclaim_hook, sizing);
        // SAFETY: ours, of the size and alignment of a cache.
        unsafe { cache.write(made) };
        // SAFETY: just made; `detach` unlinks it before it dies.
        if !unsafe { registry.list.link(cache, locking) } {
            // SAFETY: in no list, and no other code has seen it.
            unsafe { registry.free_cache(cache) };
            return Err(OutOfMemory);
        }
        registry.add_reference();
        Ok(cache)
    }

    /// Releases all slabs of a cache and takes it out of the list. Where a destructor panics, the
    /// cache stays closed, and the caller does it again.
    ///
    /// # Errors
    /// How many objects are in use: then the cache goes on. None are where a nested context found
    /// the list's lock held.
    ///
    /// # Safety
    /// 1. `cache` came from `make_cache`; its only handle calls this, and if it succeeds only frees
    ///    the cache.
    pub(crate) unsafe fn detach(&self, cache: NonNull<CacheInner<S>>) -> Result<(), usize> {
        let locking = &self.environment().locking;
        // SAFETY: clause 1: the handle's cache, which lives until it is freed.
        let inner = unsafe { cache.as_ref() };
        if !self.list.close(inner, locking) {
            return Err(0);
        }
        inner.shrink(usize::MAX, Patience::Wait);
        let slabs = inner.slabs().count(self.environment());
        // SAFETY: it is closed, and clause 1: still in the list.
        if slabs > 0 || !unsafe { self.list.unlink(cache, locking) } {
            self.list.reopen(inner);
            return Err(inner.stats().objects_active);
        }
        Ok(())
    }

    /// Takes a cache that could not be destroyed out of the list: no visitor comes to it any more.
    ///
    /// # Safety
    /// 1. As for `detach`, which failed; the handle is not used again.
    pub(crate) unsafe fn abandon(&self, cache: NonNull<CacheInner<S>>) {
        let locking = &self.environment().locking;
        // SAFETY: clause 1: it was not destroyed, so it lives.
        if self.list.close(unsafe { cache.as_ref() }, locking) {
            // SAFETY: it is closed, and still in the list.
            unsafe { self.list.unlink(cache, locking) };
        }
    }

    /// Frees the memory of a cache and its slots.
    ///
    /// # Safety
    /// 1. `cache` is in no list, no code uses it, and it has no slab.
    pub(crate) unsafe fn free_cache(&self, cache: NonNull<CacheInner<S>>) {
        // SAFETY: clause 1: it lives, and its slots are unused.
        let slots = unsafe { cache.as_ref() }.percpu.slots.first();
        // SAFETY: clause 1: the last time that anybody uses it.
        unsafe { cache.drop_in_place() };
        if SlotArena::<S::Cpus>::IS_USED {
            // SAFETY: the cache's row, and clause 1.
            unsafe { self.shared.give_slots(slots) };
        }
        let shared = &self.shared;
        shared.caches.give_internal(&shared.slab_source, Patience::Wait, cache.cast());
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
            let source = &self.shared.slab_source;
            self.shared.caches.give_internal(source, Patience::Wait, memory);
        }
    }
}

/// Returns the bytes of a cache, with its slots behind it if that is where they are.
fn cache_bytes<S: System>(slots: usize) -> Option<usize> {
    slots_behind::<S::Cpus>(slots)?.checked_add(size_of::<CacheInner<S>>())
}
