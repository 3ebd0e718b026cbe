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
//! - I1: a cache in the list is alive. Its `next` is read and written under the lock.
//! - I2: a cache that is visited is in the list, so the visitor's way on from it is right.
//!
//! # Concurrency
//! One lock, taken through `PerCpu::lock_token`. The end of a visit is a Release that pairs with the Acquire of the one who
//! waits in `close`.

use core::ptr::NonNull;

use page_frame::IrqLock;
use page_frame::sync::{AtomicUsize, Ordering, UnsafeCell, spin_hint};

use crate::cache::inner::CacheInner;
use crate::percpu::slot::CacheSlots;
use crate::system::System;

/// Set in a cache's visits once it is closed; the bits below count.
const CLOSED: usize = 1 << (usize::BITS - 1);

/// A cache's part of the list.
#[derive(Debug)]
pub(crate) struct ListNode<S: System> {
    next: UnsafeCell<*mut CacheInner<S>>,
    visits: AtomicUsize,
}

impl<S: System> ListNode<S> {
    pub(crate) fn new() -> Self {
        Self { next: UnsafeCell::new(core::ptr::null_mut()), visits: AtomicUsize::new(0) }
    }

    /// Whether the cache is being destroyed.
    pub(crate) fn is_closed(&self) -> bool {
        // Relaxed: asked by who closed it; others may hear either.
        self.visits.load(Ordering::Relaxed) & CLOSED != 0
    }
}

/// A visit to a cache of the list. Dropping it ends the visit, also when the visitor panics.
struct Visit<S: System> {
    inner: NonNull<CacheInner<S>>,
}

impl<S: System> Visit<S> {
    fn inner(&self) -> &CacheInner<S> {
        // SAFETY: I1 and I2: it is visited until `self` is dropped, so it is in the list, and alive.
        unsafe { self.inner.as_ref() }
    }
}

impl<S: System> Drop for Visit<S> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `close`: whoever waits there sees all that the visitor did.
        self.inner().list_node.visits.fetch_sub(1, Ordering::Release);
    }
}

/// The caches that users made.
#[derive(Debug)]
pub(crate) struct CacheList<S: System> {
    first: IrqLock<First<S>>,
}

#[derive(Debug)]
struct First<S: System>(*mut CacheInner<S>);

// SAFETY: the inners behind the pointer are reached only as this file says, and may be used on any CPU when P and C may.
unsafe impl<S: System<Pages: Send, Cpus: Send>> Send for First<S> {}

impl<S: System> CacheList<S> {
    pub(crate) fn new() -> Self {
        Self { first: IrqLock::new(First(core::ptr::null_mut())) }
    }

    /// Adds a cache; whether that could be done (not by an interrupt that came upon the lock).
    ///
    /// # Safety
    /// 1. `cache` is alive, in no list, and does not die before [`unlink`](Self::unlink).
    pub(crate) unsafe fn link(
        &self,
        inner: NonNull<CacheInner<S>>,
        locking: &CacheSlots<S::Cpus>,
    ) -> bool {
        let token = locking.lock_token();
        let Some(mut first) = token.lock(&self.first) else { return false };
        // SAFETY: clause 1: alive, and the list's lock is held.
        unsafe { Self::set_next(inner, first.0) };
        first.0 = inner.as_ptr();
        true
    }

    /// Calls `look` with each cache that is not closed; none of them goes meanwhile, and no lock is held. A panic in `look`
    /// ends the visit.
    pub(crate) fn visit(
        &self,
        locking: &CacheSlots<S::Cpus>,
        mut look: impl FnMut(&CacheInner<S>),
    ) {
        let mut current = self.begin_visit(None, locking);
        while let Some(visit) = current {
            look(visit.inner());
            current = self.begin_visit(Some(visit.inner), locking);
        }
    }

