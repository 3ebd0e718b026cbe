//! The list of a registry's caches, walked without holding its lock, while caches come and go.
//!
//! # Concepts
//! - A **visitor** looks at one cache after the other. It finds the next one under the lock, raises that cache's count of
//!   visits, and looks at it with no lock held: looking may shrink, and so call the page source.
//! - A cache leaves in three steps: it is **closed**, so that no new visitor comes; the visits that there are end; then it
//!   is unlinked. Whoever destroys a cache waits for the visits, as what a visitor has in hand (magazines on their way to
//!   the slabs) would otherwise count as objects in use.
//!
//! # Invariants
//! - I1: a core in the list is alive. Its `next` is read and written under the lock.
//! - I2: a core that is visited is in the list, so the visitor's way on from it is right.
//!
//! # Concurrency
//! One lock, taken through `PerCpu::lock_token`. The end of a visit is a Release that pairs with the Acquire of the one who
//! waits in `close`.

use core::ptr::NonNull;

use page_frame::IrqLock;
use page_frame::sync::{AtomicUsize, Ordering, UnsafeCell, spin_hint};

use crate::core::Core;
use crate::cpu_slot::CacheSlots;
use crate::system::System;

/// Set in a core's visits once it is closed; the bits below count.
const CLOSED: usize = 1 << (usize::BITS - 1);

/// A core's part of the list.
#[derive(Debug)]
pub(crate) struct Listed<S: System> {
    next: UnsafeCell<*mut Core<S>>,
    visits: AtomicUsize,
}

impl<S: System> Listed<S> {
    pub(crate) fn new() -> Self {
        Self { next: UnsafeCell::new(core::ptr::null_mut()), visits: AtomicUsize::new(0) }
    }

    /// Whether the core is being destroyed.
    pub(crate) fn is_closed(&self) -> bool {
        // Relaxed: asked by who closed it; others may hear either.
        self.visits.load(Ordering::Relaxed) & CLOSED != 0
    }
}

/// A visit to a core of the list. Dropping it ends the visit, also when the visitor panics.
struct Visit<S: System> {
    core: NonNull<Core<S>>,
}

impl<S: System> Visit<S> {
    fn core(&self) -> &Core<S> {
        // SAFETY: I1 and I2: it is visited until `self` is dropped, so it is in the list, and alive.
        unsafe { self.core.as_ref() }
    }
}

impl<S: System> Drop for Visit<S> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `close`: whoever waits there sees all that the visitor did.
        self.core().listed.visits.fetch_sub(1, Ordering::Release);
    }
}

/// The caches that users made.
#[derive(Debug)]
pub(crate) struct CoreList<S: System> {
    first: IrqLock<First<S>>,
}

#[derive(Debug)]
struct First<S: System>(*mut Core<S>);

// SAFETY: the cores behind the pointer are reached only as this file says, and may be used on any CPU when P and C may.
unsafe impl<S: System<Pages: Send, Cpus: Send>> Send for First<S> {}

impl<S: System> CoreList<S> {
    pub(crate) fn new() -> Self {
        Self { first: IrqLock::new(First(core::ptr::null_mut())) }
    }

    /// Adds a core; whether that could be done (not by an interrupt that came upon the lock).
    ///
    /// # Safety
    /// 1. `core` is alive, in no list, and does not die before [`unlink`](Self::unlink).
    pub(crate) unsafe fn link(
        &self,
        core: NonNull<Core<S>>,
        locking: &CacheSlots<S::Cpus>,
    ) -> bool {
        let token = locking.lock_token();
        let Some(mut first) = token.lock(&self.first) else { return false };
        // SAFETY: clause 1: alive, and the list's lock is held.
        unsafe { Self::set_next(core, first.0) };
        first.0 = core.as_ptr();
        true
    }

    /// Calls `look` with each core that is not closed; none of them goes meanwhile, and no lock is held. A panic in `look`
    /// ends the visit.
    pub(crate) fn visit(&self, locking: &CacheSlots<S::Cpus>, mut look: impl FnMut(&Core<S>)) {
        let mut current = self.begin_visit(None, locking);
        while let Some(visit) = current {
            look(visit.core());
            current = self.begin_visit(Some(visit.core), locking);
        }
    }

