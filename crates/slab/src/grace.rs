//! Grace periods: when all readers that may still hold a pointer to an object have ended.
//!
//! # Concepts
//! Under RCU (read-copy-update; McKenney and Slingwine 1998) readers take no lock. A writer unlinks
//! an object and then waits for a **grace period**: until every read-side critical section that
//! began before has ended. Only the machine knows when that is, so this crate asks it, by a
//! **token** that can be polled. The kernel of Linux has the same interface
//! (`start_poll_synchronize_rcu`, `poll_state_synchronize_rcu`, `cond_synchronize_rcu`).
//!
//! Two parts of the crate use it: caches whose memory keeps its type
//! ([`type_stable`](crate::CacheBuilder::type_stable)), and frees that wait
//! ([`DeferredFrees`](crate::DeferredFrees)). Both collect what waits in groups, each with one
//! token: what comes later waits for a later token. So the number of tokens does not grow with what
//! waits.

/// The grace periods of a machine.
///
/// The caches call [`start`](Self::start) and [`has_ended`](Self::has_ended) with interrupts masked
/// and a lock held. Neither may wait, nor use the registry. If one panics, no memory is released
/// too early, and none is lost. An object that was passed to
/// [`DeferredFrees::free`](crate::DeferredFrees::free) then still belongs to the caller.
///
/// ```
/// use slab::GracePeriods;
/// use std::sync::atomic::{AtomicU64, Ordering::{AcqRel, Acquire}};
///
/// /// One reader, which counts up when it begins and when it ends. So it reads while the count is
/// /// odd.
/// struct OneReader(AtomicU64);
///
/// // SAFETY: clause 1: a section that began before `start` has ended once the count is another
/// // one, or if it was even; the Acquire pairs with the Release of the change that ended it.
/// unsafe impl GracePeriods for OneReader {
///     fn start(&self) -> u64 {
///         self.0.fetch_add(0, AcqRel)
///     }
///     fn has_ended(&self, token: u64) -> bool {
///         token % 2 == 0 || self.0.load(Acquire) != token
///     }
/// }
///
/// let reader = OneReader(AtomicU64::new(0));
/// assert!(reader.has_ended(reader.start()), "nothing is read");
/// reader.0.fetch_add(1, AcqRel); // begins to read
/// let token = reader.start();
/// assert!(!reader.wait(token));
/// reader.0.fetch_add(1, AcqRel); // ends
/// assert!(reader.has_ended(token));
/// ```
///
/// # Safety
/// 1. After `has_ended` or `wait` returned `true` for a token, every read-side critical section
///    that began before the call of `start` which returned that token has ended, and its accesses
///    happen before that return.
pub unsafe trait GracePeriods: Sync {
    /// Returns a token for a grace period that begins now or later. Asks the machine to begin one,
    /// if it begins none by itself. Example: see [`GracePeriods`].
    fn start(&self) -> u64;

    /// Returns whether the grace period of `token` has ended. `false` is always a right answer.
    /// Example: see [`GracePeriods`].
    fn has_ended(&self, token: u64) -> bool;

    /// Waits for the end of the grace period of `token`, if the calling context may wait. Returns
    /// whether it has ended. The default only asks. Called with no lock held: for
    /// [`shrink_all`](crate::Cache::shrink_all), for
    /// [`DeferredFrees::wait`](crate::DeferredFrees::wait), at the limit of a
    /// [`DeferredFrees`](crate::DeferredFrees), and when either ends. While
    /// [`Registry::shrink_all`](crate::Registry::shrink_all) calls it for a cache, the destruction
    /// of that cache spins. So it must not destroy the cache, and no grace period may depend on a
    /// CPU that does. Example: see [`GracePeriods`].
    fn wait(&self, token: u64) -> bool {
        self.has_ended(token)
    }
}

// SAFETY: clause 1 is that of `G`, whose answers are returned as they are.
unsafe impl<G: GracePeriods + ?Sized> GracePeriods for &G {
    fn start(&self) -> u64 {
        G::start(self)
    }

    fn has_ended(&self, token: u64) -> bool {
        G::has_ended(self, token)
    }

    fn wait(&self, token: u64) -> bool {
        G::wait(self, token)
    }
}
