//! The front of a cache: its CPU slots alone, for layers that keep a table of them.
//!
//! # Concepts
//! A hit needs nothing of a cache but the CPU slots. A layer that finds a cache through a table (kmalloc, by class) keeps
//! the fronts there and is one load nearer to the object. Whatever is no hit, it asks the cache for, which begins anew.
//!
//! A **closed** front never hits, as its slots stay empty. It stands for caches that are not built yet, or that look at every
//! object.

use core::ptr::NonNull;

use page_frame::sync::{AtomicPtr, load_and_add};
use page_frame::{Cpu, PerCpu, PerCpuSlot, Spread};

use crate::percpu::slot::CacheSlots;
use crate::percpu::slot::CpuSlot;
use crate::percpu::slot::Push;

/// The CPU slots of a cache.
#[derive(Clone, Copy, Debug)]
pub struct PerCpuHandle {
    /// The first of as many slots as there are CPUs, as far apart as they want them.
    slots: NonNull<PerCpuSlot<CpuSlot>>,
}

impl PerCpuHandle {
    /// Pops an object in the caller's CPU slot. `None` says only that it was no hit.
    ///
    /// # Safety
    /// 1. The cache is alive, or the registry that a closed front came from, and `cpu` is a clone of, or a reference to,
    ///    its CPUs.
    #[inline(always)]
    pub unsafe fn allocate<C: Cpu>(self, cpu: &C) -> Option<NonNull<u8>> {
        // SAFETY: clause 1 says whose slots they are, and that they live.
        unsafe { self.slots(cpu) }.enter_known().ok()?.pop()
    }

    /// Pushes `object` in the caller's CPU slot; whether it was a hit. If not, nothing has happened.
    ///
    /// # Safety
    /// 1. As for [`allocate`](Self::allocate).
    /// 2. All clauses of [`Cache::free`], constructed state among them, if the answer is true.
    #[inline(always)]
    pub unsafe fn free<C: Cpu>(self, cpu: &C, object: NonNull<u8>) -> bool {
        // SAFETY: clause 1, as in `allocate`.
        let slots = unsafe { self.slots(cpu) };
        slots.enter_known().is_ok_and(|mut slot| slot.push(object) == Push::Done)
    }

    /// As [`free`](Self::free), through front `index` of a table of them as [`into_raw`](Self::into_raw) gives them: an instruction
    /// less.
    ///
    /// # Safety
    /// 1. As for [`allocate`](Self::allocate), of the front that the table has there.
    /// 2. All clauses of [`Cache::free`], constructed state among them, if the answer is true.
    /// 3. `table` has an `index`th word, which came from [`into_raw`](Self::into_raw), and was stored with Release.
    #[inline(always)]
    pub unsafe fn free_through<C: Cpu>(
        table: *const AtomicPtr<()>,
        index: usize,
        cpu: &C,
        object: NonNull<u8>,
    ) -> bool {
        let slot = |offset| {
            // SAFETY: clause 3: a front, which is the first of slots for all CPUs.
            unsafe { load_and_add(table, index, offset) }
        };
        // SAFETY: clause 1: the slots of `cpu`, alive, apart as `Spread` says.
        let slot = unsafe { PerCpu::<CpuSlot, C, Spread>::enter_known_in(cpu, slot) };
        slot.is_ok_and(|mut slot| slot.push(object) == Push::Done)
    }

    /// # Safety
    /// 1. As for `allocate`.
    #[inline(always)]
    unsafe fn slots<'s, C: Cpu>(self, cpu: &'s C) -> PerCpu<'s, CpuSlot, &'s C, Spread> {
        // SAFETY: clause 1: there are as many as CPUs, alive; and `cpu` is a clone of, or a reference to, the cache's machine.
        unsafe { PerCpu::at(self.slots, cpu.slots(), cpu) }
    }

    /// AgingClock the front into a pointer, for places that hold one as an atomic word.
    pub fn into_raw(self) -> NonNull<()> {
        self.slots.cast()
    }

    /// Takes a front up again.
    ///
    /// # Safety
    /// 1. `raw` came from [`into_raw`](Self::into_raw).
    #[inline(always)]
    pub unsafe fn from_raw(raw: NonNull<()>) -> Self {
        Self { slots: raw.cast() }
    }

    /// Returns the handle of `slots`.
    pub(crate) fn of<C: Cpu>(slots: &CacheSlots<C>) -> Self {
        Self { slots: slots.first() }
    }
}
