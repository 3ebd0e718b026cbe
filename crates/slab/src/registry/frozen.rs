//! Freezing the CPU slots of all caches of a registry.
//!
//! # Invariants
//! - I1: `is_frozen` of the system is set while a guard lives; so one guard at a time freezes and thaws the slots of caches.

use core::fmt;

use page_frame::sync::Ordering;
use page_frame::{Cpu, CpuId};

use crate::registry::handle::Registry;
use crate::system::System;

/// The slots of all caches, which no owner enters. Dropping it lets the owners in again.
#[must_use = "the slots are open again at once when this is dropped"]
pub struct FrozenSlots<'a, S: System> {
    registry: &'a Registry<S>,
}

impl<'a, S: System> FrozenSlots<'a, S> {
    pub(crate) fn new(registry: &'a Registry<S>, own: Option<CpuId>) -> Self {
        let system = registry.system();
        let mut round = 0;
        // Acquire: pairs with the Release of the guard before.
        while system.is_frozen.swap(true, Ordering::Acquire) {
            system.locking.cpu().wait(round);
            round += 1;
        }
        let frozen = Self { registry };
        // The guard thaws them: there is no room for one of each cache.
        registry.visit(|inner| core::mem::forget(inner.slots.freeze(own)));
        frozen
    }
}

impl<S: System> Drop for FrozenSlots<'_, S> {
    fn drop(&mut self) {
        // SAFETY: `new` froze these slots and forgot the guards; the slots of a cache that was built since are not frozen, as by
        // I1 this guard is the only one.
        self.registry.visit(|inner| unsafe { inner.slots.thaw() });
        // Release: pairs with the Acquire of the next guard.
        self.registry.system().is_frozen.store(false, Ordering::Release);
    }
}

impl<S: System> fmt::Debug for FrozenSlots<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrozenSlots").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    extern crate std;
    use core::alloc::Layout;
    use core::mem::MaybeUninit;
    use std::vec;

    use page_frame::{Arena, EnterError, SwitchedCpu};

    use super::*;

    /// Mutations seen to fail: a guard that freezes nothing; one that thaws nothing.
    #[test]
    fn nobody_enters_frozen_slots_and_objects_come_and_go_without() {
        let mut memory = vec![MaybeUninit::uninit(); 256 << 10];
        let arena = Arena::new(&mut memory).expect("large enough");
        let registry = Registry::new(&arena, SwitchedCpu::new(2)).expect("room");
        let layout = Layout::new::<[u64; 4]>();
        let build = |name| registry.cache(name, layout).build().expect("room");
        let cache = build("before");
        let frozen = registry.freeze_slots(None);
        assert!(registry.system().is_frozen.load(Ordering::Relaxed));
        assert_eq!(cache.inner().slots.enter().err(), Some(EnterError::Detached));
        let object = cache.allocate().expect("room");
        // SAFETY: from this cache, and not used.
        unsafe { cache.free(object) };
        let later = build("meanwhile");
        assert!(later.inner().slots.enter().is_ok());
        drop(frozen);
        assert!(!registry.system().is_frozen.load(Ordering::Relaxed));
        assert!(cache.inner().slots.enter().is_ok() && later.inner().slots.enter().is_ok());
    }
}
