//! The end of a cache's handle: the cache is destroyed, or left to itself, and the registry gets its reference back.

use core::ptr::NonNull;

use crate::cache::inner::CacheInner;
use crate::registry::handle::{Shared, release_system};
use crate::system::System;

/// How far the end of a handle has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The cache is as it was, or closed: a destructor has panicked.
    Linked,
    /// The cache is freed, or left to itself. The reference to the system is left.
    Gone,
    /// Nothing is left to do.
    Done,
}

/// The last handle of a cache, which ends. Dropping it does what a panic of a destructor has left undone: the slab of that
/// destructor and those that were to go with it are gone, so the second attempt has the rest.
pub(crate) struct Destroying<S: System> {
    inner: NonNull<CacheInner<S>>,
    system: NonNull<Shared<S>>,
    stage: Stage,
}

impl<S: System> Destroying<S> {
    /// # Safety
    /// 1. `cache` is alive, the caller has its only handle with a reference to the system, and does not use it again.
    pub(crate) unsafe fn new(inner: NonNull<CacheInner<S>>) -> Self {
        // SAFETY: clause 1: alive.
        let system = unsafe { inner.as_ref() }.system;
        Self { inner, system, stage: Stage::Linked }
    }

    fn shared(&self) -> &Shared<S> {
        // SAFETY: the handle's reference keeps the system alive until `drop` gives it up.
        unsafe { self.system.as_ref() }
    }

    /// Destroys the cache or, with objects in use, leaves it to itself.
    pub(crate) fn end(&mut self) {
        // SAFETY: the only handle (clause 1 of `new`), and at this stage the cache is alive.
        if unsafe { self.shared().detach(self.inner) }.is_ok() {
            self.free();
            return;
        }
        // SAFETY: it was not detached, so it is alive.
        let is_pinned = unsafe { self.inner.as_ref() }.settings.is_pinned;
        // SAFETY: as above: this was the handle. The cache stays for ever, closed, as the slabs of the objects in use name it.
        unsafe { self.shared().abandon(self.inner) };
        // Typed I2: values in use that may be pinned keep the page source, so their reference to the system is never given up.
        self.stage = if is_pinned { Stage::Done } else { Stage::Gone };
    }

    /// Frees the cache, which is detached.
    pub(crate) fn free(&mut self) {
        // Before the call: what is freed is not freed again, should an observer panic meanwhile.
        self.stage = Stage::Gone;
        // SAFETY: detached: in no list, without slabs; the only handle is this one.
        unsafe { self.shared().free_inner(self.inner) };
    }
}

impl<S: System> Drop for Destroying<S> {
    fn drop(&mut self) {
        if self.stage == Stage::Linked {
            self.end();
        }
        if self.stage == Stage::Gone {
            // SAFETY: the handle's reference to the system; this is the end of the handle.
            unsafe { release_system(self.system) };
        }
    }
}
