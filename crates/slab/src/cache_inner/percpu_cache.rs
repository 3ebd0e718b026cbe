//! The per-CPU slots of a cache, and its depot: hits, and the first step of a miss.
//!
//! # Concepts
//! A **hit** pops from or pushes to a magazine in the CPU's own slot. A **miss** leaves the slot,
//! gets a magazine or one object from the depot or the slabs, and then enters the slot again to
//! load it. Meanwhile an interrupt may have filled the slot, or another CPU may have taken it over.
//! So loading a magazine may fail: a magazine that finds no room goes to the depot or is emptied
//! into the slabs.
//!
//! # Concurrency
//! No lock is taken inside a slot. No lock is held and no slot entered while code of the user or an
//! internal cache runs. The locks (slab set, depot) are leaves: no code holds two of them.

use core::ptr::NonNull;

use page_frame::{Cpu, IrqLock};

use crate::cache_inner::depot::Depot;
use crate::percpu::magazine::Magazine;
use crate::percpu::slot::{CacheSlots, Push};

/// The slots of all CPUs, and the depot.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct PerCpuCache<C> {
    pub(crate) slots: CacheSlots<C>,
    pub(crate) depot: IrqLock<Depot>,
}

/// The state of a slot that could not serve an allocation.
pub(crate) struct Miss {
    /// Whether the CPU misses often enough to get magazines.
    pub(crate) has_earned_magazines: bool,
    /// Whether the slot's previous miss was an allocation's too: then the next magazine is filled
    /// completely.
    pub(crate) is_draining: bool,
    /// The empty magazine that was loaded.
    pub(crate) spare: Option<Magazine>,
}

/// Why a slot did not take a free.
pub(crate) enum FreeMiss {
    /// The object was the last one that was freed: it is being freed twice.
    Again,
    Full(FullSlot),
}

/// The state of a slot that had no room for a free.
pub(crate) struct FullSlot {
    /// Whether the slot has no magazine, so that the caller's last free went to its slab.
    pub(crate) is_bare: bool,
    /// Whether the CPU misses often enough to get magazines.
    pub(crate) has_earned_magazines: bool,
    /// The full magazine that was the previous one.
    pub(crate) full: Option<Magazine>,
}

impl<C: Cpu> PerCpuCache<C> {
    /// Pops an object from the loaded magazine of the caller's slot.
    #[inline(always)]
    pub(crate) fn pop(&self) -> Option<NonNull<u8>> {
        self.slots.enter_known().ok()?.pop()
    }

    /// Pushes `object` to the loaded magazine of the caller's slot.
    #[inline(always)]
    pub(crate) fn push(&self, object: NonNull<u8>) -> Push {
        self.slots.enter_known().map_or(Push::Full, |mut slot| slot.push(object))
    }

    /// Pops an object from either magazine. On a miss takes the empty loaded magazine out.
    #[inline(always)]
    pub(crate) fn pop_or_unload(&self) -> Result<NonNull<u8>, Miss> {
        let Ok(mut slot) = self.slots.enter() else {
            return Err(Miss { has_earned_magazines: false, is_draining: false, spare: None });
        };
        slot.swap_to_objects();
        if let Some(object) = slot.pop() {
            return Ok(object);
        }
        let is_draining = slot.was_draining(true);
        let has_earned_magazines = slot.has_earned_magazines();
        Err(Miss { has_earned_magazines, is_draining, spare: slot.unload() })
    }

    /// Pops an object from either magazine, and takes no magazine out.
    pub(crate) fn pop_any(&self) -> Option<NonNull<u8>> {
        let mut slot = self.slots.enter().ok()?;
        slot.swap_to_objects();
        slot.pop()
    }

    /// Pushes `object` to the previous magazine, if that has room. On a miss takes that magazine
    /// out.
    #[inline(always)]
    pub(crate) fn push_or_unload(&self, object: NonNull<u8>) -> Result<(), FreeMiss> {
        let Ok(mut slot) = self.slots.enter() else {
            let (is_bare, has_earned_magazines, full) = (true, false, None);
            return Err(FreeMiss::Full(FullSlot { is_bare, has_earned_magazines, full }));
        };
        if slot.is_last(object) {
            return Err(FreeMiss::Again);
        }
        let is_bare = slot.loaded_length().is_none();
        if slot.swap_to_room() && slot.push(object) == Push::Done {
            return Ok(());
        }
        slot.was_draining(false);
        let has_earned_magazines = slot.has_earned_magazines();
        let full = if has_earned_magazines { slot.take_previous() } else { None };
        Err(FreeMiss::Full(FullSlot { is_bare, has_earned_magazines, full }))
    }

    /// Pops objects from both magazines; returns how many.
    #[inline]
    pub(crate) fn pop_many(&self, objects: &mut [NonNull<u8>]) -> usize {
        let Ok(mut slot) = self.slots.enter() else { return 0 };
        let had = slot.pop_many(objects);
        if had == objects.len() || !slot.swap_to_objects() {
            return had;
        }
        had + slot.pop_many(&mut objects[had..])
    }

    /// Pushes objects to both magazines; returns how many.
    #[inline]
    pub(crate) fn push_many(&self, objects: &[NonNull<u8>]) -> usize {
        let Ok(mut slot) = self.slots.enter() else { return 0 };
        let gone = slot.push_many(objects);
        if gone == objects.len() || !slot.swap_to_room() {
            return gone;
        }
        gone + slot.push_many(&objects[gone..])
    }

    /// Loads `magazine` into the caller's slot. Returns the magazine that found no room.
    #[inline(always)]
    pub(crate) fn load(&self, magazine: Magazine) -> Option<Magazine> {
        match self.slots.enter() {
            Ok(mut slot) => slot.insert(magazine),
            Err(_) => Some(magazine),
        }
    }

    /// Returns how many objects are in the loaded and in the previous magazine of the caller's CPU.
    pub(crate) fn lengths(&self) -> [Option<usize>; 2] {
        match self.slots.enter() {
            Ok(slot) => [slot.loaded_length(), slot.previous_length()],
            Err(_) => [None, None],
        }
    }
}
