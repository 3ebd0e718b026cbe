//! The state of a cache behind its handle ([`Cache`](crate::Cache)), and the order in which an
//! allocation and a free try its parts.
//!
//! # Concepts
//! An allocation tries, in order: the caller's CPU slot, the depot, the slabs, and a new slab from
//! the page source. A free tries the slot, the depot, a new magazine, and the object's slab.
//!
//! - Slots and magazines are in `percpu`, slabs and their growth in `slabs`.
//! - `percpu_cache` has the slots of all CPUs with the `depot`.
//! - `depot_transfer` moves magazines between slots and depot, `slab_transfer` moves objects
//!   between magazines and slabs.
//!
//! A caller without a slot (nested in an interrupt, detached, or on a CPU beyond the last slot)
//! allocates from the slabs, and frees through its slab's free word. Such a free cannot fail.
//!
//! # Invariants
//! - I1: a cache lives from its construction until its handle has destroyed it; the destruction
//!   waits for visitors (cache list I1, I2).
//! - I2: the `Shared` that was passed to `new` outlives the cache. It is the first field of a
//!   [`RegistryInner`](crate::registry::inner::RegistryInner).

pub(crate) mod cache_list;
pub(crate) mod depot;
pub(crate) mod depot_transfer;
pub(crate) mod percpu_cache;
pub(crate) mod shared;
pub(crate) mod sizing;
pub(crate) mod slab_transfer;
pub(crate) mod stats;

use core::ptr::NonNull;

use page_frame::sync::{AtomicU16, Ordering};
use page_frame::{Fault, FaultKind, IrqLock, OutOfMemory};

use crate::cache_inner::cache_list::{ListNode, Listed};
use crate::cache_inner::depot::Depot;
use crate::cache_inner::percpu_cache::{FreeMiss, Miss, PerCpuCache};
use crate::cache_inner::shared::Shared;
use crate::cache_inner::sizing::MagazineSizing;
use crate::cache_inner::slab_transfer::Backing;
use crate::cache_inner::stats::CacheStats;
use crate::hardening::presets::Hardening;
use crate::patience::{Patience, Reclaim};
use crate::percpu::magazine::{CAPACITIES, Magazine};
use crate::percpu::slot::{CacheSlots, Push};
use crate::slabs::Slabs;
use crate::slabs::clock::Work;
use crate::slabs::environment::Environment;
use crate::slabs::settings::CacheSettings;
use crate::system::System;

/// A callback that frees objects which the user of a cache can do without.
pub(crate) type ReclaimHook = &'static (dyn Fn() + Sync);

/// Calls of one `reclaim` callback that may be inside it at the same time: from several CPUs, or
/// nested, when the callback allocates. More are left out, so that such a recursion ends.
const MAX_RECLAIM_CALLS: u16 = 8;

/// The stages in which a cache ages.
pub(crate) const AGING_STAGES: usize = SLAB_STAGE + 1;
/// The stage that releases slabs.
const SLAB_STAGE: usize = 2;

/// Counts the end of a call, also when the callback panics.
struct CallEnd<'c>(&'c AtomicU16);

impl Drop for CallEnd<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A cache without its handle.
#[repr(C, align(64))]
pub(crate) struct CacheInner<S: System> {
    pub(crate) percpu: PerCpuCache<S::Cpus>,
    pub(crate) backing: Backing<S>,
    pub(crate) reclaim: Option<ReclaimHook>,
    node: ListNode<Self>,
}

impl<S: System> Listed for CacheInner<S> {
    fn node(&self) -> &ListNode<Self> {
        &self.node
    }
}

impl<S: System> CacheInner<S> {
    pub(crate) fn new(
        shared: NonNull<Shared<S>>,
        slots: CacheSlots<S::Cpus>,
        settings: CacheSettings,
        reclaim: Option<ReclaimHook>,
        sizing: MagazineSizing,
        depot: Depot,
    ) -> Self {
        let percpu = PerCpuCache { slots, depot: IrqLock::new(depot) };
        // SAFETY: clause 1 of `Backing::new`: I2 says that `shared` outlives the cache.
        let backing = unsafe { Backing::new(shared, Slabs::new(settings), sizing) };
        Self { percpu, backing, reclaim, node: ListNode::new() }
    }

