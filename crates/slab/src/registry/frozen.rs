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

/// The frozen CPU slots of all caches, which no CPU enters. Dropping it thaws them.
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
/// // In the child, which has one thread:
/// // SAFETY: clause 1: no other context exists, all slots are frozen, and `own` is the caller's.
/// unsafe { registry.forget_others(own) };
/// drop(frozen); // in both processes
/// # drop(messages);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "the slots are open again at once when this is dropped"]
pub struct FrozenSlots<'a, S: System> {
    registry: &'a RegistryInner<S>,
}

impl<'a, S: System> FrozenSlots<'a, S> {
    pub(crate) fn new(registry: &'a RegistryInner<S>, own: Option<CpuId>) -> Self {
        let mut round = 0;
        // Acquire: pairs with the Release of the guard before.
        while registry.is_frozen.swap(true, Ordering::Acquire) {
            registry.environment().locking.cpu().wait(round);
            round += 1;
        }
        let frozen = Self { registry };
        // `drop` thaws them: there is no room for one guard per cache.
        registry.visit(|cache| core::mem::forget(cache.percpu.slots.freeze(own)));
        frozen
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
