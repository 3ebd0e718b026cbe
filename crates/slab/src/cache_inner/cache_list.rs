//! The list of a registry's caches, walked without holding its lock, while caches come and go.
//!
//! # Concepts
//! - A **visitor** looks at one cache after the other. It finds the next one under the lock, raises
//!   that cache's count of visits, and looks at it with no lock held: the visitor may shrink the
//!   cache, which calls the page source.
//! - A cache leaves in three steps: it is **closed**, so that no new visit begins; the running
//!   visits end; then it is unlinked. The CPU that destroys a cache waits for the visits: objects
//!   that a visitor moves from magazines to the slabs would otherwise count as in use.
//!
//! # Invariants
//! - I1: a cache in the list is alive. Its `next` is read and written under the lock.
//! - I2: a cache that is visited stays in the list, so the visitor may continue with its `next`.
//!
//! # Concurrency
//! One lock, taken through `PerCpu::lock_token`. The end of a visit is a Release that pairs with
//! the Acquire of the wait in `close`.

use core::ptr::NonNull;

use page_frame::sync::{AtomicUsize, Ordering, UnsafeCell, spin_hint};
use page_frame::{Cpu, IrqLock};

use crate::percpu::slot::CacheSlots;

/// Set in a cache's `visits` once it is closed; the lower bits count visits.
const CLOSED: usize = 1 << (usize::BITS - 1);

/// A cache that may be in the list.
pub(crate) trait Listed: Sized {
    /// Returns the cache's node, always the same one.
    fn node(&self) -> &ListNode<Self>;
}

/// The list node of a cache.
#[derive(Debug)]
pub(crate) struct ListNode<T> {
    next: UnsafeCell<*mut T>,
    visits: AtomicUsize,
}

impl<T> ListNode<T> {
    pub(crate) fn new() -> Self {
        Self { next: UnsafeCell::new(core::ptr::null_mut()), visits: AtomicUsize::new(0) }
    }

    /// Returns whether the cache is being destroyed.
    pub(crate) fn is_closed(&self) -> bool {
        // Relaxed: the CPU that closed it sees its own write; other CPUs may get either answer.
        self.visits.load(Ordering::Relaxed) & CLOSED != 0
    }
}

/// A visit to a cache of the list. Dropping it ends the visit, also when the visitor panics.
struct Visit<T: Listed> {
    cache: NonNull<T>,
}

impl<T: Listed> Visit<T> {
    fn cache(&self) -> &T {
        // SAFETY: the cache is visited until `self` is dropped, so by I2 it is in the list and by
        // I1 alive.
        unsafe { self.cache.as_ref() }
    }
}

impl<T: Listed> Drop for Visit<T> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `close`: the CPU that waits there sees all that the
        // visitor did.
        self.cache().node().visits.fetch_sub(1, Ordering::Release);
    }
}

/// The caches that users made.
#[derive(Debug)]
pub(crate) struct CacheList<T> {
    first: IrqLock<First<T>>,
}

#[derive(Debug)]
struct First<T>(*mut T);

// SAFETY: the list uses the caches by shared reference, which is sound on any CPU as `T` is Sync.
unsafe impl<T: Sync> Send for First<T> {}

impl<T: Listed> CacheList<T> {
    pub(crate) fn new() -> Self {
        Self { first: IrqLock::new(First(core::ptr::null_mut())) }
    }

    /// Adds a cache. Returns whether that succeeded: it fails in an interrupt handler that finds
    /// the lock held.
    ///
    /// # Safety
    /// 1. `cache` is alive, in no list, and lives until [`unlink`](Self::unlink).
    pub(crate) unsafe fn link<C: Cpu>(&self, cache: NonNull<T>, locking: &CacheSlots<C>) -> bool {
        let token = locking.lock_token();
        let Some(mut first) = token.lock(&self.first) else { return false };
        // SAFETY: clause 1 of `set_next`: the cache is alive (clause 1), and the list's lock is
        // held.
        unsafe { Self::set_next(cache, first.0) };
        first.0 = cache.as_ptr();
        true
    }

    /// Calls `look` with each cache that is not closed, with no lock held. No cache is destroyed
    /// during its visit. A panic in `look` ends the visit.
    pub(crate) fn visit<C: Cpu>(&self, locking: &CacheSlots<C>, mut look: impl FnMut(&T)) {
        let mut current = self.begin_visit(None, locking);
        while let Some(visit) = current {
            look(visit.cache());
            current = self.begin_visit(Some(visit.cache), locking);
        }
    }