    /// Begins a visit to the cache after `inner`, which is being visited, or to the first. None when there is none, or when
    /// an interrupted owner has the lock.
    fn begin_visit(
        &self,
        inner: Option<NonNull<CacheInner<S>>>,
        locking: &CacheSlots<S::Cpus>,
    ) -> Option<Visit<S>> {
        let token = locking.lock_token();
        let first = token.lock(&self.first)?;
        // SAFETY: I1: visited, so alive, and we hold the lock.
        let mut next = inner.map_or(first.0, |inner| unsafe { Self::next(inner) });
        while let Some(inner) = NonNull::new(next) {
            // SAFETY: I1.
            let visits = unsafe { &inner.as_ref().list_node.visits };
            // Relaxed: raised, and closed, only under the lock.
            if visits.load(Ordering::Relaxed) & CLOSED == 0 {
                visits.fetch_add(1, Ordering::Relaxed);
                return Some(Visit { inner });
            }
            // SAFETY: I1, under the lock.
            next = unsafe { Self::next(inner) };
        }
        None
    }

    /// Keeps new visitors away from `cache` and waits until those that are there have gone; whether that could be done
    /// (not by an interrupt that came upon the lock).
    ///
    /// Must not be called by a visitor.
    pub(crate) fn close(&self, inner: &CacheInner<S>, locking: &CacheSlots<S::Cpus>) -> bool {
        {
            let token = locking.lock_token();
            let Some(_first) = token.lock(&self.first) else { return false };
            // Relaxed: read for this bit only under the lock.
            inner.list_node.visits.fetch_or(CLOSED, Ordering::Relaxed);
        }
        // Acquire: pairs with the Release at the end of a visit.
        while inner.list_node.visits.load(Ordering::Acquire) != CLOSED {
            spin_hint();
        }
        true
    }

    /// Lets visitors come to a closed cache again.
    pub(crate) fn reopen(&self, inner: &CacheInner<S>) {
        // Release: pairs with the lock that the next visitor takes, though what it finds is under locks of its own.
        inner.list_node.visits.store(0, Ordering::Release);
    }

    /// Takes `cache` out; whether that could be done (not by an interrupt that came upon the lock).
    ///
    /// # Safety
    /// 1. `cache` is in the list and closed.
    pub(crate) unsafe fn unlink(
        &self,
        inner: NonNull<CacheInner<S>>,
        locking: &CacheSlots<S::Cpus>,
    ) -> bool {
        let token = locking.lock_token();
        let Some(mut first) = token.lock(&self.first) else { return false };
        // SAFETY: clause 1: alive, under the lock.
        let next = unsafe { Self::next(inner) };
        if first.0 == inner.as_ptr() {
            first.0 = next;
            return true;
        }
        let mut before = NonNull::new(first.0);
        while let Some(other) = before {
            // SAFETY: I1, under the lock.
            let after = unsafe { Self::next(other) };
            if after == inner.as_ptr() {
                // SAFETY: I1, under the lock.
                unsafe { Self::set_next(other, next) };
                break;
            }
            before = NonNull::new(after);
        }
        true
    }

    /// # Safety
    /// 1. The cache is alive and the caller holds the lock.
    unsafe fn next(inner: NonNull<CacheInner<S>>) -> *mut CacheInner<S> {
        // SAFETY: clause 1: it is alive, and taken off only under the lock that the caller holds.
        let list_node = unsafe { &inner.as_ref().list_node };
        // SAFETY: clause 1: under the lock nobody changes it.
        list_node.next.with(|next| unsafe { *next })
    }

    /// # Safety
    /// 1. The cache is alive and the caller holds the lock.
    unsafe fn set_next(inner: NonNull<CacheInner<S>>, new: *mut CacheInner<S>) {
        // SAFETY: clause 1: it does not die under the lock.
        let list_node = unsafe { &inner.as_ref().list_node };
        // SAFETY: clause 1: under the lock nobody else looks at it.
        list_node.next.with_mut(|next| unsafe { *next = new });
    }
}
