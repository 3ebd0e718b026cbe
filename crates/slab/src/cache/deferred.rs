//! Frees that wait for a grace period, in batches.
//!
//! # Concepts
//! A free under RCU (`kfree_rcu` on Linux) must wait until all readers have ended that may have
//! found the object. A [`DeferredFrees`] collects such objects in magazines. The **young** ones do
//! not wait yet. When their magazine is full, they become a **group** that waits for a grace
//! period. There are a few groups at most, each with a token, so that objects come back a few
//! magazines at a time, as they are allocated, and not all at once. While all groups wait, the
//! young ones become more, and the next group is larger. So the state has a fixed size, however
//! much waits.
//!
//! After the grace period a full magazine goes to the depot as it is, and an allocation on any CPU
//! takes it from there. No object is looked at, and the lock is taken once for a magazine.
//!
//! # Concurrency
//! The value has one owner at a time, by `&mut`. A kernel has one for each CPU, and uses it with
//! preemption off; or it has one in a lock.
//!
//! # Invariants
//! - I1: the caller of `free` has given up the objects in all magazines. Only readers that began
//!   before that call may use them.
//! - I2: every object of a group was freed before the grace period of its token was started.
//! - I3: `groups` from `first` on, `count` of them, wait, the oldest first. The others are empty.

use core::fmt;
use core::ptr::NonNull;

use crate::cache::handle::Cache;
use crate::cache::pool::Pool;
use crate::grace::GracePeriods;
use crate::hardening::presets::{Hardening, Off, is_any_on};
use crate::patience::Patience;
use crate::percpu::magazine::{Chain, Magazine};
use crate::registry::aging::age_if_due;
use crate::system::System;

/// Maximum number of groups that wait: a guess. More give objects back in smaller parts.
const GROUPS: usize = 8;

/// A free could not be deferred: the limit is reached, or there is no memory for another magazine,
/// and the grace period that the others wait for has not ended. The object is still the caller's,
/// which may wait for a grace period by itself and then [free](Cache::free) it.
/// Example: see [`DeferredFrees`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GracePending;

impl fmt::Display for GracePending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too many objects wait for a grace period that has not ended")
    }
}

impl core::error::Error for GracePending {}

/// Objects of a cache whose frees wait for a grace period. See [`Cache::deferred_frees`].
///
/// Dropping it [waits](Self::wait). If the machine does not wait, the objects that still wait stay
/// in use for ever: [`Cache::destroy`] then counts them, and
/// [`for_each_live`](Cache::for_each_live) lists them.
///
/// ```
/// # use core::{alloc::Layout, mem::MaybeUninit};
/// # use page_frame::{Arena, SingleCpu};
/// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
/// # let arena = Arena::new(&mut memory)?;
/// # let registry = slab::Registry::new(&arena, SingleCpu::new())?;
/// # use std::sync::atomic::{AtomicU64, Ordering::{AcqRel, Acquire}};
/// use slab::{DeferredFrees, GracePending, GracePeriods};
/// /// Counts grace periods. A kernel asks its RCU.
/// struct Epochs(AtomicU64);
/// // SAFETY: clause 1: nothing is read in this example.
/// unsafe impl GracePeriods for Epochs {
///     fn start(&self) -> u64 {
///         self.0.load(Acquire) + 1
///     }
///     fn has_ended(&self, token: u64) -> bool {
///         self.0.load(Acquire) >= token
///     }
/// }
/// let epochs = Epochs(AtomicU64::new(0));
/// let routes = registry.cache("route", Layout::new::<[u64; 8]>()).build()?;
/// let mut deferred: DeferredFrees<'_, _, _> = routes.deferred_frees(&epochs, 100);
/// // After it was unlinked, so that no new reader finds it.
/// // SAFETY: clauses 1 and 2: allocated here, and used by no reader.
/// unsafe { deferred.free(routes.allocate()?) }?;
/// assert_eq!((deferred.poll(), deferred.waiting()), (0, 1), "its readers may go on");
/// epochs.0.fetch_add(1, AcqRel); // all readers have ended
/// assert_eq!((deferred.poll(), deferred.waiting()), (1, 0));
/// // Up to the limit. An error leaves the object to the caller.
/// let refused = loop {
///     let route = routes.allocate()?;
///     // SAFETY: as above.
///     if let Err(GracePending) = unsafe { deferred.free(route) } {
///         break route;
///     }
/// };
/// assert!(deferred.waiting() >= 100 && !deferred.wait());
/// epochs.0.fetch_add(2, AcqRel); // all readers have ended, those of the refused one too
/// // SAFETY: clauses 1 and 2: refused above, so ours, and used by no reader any more.
/// unsafe { routes.free(refused) };
/// assert!(deferred.wait());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "dropping it waits for a grace period"]
pub struct DeferredFrees<'c, S: System, G: GracePeriods, K: Hardening = Off> {
    cache: &'c Cache<S, K>,
    grace: G,
    /// Objects that do not wait yet.
    young: Pool,
    /// Empty magazines.
    spare: Chain,
    groups: [Group; GROUPS],
    first: usize,
    count: usize,
    /// The objects of all groups.
    grouped: usize,
    most: usize,
}