    /// Begins a visit to the core after `core`, which is being visited, or to the first. None when there is none, or when
    /// an interrupted owner has the lock.
    fn begin_visit(
        &self,
        core: Option<NonNull<Core<S>>>,
        locking: &CacheSlots<S::Cpus>,
    ) -> Option<Visit<S>> {
        let token = locking.lock_token();
        let first = token.lock(&self.first)?;
        // SAFETY: I1: visited, so alive, and we hold the lock.
        let mut next = core.map_or(first.0, |core| unsafe { Self::next(core) });
        while let Some(core) = NonNull::new(next) {
            // SAFETY: I1.
            let visits = unsafe { &core.as_ref().listed.visits };
            // Relaxed: raised, and closed, only under the lock.
            if visits.load(Ordering::Relaxed) & CLOSED == 0 {
                visits.fetch_add(1, Ordering::Relaxed);
                return Some(Visit { core });
            }
            // SAFETY: I1, under the lock.
            next = unsafe { Self::next(core) };
        }
        None
    }

    /// Keeps new visitors away from `core` and waits until those that are there have gone; whether that could be done
    /// (not by an interrupt that came upon the lock).
    ///
    /// Must not be called by a visitor.
    pub(crate) fn close(&self, core: &Core<S>, locking: &CacheSlots<S::Cpus>) -> bool {
        {
            let token = locking.lock_token();
            let Some(_first) = token.lock(&self.first) else { return false };
            // Relaxed: read for this bit only under the lock.
            core.listed.visits.fetch_or(CLOSED, Ordering::Relaxed);
        }
        // Acquire: pairs with the Release at the end of a visit.
        while core.listed.visits.load(Ordering::Acquire) != CLOSED {
            spin_hint();
        }
        true
    }

    /// Lets visitors come to a closed core again.
    pub(crate) fn reopen(&self, core: &Core<S>) {
        // Release: pairs with the lock that the next visitor takes, though what it finds is under locks of its own.
        core.listed.visits.store(0, Ordering::Release);
    }

    /// Takes `core` out; whether that could be done (not by an interrupt that came upon the lock).
    ///
    /// # Safety
    /// 1. `core` is in the list and closed.
    pub(crate) unsafe fn unlink(
        &self,
        core: NonNull<Core<S>>,
        locking: &CacheSlots<S::Cpus>,
    ) -> bool {
        let token = locking.lock_token();
        let Some(mut first) = token.lock(&self.first) else { return false };
        // SAFETY: clause 1: alive, under the lock.
        let next = unsafe { Self::next(core) };
        if first.0 == core.as_ptr() {
            first.0 = next;
            return true;
        }
        let mut before = NonNull::new(first.0);
        while let Some(other) = before {
            // SAFETY: I1, under the lock.
            let after = unsafe { Self::next(other) };
            if after == core.as_ptr() {
                // SAFETY: I1, under the lock.
                unsafe { Self::set_next(other, next) };
                break;
            }
            before = NonNull::new(after);
        }
        true
    }

    /// # Safety
    /// 1. The core is alive and the caller holds the lock.
    unsafe fn next(core: NonNull<Core<S>>) -> *mut Core<S> {
        // SAFETY: clause 1: it is alive, and taken off only under the lock that the caller holds.
        let listed = unsafe { &core.as_ref().listed };
        // SAFETY: clause 1: under the lock nobody changes it.
        listed.next.with(|next| unsafe { *next })
    }

    /// # Safety
    /// 1. The core is alive and the caller holds the lock.
    unsafe fn set_next(core: NonNull<Core<S>>, new: *mut Core<S>) {
        // SAFETY: clause 1: it does not die under the lock.
        let listed = unsafe { &core.as_ref().listed };
        // SAFETY: clause 1: under the lock nobody else looks at it.
        listed.next.with_mut(|next| unsafe { *next = new });
    }
}