    /// Calls the `reclaim` callback; returns whether it did. Without one, or while
    /// [`MAX_RECLAIM_CALLS`] calls are inside it, does nothing.
    pub(crate) fn call_reclaim(&self) -> bool {
        let Some(reclaim) = self.reclaim else { return false };
        // Relaxed, here and below: the count bounds a recursion, and orders nothing.
        let calls = &self.backing.reclaim_calls;
        let inside = calls.fetch_add(1, Ordering::Relaxed);
        let _end = CallEnd(calls);
        if inside >= MAX_RECLAIM_CALLS {
            return false;
        }
        reclaim();
        true
    }

    /// Returns the slabs.
    #[inline]
    pub(crate) fn slabs(&self) -> &Slabs {
        &self.backing.slabs
    }

    #[inline]
    pub(crate) fn environment(&self) -> &Environment<S> {
        self.backing.environment()
    }

    /// Allocates a place after a miss in the CPU slot: from the slot's other magazine, or from a
    /// full magazine of the depot.
    #[inline(always)]
    pub(crate) fn allocate_from_depot(&self) -> Result<NonNull<u8>, Miss> {
        let mut miss = match self.percpu.pop_or_unload() {
            Ok(place) => return Ok(place),
            Err(miss) => miss,
        };
        if !miss.has_earned_magazines {
            return Err(miss);
        }
        let Some(full) = self.percpu.take_full(&self.backing, &mut miss.spare) else {
            return Err(miss);
        };
        let full = match miss.spare.take() {
            None if self.slabs().settings.trace.is_none() => full,
            spare => self.percpu.finish_take_full(&self.backing, full, spare),
        };
        self.percpu.pop_and_load(&self.backing, full).ok_or(miss)
    }

    /// Allocates a place that slot and depot do not have: fills a magazine from the slabs, which
    /// make a new slab if none has a free object. Takes a single object where the CPU seldom misses
    /// or there is no magazine.
    #[cold]
    pub(crate) fn allocate_from_slabs<K: Hardening>(
        &self,
        miss: Miss,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let backing = &self.backing;
        if !miss.has_earned_magazines {
            self.put_away_spare(miss.spare);
        } else if let Some(empty) = self.percpu.renew(backing, miss.spare) {
            // The whole magazine if the slot's last miss was an allocation too; otherwise half, so
            // that both frees and allocations can hit next.
            let filled = backing.fill::<K>(empty, miss.is_draining)?;
            return self.percpu.pop_and_load(backing, filled).ok_or(OutOfMemory);
        }
        backing.take_one::<K>(Reclaim::Allowed)
    }

    /// Allocates a place without reclaiming: from a magazine, else from the slabs, else from a new
    /// slab if the page source has a free block.
    pub(crate) fn try_allocate_place<K: Hardening>(&self) -> Result<NonNull<u8>, OutOfMemory> {
        if let Some(place) = self.percpu.pop_any() {
            return Ok(place);
        }
        let backing = &self.backing;
        match self.percpu.take_full(backing, &mut None) {
            Some(full) => self.percpu.pop_and_load(backing, full).ok_or(OutOfMemory),
            None => backing.take_one::<K>(Reclaim::Forbidden),
        }
    }

    /// Allocates a place: from the CPU slot, the depot, the slabs, or a new slab.
    pub(crate) fn allocate_place<K: Hardening>(&self) -> Result<NonNull<u8>, OutOfMemory> {
        match self.percpu.pop() {
            Some(place) => Ok(place),
            None => self.allocate_from_depot().or_else(|miss| self.allocate_from_slabs::<K>(miss)),
        }
    }

