//! The part that all caches of a registry share: the source of slabs, the internal caches, and the
//! slot arena.
//!
//! # Concepts
//! Headers that do not fit in their slabs, magazines, and the caches themselves are objects of
//! **internal caches**. An internal cache is a [`Slabs`] alone: it has no CPU slots and no
//! magazines. So all memory of a registry comes from its page source. A registry whose source
//! serves bytes makes them with its first cache.
//!
//! # Invariants
//! - I1: the slab source's pointer to the headers is null, or to the first field of an
//!   [`InternalCaches`] that lives as long as the registry, the same for ever.

use core::ptr::{self, NonNull};

use page_frame::sync::{AtomicPtr, Ordering};
use page_frame::{IrqLock, Order, OutOfMemory, PageBlock, PageSource, PerCpuSlot};

use crate::own_memory::OwnMemory;
use crate::patience::Patience;
use crate::percpu::magazine::{CAPACITIES, Magazine};
use crate::percpu::slot::CpuSlot;
use crate::percpu::slot_arena::SlotArena;
use crate::slabs::environment::Environment;
use crate::slabs::layout::geometry::{Geometry, HEADER};
use crate::slabs::settings::CacheSettings;
use crate::slabs::{SlabSource, Slabs};
use crate::system::System;

/// The part that all caches of a registry share. It is the first field of the registry.
pub(crate) struct Shared<S: System> {
    pub(crate) slab_source: SlabSource<S>,
    /// The CPU slots of caches, on machines where slots do not follow their cache in memory.
    slot_arena: IrqLock<SlotArena<S::Cpus>>,
}

impl<S: System> Shared<S> {
    /// Makes the shared part, without internal caches.
    pub(crate) fn new(environment: Environment<S>, slot_arena: SlotArena<S::Cpus>) -> Self {
        Self {
            slab_source: SlabSource { environment, headers: AtomicPtr::new(ptr::null_mut()) },
            slot_arena: IrqLock::new(slot_arena),
        }
    }

    #[inline]
    pub(crate) fn environment(&self) -> &Environment<S> {
        &self.slab_source.environment
    }

    /// Returns the internal caches, if they have been made.
    #[inline]
    pub(crate) fn internal_caches(&self) -> Option<&InternalCaches> {
        // SAFETY: I1: it lives as long as the registry, and so as long as `self`.
        self.internal_pointer().map(|caches| unsafe { caches.as_ref() })
    }

    /// Returns a pointer to the internal caches, if they have been made.
    #[inline]
    pub(crate) fn internal_pointer(&self) -> Option<NonNull<InternalCaches>> {
        // Acquire: pairs with the Release in `set_internal`; sees the caches as they were made.
        NonNull::new(self.slab_source.headers.load(Ordering::Acquire)).map(NonNull::cast)
    }

    /// Sets the internal caches, unless they are set. Returns them.
    ///
    /// # Errors
    /// Those that are set already.
    ///
    /// # Safety
    /// 1. If this succeeds, `caches` is initialised and lives as long as the registry.
    pub(crate) unsafe fn set_internal(
        &self,
        caches: NonNull<InternalCaches>,
    ) -> Result<&InternalCaches, &InternalCaches> {
        let (null, headers) = (ptr::null_mut(), caches.cast().as_ptr());
        let place = &self.slab_source.headers;
        // Release: pairs with the Acquire in `internal_caches`; publishes the caches. Acquire on
        // failure: sees the other ones.
        let set = place.compare_exchange(null, headers, Ordering::Release, Ordering::Acquire);
        let is_set = set.is_ok();
        let caches = self.internal_caches().expect("they are set, here or before");
        if is_set { Ok(caches) } else { Err(caches) }
    }

    /// Returns the internal cache of the magazines of the capacity that `class` names. There is a
    /// cache that has asked for it, so the internal caches have been made.
    pub(crate) fn magazines(&self, class: usize) -> &Slabs {
        self.internal_caches().expect("they were made before the first cache").magazines(class)
    }

    /// Iterates over the internal caches.
    pub(crate) fn internal(&self) -> impl DoubleEndedIterator<Item = &Slabs> {
        self.internal_caches().into_iter().flat_map(InternalCaches::iter)
    }

    /// Frees the memory of a cache.
    pub(crate) fn give_cache(&self, memory: NonNull<u8>) {
        let internal = self.internal_caches().expect("the cache's memory is from them");
        internal.caches.give_internal(&self.slab_source, Patience::Wait, memory);
    }

