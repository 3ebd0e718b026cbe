//! The slabs of a cache: how they are cut, which of their objects are free, and the set of them
//! all.
//!
//! # Concepts
//! [`Slabs`] owns the slab set and its lock, and the stack of slabs that wait to be sorted into the
//! set again. It allocates and frees objects; `lifecycle` makes slabs from blocks of the page
//! source and releases them. It uses no magazines, and CPU slots only for the lock token. Pages and
//! memory for headers come from the [`SlabSource`] of the registry.

pub(crate) mod chain;
pub(crate) mod checks;
pub(crate) mod clock;
pub(crate) mod environment;
#[cfg(all(test, not(loom)))]
mod forged_links_tests;
pub(crate) mod free_word;
pub(crate) mod layout;
pub(crate) mod lifecycle;
pub(crate) mod list;
pub(crate) mod set;
pub(crate) mod settings;

use core::ptr::NonNull;

use page_frame::sync::{AtomicPtr, Ordering, TakeAll};
use page_frame::{Fault, FaultKind, IrqLock, IrqLockGuard, IrqLockToken};

use crate::patience::Patience;
use crate::percpu::slot::CpuSlot;
use crate::slabs::chain::FreedChain;
use crate::slabs::environment::Environment;
use crate::slabs::free_word::Pushed;
use crate::slabs::layout::geometry::Geometry;
use crate::slabs::layout::header::SlabHeader;
use crate::slabs::set::SlabSet;
use crate::slabs::settings::CacheSettings;
use crate::system::System;
use crate::trace::Event;

/// All slabs of one cache.
///
/// Headers refer to their cache by the address of this value, so it does not move while it has
/// slabs.
#[derive(Debug)]
pub(crate) struct Slabs {
    pub(crate) settings: CacheSettings,
    /// Slabs that got their first free object without the set lock, see [`FreeWord`].
    pending: TakeAll<SlabHeader>,
    set: IrqLock<SlabSet>,
}

impl Slabs {
    pub(crate) fn new(settings: CacheSettings) -> Self {
        Self { settings, pending: TakeAll::new(), set: IrqLock::new(SlabSet::new()) }
    }

    /// Returns the pointer by which headers refer to this cache.
    pub(crate) fn identity(&self) -> NonNull<()> {
        NonNull::from(self).cast()
    }