    /// Begins a visit to the cache after `cache`, which is being visited, or to the first. `None`
    /// at the end of the list, or if the context that this one interrupted holds the lock.
    fn begin_visit<C: Cpu>(
        &self,
        cache: Option<NonNull<T>>,
        locking: &CacheSlots<C>,
    ) -> Option<Visit<T>> {
        let token = locking.lock_token();
        let first = token.lock(&self.first)?;
        // SAFETY: clause 1 of `next`: the cache is visited, so by I2 and I1 alive, and we hold the
        // lock.
        let mut next = cache.map_or(first.0, |cache| unsafe { Self::next(cache) });
        while let Some(cache) = NonNull::new(next) {
            // SAFETY: I1: a cache in the list is alive.
            let visits = &unsafe { cache.as_ref() }.node().visits;
            // Relaxed: raised, and closed, only under the lock.
            if visits.load(Ordering::Relaxed) & CLOSED == 0 {
                visits.fetch_add(1, Ordering::Relaxed);
                return Some(Visit { cache });
            }
            // SAFETY: I1, under the lock.
            next = unsafe { Self::next(cache) };
        }
        None
    }

    /// Closes `cache` to new visits and waits until the running ones have ended. Returns whether
    /// that succeeded: it fails in an interrupt handler that finds the lock held.
    ///
    /// A visitor must not call it: it would wait for its own visit.
    pub(crate) fn close<C: Cpu>(&self, cache: &T, locking: &CacheSlots<C>) -> bool {
        {
            let token = locking.lock_token();
            let Some(_first) = token.lock(&self.first) else { return false };
            // Relaxed: read for this bit only under the lock.
            cache.node().visits.fetch_or(CLOSED, Ordering::Relaxed);
        }
        // Acquire: pairs with the Release at the end of a visit.
        while cache.node().visits.load(Ordering::Acquire) != CLOSED {
            spin_hint();
        }
        true
    }

    /// Opens a closed cache to visits again.
    pub(crate) fn reopen(&self, cache: &T) {
        // Release: for the next visitor. It is not needed: a visitor reads the cache under other
        // locks.
        cache.node().visits.store(0, Ordering::Release);
    }

    /// Removes `cache` from the list. Returns whether that succeeded: it fails in an interrupt
    /// handler that finds the lock held.
    ///
    /// # Safety
    /// 1. `cache` is in the list and closed.
    pub(crate) unsafe fn unlink<C: Cpu>(&self, cache: NonNull<T>, locking: &CacheSlots<C>) -> bool {
        let token = locking.lock_token();
        let Some(mut first) = token.lock(&self.first) else { return false };
        // SAFETY: clause 1 of `next`: the cache is in the list, so alive (I1), and we hold the
        // lock.
        let next = unsafe { Self::next(cache) };
        if first.0 == cache.as_ptr() {
            first.0 = next;
            return true;
        }
        let mut before = NonNull::new(first.0);
        while let Some(other) = before {
            // SAFETY: I1, under the lock.
            let after = unsafe { Self::next(other) };
            if after == cache.as_ptr() {
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
    unsafe fn next(cache: NonNull<T>) -> *mut T {
        // SAFETY: clause 1: the cache is alive, and unlinked only under the lock, which the caller
        // holds.
        let node = unsafe { cache.as_ref() }.node();
        // SAFETY: clause 1: under the lock no code changes it.
        node.next.with(|next| unsafe { *next })
    }

    /// # Safety
    /// 1. The cache is alive and the caller holds the lock.
    unsafe fn set_next(cache: NonNull<T>, new: *mut T) {
        // SAFETY: clause 1: the cache is alive, and unlinked only under the lock, which the caller
        // holds.
        let node = unsafe { cache.as_ref() }.node();
        // SAFETY: clause 1: under the lock no other code uses `next`.
        node.next.with_mut(|next| unsafe { *next = new });
    }
}

#[cfg(all(test, not(loom)))]
impl<T: Listed> CacheList<T> {
    /// Returns whether `cache` is in the list, closed or not.
    pub(crate) fn contains<C: Cpu>(&self, cache: NonNull<T>, locking: &CacheSlots<C>) -> bool {
        let token = locking.lock_token();
        let first = token.lock(&self.first).expect("no code holds the lock");
        let mut next = first.0;
        while let Some(other) = NonNull::new(next) {
            if other == cache {
                return true;
            }
            // SAFETY: I1, under the lock.
            next = unsafe { Self::next(other) };
        }
        false
    }
}
