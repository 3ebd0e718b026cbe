//! Checking objects when they are allocated and when they are freed.
//!
//! # Concepts
//! - The slab keeps a small number for each object, outside the objects, so that a write to a freed
//!   object does not change its number. While the object is free in its slab, the number is a
//!   **link**: the index of the next free object. At all other times it is a **mark**: "allocated",
//!   or "cached" (free, in a magazine). No index has the value of a mark.
//! - So an object is in use if its number is the mark "allocated", and free otherwise. A free
//!   exchanges the mark atomically: of two frees that race, the second one finds it changed.
//! - Users get the address of the **object**. The object lies in its **place**. If the preset has a
//!   red zone, the place begins with it. Slabs and magazines hold the addresses of places. The
//!   **surroundings** of an object are the bytes beside it that reveal stray writes: red zones,
//!   canary, and the record of the requested size.
//! - An object with a fault is **isolated**: the cache never allocates it again, and its mark stays
//!   "allocated". The user who made the mistake is assumed not to use it any more.
//!
//! # Which check fits which caller
//! - `check_in_use` takes any address. It searches the slabs under their lock: O(slabs).
//! - All other checks find the slab by the page map: O(1), no lock. The caller must own the object
//!   or have just taken it, which keeps the slab alive. If it does not, these checks still name the
//!   mistake, as long as the slab exists.

pub(crate) mod surroundings;

use core::num::NonZeroUsize;
use core::ptr::NonNull;

use page_frame::{Fault, FaultKind};

use crate::hardening::changed::Changed;
use crate::hardening::presets::Hardening;
use crate::hardening::{canary, history, poison};
use crate::patience::Patience;
use crate::slabs::Slabs;
use crate::slabs::checks::surroundings::Surroundings;
use crate::slabs::environment::Environment;
use crate::slabs::layout::header::SlabHeader;
use crate::slabs::layout::links::{MARK_ALLOCATED, MARK_CACHED};
use crate::system::System;

/// The checks of one cache.
pub(crate) struct ObjectChecks<'c, S: System> {
    pub(crate) slabs: &'c Slabs,
    pub(crate) environment: &'c Environment<S>,
}

