//! Objects on their way between magazines and slabs.
//!
//! # Costs
//! One lock for as many objects as a magazine takes or gives; one atomic exchange for those that lie in one slab.

use core::ptr::NonNull;

use page_frame::{Fault, OutOfMemory};

use crate::cache::inner::CacheInner;
use crate::hardening::{Hardening, MARK_CACHED};
use crate::percpu::magazine::Magazine;
use crate::percpu::path::{Patience, Reclaim};
use crate::slabs::chain::FreedChain;
use crate::slabs::free_word::Pushed;
use crate::slabs::list::SlabList;
use crate::slabs::set::SlabSet;
use crate::system::System;
use crate::unwind::MagazineGuard;

impl<S: System> CacheInner<S> {
    /// Fills `magazine`, which is empty, from the slabs, growing when they have nothing: as a whole, or half of it. Returns it
    /// with at least one object; where there is none, or a constructor panics, it is put away.
    pub(crate) fn fill<K: Hardening>(
        &self,
        magazine: Magazine,
        as_a_whole: bool,
    ) -> Result<Magazine, OutOfMemory> {
        let mut held = MagazineGuard::new(self, Some(magazine));
        let places = held.magazine().places_mut();
        let wanted = if as_a_whole { places.len() } else { places.len().div_ceil(2) };
        // The first is popped first: addresses then ascend, which is what CPUs prefetch best.
        let taken = self.take_from_slabs::<K>(wanted, Reclaim::Allowed, |index, object| {
            places[wanted - 1 - index].write(object);
        })?;
        if taken < wanted {
            places.copy_within(wanted - taken..wanted, 0);
        }
        // SAFETY: so many objects were taken, and written to the first places.
        unsafe { held.magazine().set_length(taken) };
        self.trace_taken(held.magazine().objects());
        held.magazine.take().ok_or(OutOfMemory)
    }

    /// Takes one object from the slabs.
    pub(crate) fn take_one<K: Hardening>(
        &self,
        reclaim: Reclaim,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let mut object = None;
        self.take_from_slabs::<K>(1, reclaim, |_, taken| object = Some(taken))?;
        self.trace_taken(object.as_slice());
        object.ok_or(OutOfMemory)
    }

    /// Takes up to `wanted` objects from the slabs, growing when there is none; at least one, or an error. Calls `put` with the
    /// place of each among them, and the object; what counts is the last call for each place.
    fn take_from_slabs<K: Hardening>(
        &self,
        wanted: usize,
        reclaim: Reclaim,
        mut put: impl FnMut(usize, NonNull<u8>),
    ) -> Result<usize, OutOfMemory> {
        let geometry = &self.settings.geometry;
        let mark = K::MARKS.then_some(MARK_CACHED);
        let colour = {
            let token = self.system().locking.lock_token();
            let mut set = token.lock(&self.set).ok_or(OutOfMemory)?;
            set.take_pending(&self.pending, geometry);
            let taken = set.take(geometry, wanted, mark, &mut put);
            if taken > 0 {
                self.tune(&set);
                return Ok(taken);
            }
            if !self.may_grow(&set) {
                return Err(OutOfMemory);
            }
            if self.settings.coloured { set.next_colour(geometry) } else { 0 }
        };
        let header = self.grow::<K>(colour, reclaim)?;
        // SAFETY: fresh.
        let pages = unsafe { header.as_ref() }.pages();
        let taken = {
            let token = self.system().locking.lock_token();
            // Asked again: another CPU may have grown the cache meanwhile.
            token.lock(&self.set).filter(|set| self.may_grow(set)).map(|mut set| {
                // SAFETY: `grow` made it: live, ours, in no list, all objects free.
                unsafe { set.add(header, geometry) };
                self.tune(&set);
                set.take(geometry, wanted, mark, &mut put)
            })
        };
        let Some(taken) = taken else {
            // SAFETY: the fresh slab was not added, so it is ours and all its objects are free.
            unsafe { self.release(header) };
            return Err(OutOfMemory);
        };
        self.system().note_traffic(pages, 0);
        Ok(taken)
    }

    /// Whether the cache may have a slab more.
    fn may_grow(&self, set: &SlabSet) -> bool {
        self.settings.most_slabs == u32::MAX || set.slabs() < self.settings.most_slabs as usize
    }