/// Objects that wait for the grace period of a token.
#[derive(Debug)]
struct Group {
    pool: Pool,
    token: u64,
}

impl<S: System, G: GracePeriods, K: Hardening> fmt::Debug for DeferredFrees<'_, S, G, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeferredFrees")
            .field("cache", &self.cache.name())
            .field("waiting", &self.waiting())
            .finish_non_exhaustive()
    }
}

impl<'c, S: System, G: GracePeriods, K: Hardening> DeferredFrees<'c, S, G, K> {
    /// Makes a list of frees of `cache` that has none yet.
    pub(crate) fn new(cache: &'c Cache<S, K>, grace: G, most: usize) -> Self {
        let groups = [const { Group { pool: Pool::new(), token: 0 } }; GROUPS];
        let (young, spare) = (Pool::new(), Chain::new());
        Self { cache, grace, young, spare, groups, first: 0, count: 0, grouped: 0, most }
    }

    /// Frees `object` after a grace period that begins after this call.
    ///
    /// Usually a push to a magazine. When the magazine is full, does what [`poll`](Self::poll)
    /// does, and takes an empty magazine, which may take locks and ask the page source. At the
    /// limit it calls [`GracePeriods::wait`], once for each group of objects that it frees by that.
    ///
    /// A preset that checks objects checks this one when it is freed at last, as readers may need
    /// its content. Example: see [`DeferredFrees`].
    ///
    /// # Errors
    /// [`GracePending`]; the object is the caller's then, as before.
    ///
    /// # Safety
    /// 1. All clauses of [`Cache::free`], except that read-side critical sections that began before
    ///    this call may use `object` until they end.
    /// 2. `object` is in constructed state, where the cache has one, when the last of them ends.
    #[inline]
    #[track_caller]
    pub unsafe fn free(&mut self, object: NonNull<u8>) -> Result<(), GracePending> {
        if self.young.push(object) || self.push_missed(object) { Ok(()) } else { Err(GracePending) }
    }

    /// Frees the objects whose grace period has ended; returns how many. Never waits. Objects that
    /// do not fill a magazine begin to wait if no others wait, so a machine that calls this
    /// regularly frees each object after two grace periods at the latest.
    ///
    /// Takes the lock of the depot once for each full magazine, and that of the slabs for each one
    /// that is not full or for which the depot has no room. Example: see [`DeferredFrees`].
    pub fn poll(&mut self) -> usize {
        let freed = self.free_ended();
        if self.count == 0 {
            self.begin_wait();
        }
        freed
    }

    /// Waits until all objects are freed, by [`GracePeriods::wait`]. Returns whether they are: it
    /// gives up when that does not wait. Example: see [`DeferredFrees`].
    pub fn wait(&mut self) -> bool {
        loop {
            self.poll();
            let Some(token) = self.oldest() else { return true };
            if !self.grace.wait(token) {
                return false;
            }
            self.free_oldest();
        }
    }

    /// Returns how many objects wait, or will begin to. O(1). Example: see [`DeferredFrees`].
    pub const fn waiting(&self) -> usize {
        self.young.objects() + self.grouped
    }

    /// Returns the token of the oldest group, if one waits.
    fn oldest(&self) -> Option<u64> {
        (self.count > 0).then_some(self.groups[self.first].token)
    }

    /// Makes a group of the young objects, if there are some and not all groups wait.
    fn begin_wait(&mut self) {
        if self.count < GROUPS && self.young.objects() > 0 {
            // After the calls of `free`, as I2 wants. Before the pool is made, as `start` may
            // panic.
            let token = self.grace.start();
            let pool = self.young.take_filled();
            self.grouped += pool.objects();
            self.groups[(self.first + self.count) % GROUPS] = Group { pool, token };
            self.count += 1;
        }
    }