    /// Takes a row of the slot arena for the slots of a cache; `None` on machines where slots
    /// follow their cache in memory. Fails also in a nested context that found the arena's lock
    /// held.
    pub(crate) fn take_slots(&self) -> Result<Option<NonNull<PerCpuSlot<CpuSlot>>>, OutOfMemory> {
        if !SlotArena::<S::Cpus>::IS_USED {
            return Ok(None);
        }
        let environment = self.environment();
        let cpus = environment.locking.count();
        let token = environment.lock_token();
        if let Some(row) = token.lock(&self.slot_arena).ok_or(OutOfMemory)?.take(cpus) {
            return Ok(Some(row));
        }
        // With no lock held. If another CPU does the same, there are two new blocks.
        let order = SlotArena::<S::Cpus>::order(cpus).ok_or(OutOfMemory)?;
        let block = environment.source.allocate(order)?;
        let Some(mut slot_arena) = token.lock(&self.slot_arena) else {
            // SAFETY: just allocated from this source.
            unsafe { environment.source.free(block) };
            return Err(OutOfMemory);
        };
        slot_arena.add(block);
        Ok(slot_arena.take(cpus))
    }

    /// Returns a row of slots to the arena.
    ///
    /// # Safety
    /// 1. The row came from `take_slots`, and its slots are unused.
    pub(crate) unsafe fn give_slots(&self, first: NonNull<PerCpuSlot<CpuSlot>>) {
        let environment = self.environment();
        let cpus = environment.locking.count();
        let token = environment.lock_token();
        let block = token.lock(&self.slot_arena).and_then(|mut slot_arena| {
            // SAFETY: clause 1.
            unsafe { slot_arena.give(first, cpus) }
        });
        if let Some(block) = block {
            // SAFETY: the arena has just given the block up, which came from our source.
            unsafe { free_slot_block::<S>(&environment.source, block, cpus) };
        }
    }

    /// Returns the pages of the slot arena.
    pub(crate) fn slot_pages(&self) -> usize {
        let environment = self.environment();
        let token = environment.lock_token();
        let blocks = token.lock(&self.slot_arena).map_or(0, |slot_arena| slot_arena.count());
        let order = SlotArena::<S::Cpus>::order(environment.locking.count());
        blocks * order.map_or(0, Order::pages)
    }

    /// Returns the page source and the slot arena, which outlive the rest at the end of the
    /// registry.
    pub(crate) fn into_parts(mut self) -> (S::Pages, SlotArena<S::Cpus>) {
        let slot_arena = core::mem::replace(self.slot_arena.get_mut(), SlotArena::new());
        (self.slab_source.environment.source, slot_arena)
    }
}

/// Returns a block of slots for `cpus` CPUs to the page source.
///
/// # Safety
/// 1. A [`SlotArena`] gave the block up, and it came from `source`.
pub(crate) unsafe fn free_slot_block<S: System>(
    source: &S::Pages,
    start: NonNull<u8>,
    cpus: usize,
) {
    let order = SlotArena::<S::Cpus>::order(cpus).expect("there was such a block");
    // SAFETY: clause 1: `SlotArena::add` took the block apart.
    let block = unsafe { PageBlock::from_raw(start, order, false) };
    // SAFETY: clause 1.
    unsafe { source.free(block) };
}

/// The sizes of memory for headers outside their slabs: alone, and with a line of links.
const HEADER_SIZES: [usize; 2] = [HEADER, HEADER + 64];
/// The names of the internal caches of magazines, by capacity.
const MAGAZINE_NAMES: [&str; CAPACITIES.len()] =
    ["magazine-1", "magazine-2", "magazine-4", "magazine-12", "magazine-28", "magazine-60"];

/// The internal caches.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct InternalCaches {
    /// Memory for headers without links, and for headers with a line of links. First, as the
    /// pointer of the slab source is to them.
    headers: [Slabs; 2],
    /// Memory for magazines, by capacity.
    magazines: [Slabs; CAPACITIES.len()],
    /// Memory for the caches that users make.
    pub(crate) caches: Slabs,
    /// The memory of this value; `None` if it lies in the block of the registry.
    pub(crate) memory: Option<OwnMemory>,
}

impl InternalCaches {
    /// Makes the internal caches; a cache takes `cache_size` bytes, from slabs cut by `caches`.
    pub(crate) fn new(cache_size: usize, caches: Geometry, memory: Option<OwnMemory>) -> Self {
        let small = |name: &str, size: usize, alignment| {
            let geometry = Geometry::at_order(size, alignment, 64, 0)
                .expect("headers and magazines are smaller than a page");
            Slabs::new(CacheSettings::internal(name, size, geometry))
        };
        let header =
            |index: usize| small(["record", "record-links"][index], HEADER_SIZES[index], 64);
        let magazine = |index: usize| {
            let size = Magazine::bytes(CAPACITIES[index]);
            small(MAGAZINE_NAMES[index], size, Magazine::ALIGNMENT)
        };
        Self {
            headers: core::array::from_fn(header),
            magazines: core::array::from_fn(magazine),
            caches: Slabs::new(CacheSettings::internal("cache", cache_size, caches)),
            memory,
        }
    }

    /// Returns the internal cache of the magazines of the capacity that `class` names.
    pub(crate) fn magazines(&self, class: usize) -> &Slabs {
        &self.magazines[class]
    }

    /// Iterates over the internal caches.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Slabs> {
        self.headers.iter().chain(&self.magazines).chain([&self.caches])
    }
}