    /// Takes the set lock. `None` if it is held and the caller does not wait: nested contexts never
    /// do.
    pub(crate) fn lock<'l, S: System>(
        &'l self,
        token: &'l IrqLockToken<'_, CpuSlot, S::Cpus>,
        patience: Patience,
    ) -> Option<IrqLockGuard<'l, SlabSet, S::Cpus>> {
        patience.lock(token, &self.set)
    }

    /// Takes the set lock as [`lock`](Self::lock) does, and sorts the pending slabs into the set.
    pub(crate) fn lock_sorted<'l, S: System>(
        &'l self,
        token: &'l IrqLockToken<'_, CpuSlot, S::Cpus>,
        patience: Patience,
    ) -> Option<IrqLockGuard<'l, SlabSet, S::Cpus>> {
        let mut set = patience.lock(token, &self.set)?;
        set.take_pending(&self.pending, &self.settings.geometry);
        Some(set)
    }

    /// Finds the slab of the object at `address`, and the object's index. O(1), no lock.
    ///
    /// The caller frees the object or has just taken it, which keeps the slab's header alive. For
    /// an address that was freed before, or is not an object, the search is a best effort, as the
    /// caller has broken a clause of [`Cache::free`](crate::Cache::free).
    #[track_caller]
    pub(crate) fn find<S: System>(
        &self,
        environment: &Environment<S>,
        address: usize,
    ) -> Result<(NonNull<SlabHeader>, usize), Fault> {
        let header = self.find_slab(environment, address)?;
        // SAFETY: `find_slab` found it alive.
        let slab = unsafe { header.as_ref() };
        let geometry = &slab.geometry(&self.settings.geometry);
        let (index, behind) = slab.index_of(geometry, address);
        if index >= geometry.capacity() || behind != 0 {
            return Err(Fault::at_address(FaultKind::InteriorPointer, address));
        }
        Ok((header, index))
    }

    /// Finds the slab of this cache that `address` lies in. O(1), no lock. The caller is as for
    /// [`find`](Self::find).
    #[inline]
    #[track_caller]
    fn find_slab<S: System>(
        &self,
        environment: &Environment<S>,
        address: usize,
    ) -> Result<NonNull<SlabHeader>, Fault> {
        let (found, owner) = environment.tag_and_owner(address);
        if !found.is_slab() {
            return Err(Fault::at_address(FaultKind::ForeignPointer, address));
        }
        let header = NonNull::new(owner.cast::<SlabHeader>())
            .expect("set_owner wrote the header where it wrote the tag");
        // SAFETY: a page with a slab's tag is owned by a live header: the tag is cleared before the
        // header dies, and the caller's object keeps its slab alive.
        if unsafe { header.as_ref() }.cache != self.identity() {
            return Err(Fault::at_address(FaultKind::WrongCache, address));
        }
        Ok(header)
    }

    /// Returns whether the object at `address` was the last one freed into its slab, and is free
    /// still. Any address is allowed, as for [`find`](Self::find).
    pub(crate) fn is_freed_last<S: System>(
        &self,
        environment: &Environment<S>,
        address: usize,
    ) -> bool {
        self.find(environment, address).is_ok_and(|(header, index)| {
            // SAFETY: `find` found it alive.
            let seen = unsafe { header.as_ref() }.word.load();
            seen.free > 0 && seen.head == index
        })
    }

    /// Finds the slab of the object at `address` and the object's index as [`find`](Self::find)
    /// does, but for any address, also while other CPUs shrink the cache. Calls `look` with both
    /// under the set lock, which keeps the slab alive. `None` for a nested context that found the
    /// lock held. O(slabs).
    ///
    /// It reads only headers of the set, which live while the lock is held. The owner word of the
    /// address might name the header of a slab that is being released.
    #[track_caller]
    pub(crate) fn find_in_set<S: System, R>(
        &self,
        environment: &Environment<S>,
        address: usize,
        look: impl FnOnce((NonNull<SlabHeader>, usize)) -> Result<R, Fault>,
    ) -> Option<Result<R, Fault>> {
        let (tag, _) = environment.tag_and_owner(address);
        if !tag.is_slab() {
            return Some(Err(Fault::at_address(FaultKind::ForeignPointer, address)));
        }
        let token = environment.lock_token();
        let set = self.lock::<S>(&token, Patience::Wait)?;
        let mut kind = FaultKind::WrongCache;
        for header in set.iter() {
            // SAFETY: slab set I1: a slab in the set is alive, and leaves the set only under the
            // lock.
            let slab = unsafe { header.as_ref() };
            let geometry = &slab.geometry(&self.settings.geometry);
            let (index, behind) = slab.index_of(geometry, address);
            if index < geometry.capacity() {
                if behind == 0 {
                    return Some(look((header, index)));
                }
                kind = FaultKind::InteriorPointer;
            }
        }
        Some(Err(Fault::at_address(kind, address)))
    }

    /// Returns how many slabs there are.
    pub(crate) fn count<S: System>(&self, environment: &Environment<S>) -> usize {
        let token = environment.lock_token();
        self.lock::<S>(&token, Patience::Wait).map_or(0, |set| set.slabs())
    }

    /// Returns the pages of all slabs.
    pub(crate) fn pages<S: System>(&self, environment: &Environment<S>) -> usize {
        let token = environment.lock_token();
        let set = self.lock::<S>(&token, Patience::Wait);
        set.map_or(0, |set| set.pages(&self.settings.geometry))
    }

    /// Returns the token of the grace period that empty slabs wait for, if any does.
    pub(crate) fn waiting_since<S: System>(&self, environment: &Environment<S>) -> Option<u64> {
        let token = environment.lock_token();
        self.lock::<S>(&token, Patience::Wait).and_then(|set| set.waiting_since())
    }

    /// Estimates the pages of the empty slabs.
    pub(crate) fn reclaimable<S: System>(&self, environment: &Environment<S>) -> usize {
        let token = environment.lock_token();
        let set = self.lock::<S>(&token, Patience::Try);
        set.map_or(0, |set| set.empty_slabs() * self.settings.slab_pages())
    }

    /// Returns whether the cache may have one more slab.
    fn may_grow(&self, set: &SlabSet) -> bool {
        let most = self.settings.most_slabs;
        most == u32::MAX || set.slabs() < most as usize
    }

    /// Returns how many empty slabs of `set` stay after a free.
    fn empty_slabs_kept(&self, set: &SlabSet) -> usize {
        // 1/64: a guess; at least one, so that a loop of one allocation and one free does not make
        // and release a slab each time.
        let missed = if self.settings.is_internal { 0 } else { set.missed() };
        let by_itself = || (set.slabs() / 64).max(1) + missed;
        let kept = self.settings.keep_empty.map_or_else(by_itself, |kept| match kept {
            u16::MAX => usize::MAX,
            kept => usize::from(kept),
        });
        kept.max(self.settings.kept())
    }

    /// Joins neighbouring `objects` of the same slab to chains, and calls `free` with each chain;
    /// the last objects first. Skips pointers that are not objects, and returns the fault of one of
    /// them.
    #[inline]
    fn for_each_chain<S: System>(
        &self,
        environment: &Environment<S>,
        objects: &[NonNull<u8>],
        mut free: impl FnMut(&mut FreedChain),
    ) -> Option<Fault> {
        let geometry = &self.settings.geometry;
        let mut fault = None;
        let mut chain = FreedChain::new(geometry);
        let mut addresses = objects.iter().rev().map(|object| object.addr().get());
        let mut next = addresses.next();
        while let Some(address) = next {
            let found = self.find_slab(environment, address).and_then(|header| {
                // SAFETY: clause 1 of `begin`: `find_slab` found a slab of this cache. Clause 2:
                // the caller owns `objects`.
                match unsafe { chain.begin(header, address, geometry) } {
                    true => Ok(()),
                    false => Err(Fault::at_address(FaultKind::InteriorPointer, address)),
                }
            });
            next = match found {
                Ok(()) => {
                    // SAFETY: clause 1 of `add_all`: the chain has just begun, and the caller owns
                    // the objects and frees them.
                    let other = unsafe { chain.add_all(&mut addresses) };
                    free(&mut chain);
                    other
                }
                Err(found) => {
                    fault = Some(found);
                    addresses.next()
                }
            };
        }
        fault
    }

    /// Frees the objects of `chain`, which the caller owns, without the set lock.
    fn give_unlocked(&self, chain: &mut FreedChain) {
        // SAFETY: clause 1 of `push`: the chain has objects, and the caller owns and frees them.
        if unsafe { chain.push() } == Pushed::First {
            // SAFETY: the push returned `First`, so this call alone pushes the slab, which lives
            // while it is pending (slab set I3).
            unsafe { self.pending.push(chain.header) };
        }
    }

    /// Fires an event for each object that is about to return to its slab; skips pointers that are
    /// not objects.
    #[inline]
    fn trace_returned<S: System>(&self, environment: &Environment<S>, places: &[NonNull<u8>]) {
        if self.settings.trace.is_some() {
            for place in places {
                if self.find(environment, place.addr().get()).is_ok() {
                    let object = self.settings.object_in(*place);
                    self.settings.trace(|| Event::ObjectReturned { object });
                }
            }
        }
    }
}

/// Where slabs come from: pages, and memory for headers that lie outside their slabs.
pub(crate) struct SlabSource<S: System> {
    pub(crate) environment: Environment<S>,
    /// Memory for headers without links, and for headers with a line of links; null before the
    /// first cache is made.
    pub(crate) headers: AtomicPtr<[Slabs; 2]>,
}

impl<S: System> SlabSource<S> {
    /// Returns the internal cache of the headers of slabs cut by `geometry`.
    pub(crate) fn headers_for(&self, geometry: &Geometry) -> &Slabs {
        // Acquire: pairs with the Release of the exchange that set it.
        let headers = NonNull::new(self.headers.load(Ordering::Acquire));
        let headers = headers.expect("it was set before the first cache was made");
        // SAFETY: I1 of `cache_inner/shared.rs`: they live as long as the registry.
        let headers = unsafe { headers.as_ref() };
        &headers[geometry.links_bytes() / 64]
    }
}