impl<S: System> ObjectChecks<'_, S> {
    /// Checks the object in `place`, which the caller has just taken out of a slab or a magazine,
    /// and prepares it for a user: writes its mark, surroundings and history. Returns the object.
    /// For a corrupted object, calls the fault hook and returns `None`. O(size) with poison,
    /// otherwise O(1).
    #[track_caller]
    pub(crate) fn check_allocated<K: Hardening>(&self, place: NonNull<u8>) -> Option<NonNull<u8>> {
        let padding = &self.slabs.settings.padding;
        // SAFETY: the padding before the object lies inside the place.
        let object = unsafe { place.add(padding.front()) };
        let mut outcome = Ok(());
        if self.slabs.settings.is_poisoned::<K>() {
            // SAFETY: the caller has just taken the object, so no other code uses it.
            outcome = unsafe { poison::check(object, self.slabs.settings.object_size()) };
        }
        if K::MARKS && outcome.is_ok() {
            outcome = self.mark_allocated(object, place);
        }
        if let Err(fault) = outcome {
            if K::MARKS {
                // Isolates an object whose poison was changed. A wrong mark stays as it is.
                _ = self.mark_allocated(object, place);
            }
            self.report::<K>(fault, object);
            return None;
        }
        // SAFETY: clause 1 of `write`: the caller has just taken the object.
        unsafe { self.surroundings().write::<K>(object) };
        if K::HISTORY {
            // SAFETY: the caller has just taken the object; its history was written when the slab
            // was made.
            unsafe { history::note_allocation(padding.history(object), self.secret(), self.now()) };
        }
        Some(object)
    }

    #[track_caller]
    fn mark_allocated(&self, object: NonNull<u8>, place: NonNull<u8>) -> Result<(), Fault> {
        let found = self.find(object, place.addr().get())?;
        self.change_mark(object, found, [MARK_CACHED, MARK_ALLOCATED], FaultKind::Corrupted)
    }

    /// Calls the fault hook with `fault`, which concerns `object`. Adds the name of the cache, and
    /// the callers from the object's history.
    fn report<K: Hardening>(&self, fault: Fault, object: NonNull<u8>) {
        let settings = &self.slabs.settings;
        let is_object = match fault.kind {
            FaultKind::ForeignPointer | FaultKind::WrongCache | FaultKind::InteriorPointer => false,
            // Only a preset with marks has checked that it is an object.
            _ => K::HISTORY && K::MARKS,
        };
        // SAFETY: clause 1 of `history::read`: by the kind of the fault it is an object of this
        // cache. The user who made the mistake does not use it any more (see the head of the file).
        let history = is_object
            .then(|| unsafe { history::read(settings.padding.history(object), settings.secret) })
            .flatten()
            .unwrap_or_default();
        let fault = fault.with_callers(history.allocated_by, history.freed_by);
        self.environment.report(&fault.in_cache(settings.name));
    }

    fn secret(&self) -> usize {
        self.slabs.settings.secret
    }

    /// Checks an object that a user frees, by the clauses of [`Cache::free`](crate::Cache::free),
    /// and prepares it for the next user: writes its mark, history and poison. Returns its place.
    /// If a check fails, calls the fault hook and returns `None`: the caller must not free the
    /// object. O(size) with poison, otherwise O(1).
    #[track_caller]
    pub(crate) fn check_freed<K: Hardening>(&self, object: NonNull<u8>) -> Option<NonNull<u8>> {
        let padding = &self.slabs.settings.padding;
        let place = object.as_ptr().wrapping_sub(padding.front());
        match self.prepare_freed::<K>(object, place.addr()) {
            Ok(()) => NonNull::new(place),
            Err(fault) => {
                self.report::<K>(fault, object);
                None
            }
        }
    }

    /// Does the work of [`check_freed`](Self::check_freed) without the report.
    #[track_caller]
    fn prepare_freed<K: Hardening>(&self, object: NonNull<u8>, place: usize) -> Result<(), Fault> {
        let (padding, size) = (&self.slabs.settings.padding, self.slabs.settings.object_size());
        let found = if K::MARKS { Some(self.find(object, place)?) } else { None };
        // The mark is changed before the bytes are read: of frees that race, only the free that
        // changes the mark owns the object.
        if let Some(found) = found {
            let marks = [MARK_ALLOCATED, MARK_CACHED];
            self.change_mark(object, found, marks, FaultKind::DoubleFree)?;
        }
        // SAFETY: clause 1: the object was allocated, by its mark or, without marks, by clause 1 of
        // `Cache::free`.
        if let Err(fault) = unsafe { self.check_surroundings::<K>(object, found) } {
            if let Some(found) = found {
                // Isolates the object.
                let marks = [MARK_CACHED, MARK_ALLOCATED];
                _ = self.change_mark(object, found, marks, FaultKind::Corrupted);
            }
            return Err(fault);
        }
        if K::HISTORY {
            // SAFETY: no other code uses the object: this call has changed its mark or, without
            // marks, by clause 2 of `Cache::free`.
            unsafe { history::note_free(padding.history(object), self.secret(), self.now()) };
        }
        if self.slabs.settings.is_poisoned::<K>() {
            // SAFETY: no other code uses the object, as above.
            unsafe { poison::fill(object, size) };
        }
        Ok(())
    }

    /// Checks that `object` is an object of this cache. If the preset `K` has marks, also checks
    /// that the object is in use. If so, calls `look` under the set lock and returns its result.
    /// Any address is allowed. Changes nothing. O(slabs), takes the set lock. `None` in an
    /// interrupt handler that finds the lock held.
    #[track_caller]
    pub(crate) fn check_in_use<K: Hardening, R>(
        &self,
        object: NonNull<u8>,
        look: impl FnOnce() -> R,
    ) -> Option<Result<R, Fault>> {
        let settings = &self.slabs.settings;
        let place = object.addr().get().wrapping_sub(settings.padding.front());
        let outcome = self.slabs.find_in_set(self.environment, place, |found| {
            self.check_mark::<K>(object, found).map(|()| look())
        });
        let about = |fault: Fault| fault.with_address(object.addr().get()).in_cache(settings.name);
        outcome.map(|outcome| outcome.map_err(about))
    }

    /// Checks what [`check_in_use`](Self::check_in_use) checks, and the surroundings of the object.
    /// Changes nothing. O(1), no lock.
    ///
    /// # Safety
    /// 1. `object` is an object in use of this cache, and no other code allocates or frees it
    ///    meanwhile.
    #[track_caller]
    pub(crate) unsafe fn check_owned<K: Hardening>(
        &self,
        object: NonNull<u8>,
    ) -> Result<(), Fault> {
        let settings = &self.slabs.settings;
        let place = object.addr().get().wrapping_sub(settings.padding.front());
        let in_cache = |fault: Fault| fault.in_cache(settings.name);
        let found = self.find(object, place).map_err(in_cache)?;
        self.check_mark::<K>(object, found).map_err(in_cache)?;
        // SAFETY: clause 1: the object is allocated, by its mark or, without marks, by clause 1.
        unsafe { self.check_surroundings::<K>(object, Some(found)) }.map_err(in_cache)
    }

    /// Returns the requested size of `object`. `None` if a stray write has changed the record, or
    /// if `object` is no object of this cache. O(1), no lock.
    ///
    /// # Safety
    /// 1. As for [`check_owned`](Self::check_owned).
    pub(crate) unsafe fn requested_size_owned<K: Hardening>(
        &self,
        object: NonNull<u8>,
    ) -> Option<usize> {
        let place = object.addr().get().wrapping_sub(self.slabs.settings.padding.front());
        self.find(object, place).ok()?;
        // SAFETY: clause 1 of `Surroundings::requested_size`: `find` has found the object, and by
        // clause 1 its slab is alive.
        unsafe { self.surroundings().requested_size::<K>(object) }
    }

    /// If the preset has marks, checks that the object that `find` has found is in use. Exchanges
    /// the mark for itself, as the exchange reports the fault.
    #[track_caller]
    fn check_mark<K: Hardening>(
        &self,
        object: NonNull<u8>,
        found: (NonNull<SlabHeader>, usize),
    ) -> Result<(), Fault> {
        let marks = [MARK_ALLOCATED, MARK_ALLOCATED];
        if K::MARKS {
            self.change_mark(object, found, marks, FaultKind::DoubleFree)
        } else {
            Ok(())
        }
    }

    pub(crate) fn surroundings(&self) -> Surroundings<'_> {
        Surroundings { settings: &self.slabs.settings }
    }

    /// Checks the bytes around `object`. `found` is its slab and index, if the caller knows them:
    /// without them neither the guard of the slab is checked nor a neighbour named.
    ///
    /// # Errors
    /// The overflow: a byte around the object has changed.
    ///
    /// # Safety
    /// 1. The object is allocated.
    #[track_caller]
    unsafe fn check_surroundings<K: Hardening>(
        &self,
        object: NonNull<u8>,
        found: Option<(NonNull<SlabHeader>, usize)>,
    ) -> Result<(), Fault> {
        // SAFETY: clause 1 of `Surroundings::check`: clause 1.
        let whole = unsafe { self.surroundings().check::<K>(object) };
        let Err(changed) = whole.and_then(|()| self.check_guard::<K>(found)) else {
            return Ok(());
        };
        // What lies in front of the object is the guard or the red zone, which no neighbour shares.
        let found = found.filter(|_| changed.address > object.addr().get());
        let neighbour = found.and_then(|found| self.neighbour_of::<K>(object, found));
        Err(self.overflow::<K>(object, changed, neighbour))
    }

    /// Checks the word in front of the object, if it is the first one of a slab with a guard. The
    /// others have the canary of a neighbour there.
    fn check_guard<K: Hardening>(
        &self,
        found: Option<(NonNull<SlabHeader>, usize)>,
    ) -> Result<(), Changed> {
        let Some((header, 0)) = found.filter(|_| K::CANARY && K::RED_ZONE == 0) else {
            return Ok(());
        };
        // SAFETY: `find` found the header, and the caller's object keeps the slab alive.
        let slab = unsafe { header.as_ref() };
        let guard = slab.guard(&slab.geometry(&self.slabs.settings.geometry));
        // SAFETY: clause 1 of `check`: `prepare_objects` wrote it for this preset.
        guard.map_or(Ok(()), |guard| unsafe { canary::check(guard, 0, self.secret()) })
    }

    /// Returns the address of the object after object `index`, if the slab has one and no red zone
    /// lies between the two. A changed byte between them may then be an overflow of the first or an
    /// underflow of the second.
    fn neighbour_of<K: Hardening>(
        &self,
        object: NonNull<u8>,
        (header, index): (NonNull<SlabHeader>, usize),
    ) -> Option<NonZeroUsize> {
        // SAFETY: `find` found the header, and the object of the caller keeps the slab alive.
        let geometry = &unsafe { header.as_ref() }.geometry(&self.slabs.settings.geometry);
        let has_next = K::RED_ZONE == 0 && index + 1 < geometry.capacity();
        has_next.then(|| object.addr().saturating_add(geometry.stride()))
    }

    /// Makes the fault for an object whose surroundings a stray write has changed.
    #[track_caller]
    fn overflow<K: Hardening>(
        &self,
        object: NonNull<u8>,
        changed: Changed,
        neighbour: Option<NonZeroUsize>,
    ) -> Fault {
        let Changed { address: changed, expected, found } = changed;
        // SAFETY: clause 1 of `Surroundings::requested_size`: the caller has found the object
        // allocated, which keeps its slab alive.
        let requested = unsafe { self.surroundings().requested_size::<K>(object) };
        // Objects have at most `LARGEST_SIZE` bytes, so both numbers fit.
        let size = requested.unwrap_or(self.slabs.settings.object_size()) as u32;
        let offset = changed.wrapping_sub(object.addr().get()) as i32;
        let kind = FaultKind::Overflow { changed, offset, size, neighbour, expected, found };
        Fault::at_address(kind, object.addr().get())
    }

    /// Checks all free objects for writes since they were freed. Calls the fault hook with each
    /// fault; returns how many there are. O(objects), takes the set lock.
    ///
    /// # Safety
    /// 1. No other code uses the cache or its objects meanwhile.
    pub(crate) unsafe fn check_free_objects<K: Hardening>(&self) -> usize {
        let settings = &self.slabs.settings;
        if !K::MARKS || !settings.is_poisoned::<K>() {
            return 0;
        }
        let token = self.environment.lock_token();
        let Some(set) = self.slabs.lock::<S>(&token, Patience::Wait) else { return 0 };
        let mut faults = 0;
        for header in set.iter() {
            // SAFETY: slab set I1: alive, as we hold the lock.
            let slab = unsafe { header.as_ref() };
            let geometry = &slab.geometry(&settings.geometry);
            for index in 0..geometry.capacity() {
                // SAFETY: the index is below the capacity.
                let object = settings.object_in(unsafe { slab.object(geometry, index) });
                let marks = [MARK_ALLOCATED, MARK_ALLOCATED];
                if self.change_mark(object, (header, index), marks, FaultKind::DoubleFree).is_ok() {
                    continue;
                }
                // SAFETY: by clause 1 no other code uses the object. It is free, so it was filled
                // when it was freed or when its slab was made.
                if let Err(fault) = unsafe { poison::check(object, settings.object_size()) } {
                    faults += 1;
                    self.report::<K>(fault, object);
                }
            }
        }
        faults
    }

    /// Finds the slab and the index of the object in `place`, as [`Slabs::find`] does. The fault
    /// has the address of `object`, which is the address that the user knows.
    #[track_caller]
    fn find(
        &self,
        object: NonNull<u8>,
        place: usize,
    ) -> Result<(NonNull<SlabHeader>, usize), Fault> {
        self.slabs
            .find(self.environment, place)
            .map_err(|fault| fault.with_address(object.addr().get()))
    }

    fn now(&self) -> u64 {
        self.slabs.settings.clock.map_or(0, |clock| clock())
    }

    /// Changes the mark of object `index` of `header` from `from` to `to`.
    ///
    /// # Errors
    /// A fault of the kind `otherwise`, if the mark is not `from`.
    #[track_caller]
    fn change_mark(
        &self,
        object: NonNull<u8>,
        (header, index): (NonNull<SlabHeader>, usize),
        [from, to]: [u8; 2],
        otherwise: FaultKind,
    ) -> Result<(), Fault> {
        // SAFETY: the caller found the header, and the slab stays alive: the caller holds the set
        // lock or owns an object of the slab.
        let geometry = &unsafe { header.as_ref() }.geometry(&self.slabs.settings.geometry);
        // SAFETY: clause 1 of `links`: `geometry` is that of this slab.
        let links = unsafe { SlabHeader::links(header, geometry) };
        // SAFETY: `find` found this object in the slab.
        match unsafe { links.change_mark(index, from, to) } {
            Ok(_) => Ok(()),
            Err(_) => Err(Fault::at_address(otherwise, object.addr().get())),
        }
    }
}
