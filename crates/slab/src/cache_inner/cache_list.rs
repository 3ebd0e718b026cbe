//! The list of a registry's caches, walked without holding its lock, while caches come and go.
//!
//! # Concepts
//! - A **visitor** looks at one cache after the other. It finds the next one under the lock, raises
//!   that cache's count of visits, and looks at it with no lock held: the visitor may shrink the
//!   cache, which calls the page source.
//! - A **round** visits each cache once, with a call for each visit. The list keeps the cache at
//!   which the round continues.
//! - A cache leaves in three steps: it is **closed**, so that no new visit begins; the running
//!   visits end; then it is unlinked. The CPU that destroys a cache waits for the visits: objects
//!   that a visitor moves from magazines to the slabs would otherwise count as in use.
//!
//! # Invariants
//! - I1: a cache in the list is alive. Its `next` is read and written under the lock.
//! - I2: a cache that is visited stays in the list, so the visitor may continue with its `next`.
//! - I3: `round` is null or a cache in the list. It is read and written under the lock.
//!
//! # Concurrency
//! One lock, taken through `PerCpu::lock_token`. The end of a visit is a Release that pairs with
//! the Acquire of the wait in `close`.

use core::ptr::NonNull;

use page_frame::sync::{AtomicUsize, Ordering, UnsafeCell};
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
    places: IrqLock<Places<T>>,
}

/// Places of the list.
#[derive(Debug)]
struct Places<T> {
    first: *mut T,
    /// The cache that the round visits next; null at its end.
    round: *mut T,
}

// SAFETY: the list uses the caches by shared reference, which is sound on any CPU as `T` is Sync.
unsafe impl<T: Sync> Send for Places<T> {}

impl<T: Listed> CacheList<T> {
    pub(crate) fn new() -> Self {
        let nothing = core::ptr::null_mut();
        Self { places: IrqLock::new(Places { first: nothing, round: nothing }) }
    }

    /// Adds a cache. Returns whether that succeeded: it fails in an interrupt handler that finds
    /// the lock held.
    ///
    /// # Safety
    /// 1. `cache` is alive, in no list, and lives until [`unlink`](Self::unlink).
    pub(crate) unsafe fn link<C: Cpu>(&self, cache: NonNull<T>, locking: &CacheSlots<C>) -> bool {
        let token = locking.lock_token();
        let Some(mut places) = token.lock(&self.places) else { return false };
        // SAFETY: clause 1 of `set_next`: the cache is alive (clause 1), and the list's lock is
        // held.
        unsafe { Self::set_next(cache, places.first) };
        places.first = cache.as_ptr();
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

    /// Begins a round: the calls of [`visit_next`](Self::visit_next) that follow visit each cache.
    pub(crate) fn begin_round<C: Cpu>(&self, locking: &CacheSlots<C>) {
        let token = locking.lock_token();
        if let Some(mut places) = token.lock(&self.places) {
            places.round = places.first;
        }
    }

    /// Calls `look` with the next cache of the round that is not closed, as [`visit`](Self::visit)
    /// does. `look` returns whether the round goes on to the cache after it; otherwise the next
    /// call visits the same cache. Returns false at the end of the round, or if the context that
    /// this one interrupted holds the lock.
    pub(crate) fn visit_next<C: Cpu>(
        &self,
        locking: &CacheSlots<C>,
        look: impl FnOnce(&T) -> bool,
    ) -> bool {
        let begin = || {
            let token = locking.lock_token();
            let mut places = token.lock(&self.places)?;
            // SAFETY: clause 1 of `begin_at`: I3, and we hold the lock.
            let visit = unsafe { Self::begin_at(places.round) };
            places.round = visit.as_ref().map_or(core::ptr::null_mut(), |it| it.cache.as_ptr());
            visit
        };
        let Some(visit) = begin() else { return false };
        if look(visit.cache()) {
            let token = locking.lock_token();
            // Another round may have begun.
            if let Some(mut places) = token.lock(&self.places) {
                if places.round == visit.cache.as_ptr() {
                    // SAFETY: clause 1 of `next`: visited, so by I2 and I1 alive, and we hold the
                    // lock.
                    places.round = unsafe { Self::next(visit.cache) };
                }
            }
        }
        true
    }

    /// Begins a visit to the cache after `cache`, which is being visited, or to the first. `None`
    /// at the end of the list, or if the context that this one interrupted holds the lock.
    fn begin_visit<C: Cpu>(
        &self,
        cache: Option<NonNull<T>>,
        locking: &CacheSlots<C>,
    ) -> Option<Visit<T>> {
        let token = locking.lock_token();
        let places = token.lock(&self.places)?;
        // SAFETY: clause 1 of `next`: the cache is visited, so by I2 and I1 alive, and we hold the
        // lock.
        let next = cache.map_or(places.first, |cache| unsafe { Self::next(cache) });
        // SAFETY: clause 1 of `begin_at`: the first cache, or one after another, and we hold the
        // lock.
        unsafe { Self::begin_at(next) }
    }

    /// Begins a visit to the first cache from `next` on that is not closed.
    ///
    /// # Safety
    /// 1. `next` is null or a cache in the list, and the caller holds the lock.
    unsafe fn begin_at(mut next: *mut T) -> Option<Visit<T>> {
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
            let Some(_places) = token.lock(&self.places) else { return false };
            // Relaxed: read for this bit only under the lock.
            cache.node().visits.fetch_or(CLOSED, Ordering::Relaxed);
        }
        for round in 0.. {
            // Acquire: pairs with the Release at the end of a visit.
            if cache.node().visits.load(Ordering::Acquire) == CLOSED {
                break;
            }
            // A visit may wait for a grace period, and its thread may have a lower priority.
            locking.cpu().wait(round);
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
        let Some(mut places) = token.lock(&self.places) else { return false };
        // SAFETY: clause 1 of `next`: the cache is in the list, so alive (I1), and we hold the
        // lock.
        let next = unsafe { Self::next(cache) };
        if places.round == cache.as_ptr() {
            places.round = next;
        }
        if places.first == cache.as_ptr() {
            places.first = next;
            return true;
        }
        let mut before = NonNull::new(places.first);
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
        let places = token.lock(&self.places).expect("no code holds the lock");
        let mut next = places.first;
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