    /// Frees a place after a miss in the CPU slot. Tries the slot's other magazine, then an empty
    /// magazine of the depot (in exchange for the full one, if the slot has one), then a new
    /// magazine, and last the place's slab. Returns whether it went beyond slot and depot, so that
    /// objects may be in the slabs again. If the place is the one that the caller freed last,
    /// reports a double free.
    #[inline(always)]
    #[track_caller]
    pub(crate) fn free_missed(&self, place: NonNull<u8>) -> bool {
        let slot = match self.percpu.push_or_unload(place) {
            Ok(()) => return false,
            Err(FreeMiss::Full(slot)) => slot,
            Err(FreeMiss::Again) => {
                self.report_freed_again(place);
                return false;
            }
        };
        if slot.is_bare && self.slabs().is_freed_last(self.environment(), place.addr().get()) {
            self.report_freed_again(place);
            return false;
        }
        let stored = slot.full.as_ref().map(Magazine::length);
        let (empty, refused) = match slot.full {
            Some(full) => self.percpu.exchange_full(&self.backing, full),
            None if slot.has_earned_magazines => (self.percpu.take_empty(&self.backing), None),
            None => {
                self.backing.give(Patience::Wait, &[place]);
                return true;
            }
        };
        let is_traced = self.slabs().settings.trace.is_some();
        match empty {
            Some(empty) if self.backing.is_current(&empty) && !is_traced => {
                self.push_and_load(place, empty);
                false
            }
            empty => {
                self.free_with_new_magazine(place, empty, refused, stored);
                true
            }
        }
    }

    /// Frees a place to a magazine and loads the magazine. The magazine is `empty`, or `refused`, a
    /// full one for which the depot had no room and which is emptied into the slabs first. It is a
    /// new one if both are missing, or have another capacity than the present one. Without memory
    /// for a magazine, frees the place to its slab. Traced caches always come here, to report a
    /// full magazine of `stored` objects.
    #[cold]
    #[inline(never)]
    fn free_with_new_magazine(
        &self,
        place: NonNull<u8>,
        empty: Option<Magazine>,
        refused: Option<Magazine>,
        stored: Option<usize>,
    ) {
        let backing = &self.backing;
        let held = backing.guard(None, Some(place));
        let empty = match refused {
            Some(full) => Some(backing.empty(full, Patience::Wait).0),
            None => match stored {
                Some(objects) => self.percpu.trace_stored(backing, empty, objects),
                None => empty,
            },
        };
        let renewed = self.percpu.renew(backing, empty);
        held.disarm();
        match renewed {
            Some(magazine) => self.push_and_load(place, magazine),
            None => _ = backing.give(Patience::Wait, &[place]),
        }
    }

    /// Pushes `place` to the empty `magazine`, and loads it into the caller's slot.
    #[inline]
    fn push_and_load(&self, place: NonNull<u8>, mut magazine: Magazine) {
        magazine.push(place);
        if let Some(out) = self.percpu.load(magazine) {
            self.percpu.put_away(&self.backing, out);
        }
    }

    /// Pushes a place to the caller's slot, and reports a double free if the slot's last push was
    /// the same place.
    #[inline(always)]
    #[track_caller]
    pub(crate) fn free_place(&self, place: NonNull<u8>) -> Push {
        let pushed = self.percpu.push(place);
        if pushed == Push::Again {
            self.report_freed_again(place);
        }
        pushed
    }

    #[cold]
    #[track_caller]
    fn report_freed_again(&self, place: NonNull<u8>) {
        let fault = Fault::at_address(FaultKind::DoubleFree, place.addr().get());
        self.environment().report(&fault.in_cache(self.slabs().settings.name));
    }

    #[inline]
    fn put_away_spare(&self, spare: Option<Magazine>) {
        if let Some(spare) = spare {
            self.percpu.put_away(&self.backing, spare);
        }
    }

    /// Releases at least `target_pages` pages if it can, except the slabs that the cache keeps:
    /// empty slabs first, then the objects in the
    /// magazines and the slabs that these leave empty. Returns the pages released. With
    /// [`Patience::Try`] it skips what another CPU has locked, and waits for no grace period.
    /// Allocates nothing.
    pub(crate) fn shrink(&self, target_pages: usize, patience: Patience) -> usize {
        let mut released = self.release_empty(target_pages, patience);
        if released < target_pages {
            released += self.percpu.drain(&self.backing, patience);
            released += self.release_empty(target_pages.saturating_sub(released), patience);
        }
        if released < target_pages && patience == Patience::Wait {
            released += self.release_waiting(target_pages - released);
        }
        released
    }