    /// Notes a trip to the slabs, of which `set` has all.
    fn tune(&self, set: &SlabSet) {
        let geometry = &self.settings.geometry;
        self.sizing.note_trip(geometry.stride(), set.slabs() * geometry.slab_bytes());
    }

    /// Gives all objects of `magazine` back to their slabs; returns it, and the pages that went home. Where a destructor panics,
    /// it is put away.
    pub(crate) fn empty(&self, magazine: Magazine, patience: Patience) -> (Magazine, usize) {
        if magazine.length() == 0 {
            return (magazine, 0);
        }
        let mut held = MagazineGuard::new(self, Some(magazine));
        let pages = self.give_back(patience, held.magazine().take_all());
        (held.magazine.take().expect("nobody else takes it out of the guard"), pages)
    }

    /// Frees `objects`, which our caller owns, into their slabs; surplus empty slabs go home. Returns the pages that did.
    ///
    /// Without the lock (nested, or only trying) each chain of objects goes through its slab's free word.
    pub(crate) fn give_back(&self, patience: Patience, objects: &[NonNull<u8>]) -> usize {
        self.trace_returned(objects);
        let fault;
        let mut releasing = SlabList::new();
        {
            let token = self.system().locking.lock_token();
            let set = match patience {
                Patience::Wait => token.lock(&self.set),
                Patience::Try => token.try_lock(&self.set),
            };
            match set {
                Some(mut set) => {
                    // SAFETY: objects of ours, and our caller owns them.
                    fault = self.for_each_chain(objects, |chain| unsafe {
                        set.give(chain, &self.settings.geometry);
                    });
                    set.take_pending(&self.pending, &self.settings.geometry);
                    self.tune(&set);
                    // Who only tries may be a turn, which calls no destructor.
                    let keep = match patience {
                        Patience::Try if self.settings.destructor.is_some() => usize::MAX,
                        _ => self.empty_slabs_kept(&set),
                    };
                    self.pop_empty(&mut set, keep, usize::MAX, &mut releasing);
                    set.note_sent(releasing.count());
                }
                None => {
                    fault = self.for_each_chain(objects, |chain| self.give_back_unlocked(chain))
                }
            }
        }
        let pages = self.release_all(releasing);
        if let Some(fault) = fault {
            self.system().report(&fault);
        }
        pages
    }

    /// Joins objects that our caller owns to chains, as far as neighbours are of the same slab, and calls `free` with each;
    /// last things first. Pointers that are no objects of ours are left out; returns what is wrong with one of them.
    #[inline]
    fn for_each_chain(
        &self,
        objects: &[NonNull<u8>],
        mut free: impl FnMut(&mut FreedChain),
    ) -> Option<Fault> {
        let geometry = &self.settings.geometry;
        let mut fault = None;
        let mut chain = FreedChain::new(geometry);
        for address in objects.iter().rev().map(|object| object.addr().get()) {
            if !chain.is_empty() {
                // SAFETY: the object is our caller's.
                if unsafe { chain.add(address) } {
                    continue;
                }
                free(&mut chain);
            }
            match self.find(address) {
                // SAFETY: `find` says so; it is our caller's.
                Ok((header, index)) => unsafe { chain.begin(header, index, address, geometry) },
                Err(found) => fault = Some(found),
            }
        }
        if !chain.is_empty() {
            free(&mut chain);
        }
        fault
    }

    /// Frees the objects of `chain`, which our caller owns, without the set lock.
    fn give_back_unlocked(&self, chain: &mut FreedChain) {
        // SAFETY: our caller's objects.
        if unsafe { chain.push() } == Pushed::First {
            // SAFETY: told `First`, we alone put it there; it stays alive while it is pending (slab set I3).
            unsafe { self.pending.push(chain.header) };
        }
    }

    /// Moves empty slabs beyond `keep` to `releasing`, up to `most` slabs.
    pub(crate) fn pop_empty(
        &self,
        set: &mut SlabSet,
        keep: usize,
        most: usize,
        releasing: &mut SlabList,
    ) {
        while releasing.count() < most {
            let Some(header) = set.pop_empty(keep, &self.settings.geometry) else { return };
            // SAFETY: it is out of the set, alive, and `release_all` takes it out before it dies.
            unsafe { releasing.push(header) };
        }
    }
}