    /// Frees the groups whose grace period has ended; returns how many objects they had.
    fn free_ended(&mut self) -> usize {
        let mut freed = 0;
        while self.oldest().is_some_and(|token| self.grace.has_ended(token)) {
            freed += self.free_oldest();
        }
        freed
    }

    /// Puts `object` into a magazine after the young ones had no room. Returns whether that
    /// succeeded.
    #[cold]
    #[inline(never)]
    fn push_missed(&mut self, object: NonNull<u8>) -> bool {
        loop {
            self.free_ended();
            self.begin_wait();
            if self.push_to_more(object) {
                return true;
            }
            let has_ended = self.oldest().is_some_and(|token| self.grace.wait(token));
            if !has_ended {
                return false;
            }
            // It may have fewer objects than are above the limit.
            self.free_oldest();
        }
    }

    /// Puts `object` into an empty magazine, if the limit is not reached and there is one. Returns
    /// whether that succeeded.
    fn push_to_more(&mut self, object: NonNull<u8>) -> bool {
        if self.waiting() >= self.most {
            return false;
        }
        let (percpu, backing) = (&self.cache.inner().percpu, &self.cache.inner().backing);
        let empty = self.spare.pop().or_else(|| percpu.take_empty(backing));
        let Some(empty) = empty.or_else(|| backing.new_magazine()) else { return false };
        self.young.push_empty(empty);
        self.young.push(object)
    }

    /// Frees the oldest group, whose grace period has ended; returns how many objects it had. If
    /// code of the user panics, the rest waits on, and the next call frees it.
    fn free_oldest(&mut self) -> usize {
        let (at, before) = (self.first, self.grouped);
        if is_any_on::<K>() {
            while let Some(object) = self.groups[at].pool.pop() {
                self.grouped -= 1;
                // SAFETY: by I1 the object was given up by the clauses of `Cache::free`, except
                // that readers might use it. By I2 and clause 1 of `GracePeriods` they have ended.
                unsafe { self.cache.free(object) };
            }
        } else {
            // I1, I2 and clause 1 of `GracePeriods` here too: the objects are the cache's.
            while let Some(magazine) = self.groups[at].pool.pop_filled() {
                self.grouped -= magazine.length();
                self.store(magazine);
            }
            age_if_due(self.cache.registry());
        }
        while let Some(magazine) = self.groups[at].pool.pop_empty() {
            self.spare.push(magazine);
        }
        (self.first, self.count) = ((at + 1) % GROUPS, self.count - 1);
        before - self.grouped
    }

    /// Stores `magazine` in the depot, if it is full and the depot has room; otherwise empties it
    /// into the slabs. Keeps an empty magazine, if there is one then.
    fn store(&mut self, magazine: Magazine) {
        let (percpu, backing) = (&self.cache.inner().percpu, &self.cache.inner().backing);
        let objects = magazine.length();
        let (empty, refused) = match magazine.is_full() {
            true => percpu.exchange_full(backing, magazine),
            false => (None, Some(magazine)),
        };
        let empty = match refused {
            Some(refused) => Some(backing.empty(refused, Patience::Wait).0),
            None => percpu.trace_stored(backing, empty, objects),
        };
        if let Some(empty) = empty {
            self.spare.push(empty);
        }
    }

    /// Frees the memory of all magazines, and leaves the objects in them in use for ever.
    fn abandon(&mut self) {
        let mut empty = self.spare.take();
        let groups = self.groups.iter_mut().map(|group| &mut group.pool);
        for pool in groups.chain([&mut self.young]).map(Pool::take) {
            let (mut filled, mut spare) = pool.into_chains();
            while let Some(mut magazine) = filled.pop() {
                magazine.take_all();
                empty.push(magazine);
            }
            while let Some(magazine) = spare.pop() {
                empty.push(magazine);
            }
        }
        self.cache.inner().backing.drain(Chain::new(), empty, Patience::Wait);
    }
}

impl<S: System, G: GracePeriods, K: Hardening> Drop for DeferredFrees<'_, S, G, K> {
    fn drop(&mut self) {
        EndGuard(self).0.wait();
    }
}

/// The end of a list. Dropping it frees what is left, also when code of the user has panicked.
struct EndGuard<'d, 'c, S: System, G: GracePeriods, K: Hardening>(
    &'d mut DeferredFrees<'c, S, G, K>,
);

impl<S: System, G: GracePeriods, K: Hardening> Drop for EndGuard<'_, '_, S, G, K> {
    fn drop(&mut self) {
        self.0.wait();
        self.0.abandon();
    }
}