    /// Releases the empty slabs of a type-stable cache, up to `target_pages` pages in total, after
    /// it has waited for their grace periods. Returns the pages released: none if the machine does
    /// not wait.
    fn release_waiting(&self, target_pages: usize) -> usize {
        let Some(grace) = self.slabs().settings.grace else { return 0 };
        let mut released = 0;
        // Slabs that became empty while others waited begin to wait only when these are released.
        for _generation in 0..2 {
            let waiting_since = self.slabs().waiting_since(self.environment());
            let has_waited = waiting_since.is_some_and(|token| grace.wait(token));
            if released >= target_pages || !has_waited {
                break;
            }
            released += self.release_empty(target_pages - released, Patience::Wait);
        }
        released
    }

    /// Releases all empty slabs that the cache need not keep, after the objects in the depot and in
    /// the caller's slot are back in their slabs. Returns the pages released.
    pub(crate) fn shrink_own(&self, patience: Patience) -> usize {
        self.percpu.drain_own(&self.backing, patience) + self.release_empty(usize::MAX, patience)
    }

    /// Releases empty slabs, up to `target_pages` pages in total. Returns the pages released.
    pub(crate) fn release_empty(&self, target_pages: usize, patience: Patience) -> usize {
        let source = &self.backing.shared().slab_source;
        self.backing.slabs.release_empty(source, target_pages, self.kept(), patience)
    }

    /// Releases the magazines and empty slabs that were not needed since the last aging pass.
    /// Returns the pages released.
    pub(crate) fn release_idle(&self, patience: Patience) -> usize {
        self.release_idle_from(0, true, patience, &mut Work::unlimited()).0
    }

    /// Ages the cache from `stage` on, as far as `work` allows: releases the magazines and empty
    /// slabs that were not needed since the last pass. Slabs that were empty before it stay if the
    /// cache has a destructor, or if the user has set how many empty slabs stay. Returns the stage
    /// at which the next call continues; [`AGING_STAGES`] at the end.
    pub(crate) fn age(&self, stage: usize, work: &mut Work) -> usize {
        work.spend(Work::CACHE);
        let settings = &self.backing.slabs.settings;
        let has_idle_slabs = settings.destructor.is_none() && settings.keep_empty.is_none();
        self.release_idle_from(stage, has_idle_slabs, Patience::Try, work).1
    }

    /// Releases what was not needed since the last aging pass, from `stage` on as far as `work`
    /// allows: full magazines in stage 0, empty ones in stage 1, and empty slabs in stage 2, if it
    /// `has_idle_slabs`. Returns the pages released, and the stage at which the next call
    /// continues.
    fn release_idle_from(
        &self,
        stage: usize,
        has_idle_slabs: bool,
        patience: Patience,
        work: &mut Work,
    ) -> (usize, usize) {
        let (pages, next) = match stage {
            0 | 1 => self.percpu.drain_idle(&self.backing, patience, stage, work),
            _ => (0, SLAB_STAGE),
        };
        if next < SLAB_STAGE {
            return (pages, next);
        }
        if !has_idle_slabs {
            return (pages, AGING_STAGES);
        }
        let (source, slabs) = (&self.backing.shared().slab_source, &self.backing.slabs);
        let note_idle = || self.backing.sizing.note_idle();
        let (released, is_all) = slabs.release_idle(source, self.kept(), patience, work, note_idle);
        (pages + released, if is_all { AGING_STAGES } else { SLAB_STAGE })
    }

    /// Returns how many empty slabs no release may take: 0 while the cache is being destroyed.
    fn kept(&self) -> usize {
        if self.node.is_closed() { 0 } else { self.backing.slabs.settings.kept() }
    }

    /// Returns the statistics of the cache. Magazines of the depot count as 0 where a nested caller
    /// finds its lock held.
    pub(crate) fn stats(&self) -> CacheStats {
        let environment = self.environment();
        let mut stats = CacheStats::of_slabs(&self.backing.slabs, environment);
        stats.magazine_capacity = CAPACITIES[self.backing.sizing.class()];
        let token = environment.lock_token();
        if let Some(depot) = token.lock(&self.percpu.depot) {
            stats.depot_magazines = depot.full_count();
            stats.depot_objects = depot.full_objects();
        }
        stats
    }
}
