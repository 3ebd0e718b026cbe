//! Freezing the CPU slots of all caches of a registry.
//!
//! # Invariants
//! - I1: `is_frozen` of the registry is set while a guard lives; so only one guard at a time
//!   freezes and thaws the slots.

use core::fmt;

use page_frame::sync::Ordering;
use page_frame::{Cpu, CpuId};

use crate::registry::inner::RegistryInner;
use crate::system::System;

/// The frozen CPU slots of all caches, which no CPU enters. Dropping it thaws them. For a process
/// that is about to `fork`, whose child has one thread.
///
/// ```
/// # use core::{alloc::Layout, mem::MaybeUninit};
/// # use page_frame::{Arena, SingleCpu};
/// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
/// # let arena = Arena::new(&mut memory)?;
/// # let registry = slab::Registry::new(&arena, SingleCpu::new())?;
/// use page_frame::CpuId;
/// use slab::FrozenSlots;
/// let messages = registry.cache("message", Layout::new::<u64>()).build()?;
/// let own = Some(CpuId::new(0));
/// let frozen: FrozenSlots<'_, _> = registry.freeze_slots(own); // before `fork`
/// # let is_child = true;
/// if is_child {
///     // SAFETY: clauses 1 to 3: no other context exists, no cache was built, CPU 0 is ours.
///     unsafe { frozen.end_in_child(own) };
/// } else {
///     drop(frozen);
/// }
/// # drop(messages);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "the slots are open again at once when this is dropped"]
pub struct FrozenSlots<'a, S: System> {
    registry: &'a RegistryInner<S>,
    /// Whether the system could fence for every cache, so that no CPU is inside a slot.
    is_fenced: bool,
}

impl<'a, S: System> FrozenSlots<'a, S> {
    pub(crate) fn new(registry: &'a RegistryInner<S>, own: Option<CpuId>) -> Self {
        let mut round = 0;
        // Acquire: pairs with the Release of the guard before.
        while registry.is_frozen.swap(true, Ordering::Acquire) {
            registry.environment().locking.cpu().wait(round);
            round += 1;
        }
        let mut frozen = Self { registry, is_fenced: true };
        registry.visit(|cache| {
            let slots = cache.percpu.slots.freeze(own);
            frozen.is_fenced &= slots.is_fenced();
            // `drop` thaws them: there is no room for one guard per cache.
            core::mem::forget(slots);
        });
        frozen
    }

    /// Marks the slots of all CPUs but `own` as not in use, and thaws them: in a child of `fork`,
    /// see [`PerCpu::forget_others`](page_frame::PerCpu::forget_others).
    ///
    /// Where the system could not fence for a cache, another thread may have been inside a slot at
    /// the moment of the fork. Then all slots stay frozen in the child for ever, and its caches
    /// work without them. O(caches times CPUs). Example: see [`FrozenSlots`].
    ///
    /// # Safety
    /// 1. All contexts but the caller's ended while this value existed: the process is a child, and
    ///    the caller is its only thread.
    /// 2. No cache of the registry was built since the slots were frozen.
    /// 3. `own` is the caller's id, as it was when the slots were frozen.
    pub unsafe fn end_in_child(self, own: Option<CpuId>) {
        if !self.is_fenced {
            core::mem::forget(self);
            return;
        }
        // SAFETY: clauses 1 and 3. The values of these slots never change, so that they need not be
        // frozen.
        unsafe { self.registry.environment().locking.forget_others(own) };
        // SAFETY: clause 1 is our clause 1. Clause 2: `new` froze the slots of each cache (our
        // clause 2), with a fence. Clause 3 is our clause 3.
        self.registry.visit(|cache| unsafe { cache.percpu.slots.forget_others(own) });
    }
}

impl<S: System> Drop for FrozenSlots<'_, S> {
    fn drop(&mut self) {
        // SAFETY: `new` froze these slots and forgot their guards. By I1 no other guard has frozen
        // the slots of a cache built since, so `thaw` changes nothing there.
        self.registry.visit(|cache| unsafe { cache.percpu.slots.thaw() });
        // Release: pairs with the Acquire of the next guard.
        self.registry.is_frozen.store(false, Ordering::Release);
    }
}

impl<S: System> fmt::Debug for FrozenSlots<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrozenSlots").finish_non_exhaustive()
    }
}
