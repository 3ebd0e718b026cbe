//! The two walks of an object: from CPU slot over depot and slabs to the page source, and back.
//!
//! # Concepts
//! A **hit** is a pop or push in the caller's own slot. A **miss** leaves the slot, gets a magazine (or one object) from
//! the next place, and then enters the slot again to load it. Between the two anything may have happened to the slot: an
//! interrupt may have filled it, another CPU may hold it. So what is got is never assumed to fit; what does not goes on to
//! the depot or the slabs.
//!
//! # Concurrency
//! The slot is never entered while a lock is taken, and no lock is held, and no slot entered, during calls to the page
//! source, constructors, destructors, the fault hook, or an internal cache. The locks (slab set, depot) are leaves: nobody
//! holds two. Contexts without a slot (nested, detached, beyond the last slot) free through the slab's free word, which
//! cannot fail.
//!
//! Code of the user that is called may panic. What a miss holds at such a moment is in an [`MagazineGuard`], which puts it away.

use core::ptr::NonNull;

use page_frame::{Fault, FaultKind, OutOfMemory};

use crate::cache::inner::CacheInner;
use crate::hardening::{Hardening, is_any_on};
use crate::percpu::magazine::Magazine;
use crate::percpu::slot::Push;
use crate::system::System;
use crate::unwind::MagazineGuard;

/// Whether a lock may be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    Wait,
    Try,
}

/// Whether the page source may ask shrinkers for what it does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reclaim {
    Allowed,
    Forbidden,
}

impl<S: System> CacheInner<S> {
    /// Allocates one object.
    #[inline(always)]
    #[track_caller]
    pub(crate) fn allocate<K: Hardening>(&self) -> Result<NonNull<u8>, OutOfMemory> {
        loop {
            let place = self.take_out::<K>()?;
            if !is_any_on::<K>() {
                return Ok(place);
            }
            // A spoilt object stays isolated; there are others.
            if let Some(object) = self.hand_out::<K>(place) {
                return Ok(object);
            }
        }
    }

    #[inline(always)]
    pub(crate) fn take_out<K: Hardening>(&self) -> Result<NonNull<u8>, OutOfMemory> {
        if let Ok(mut slot) = self.slots.enter_known() {
            if let Some(object) = slot.pop() {
                return Ok(object);
            }
        }
        self.allocate_missed::<K>()
    }

    /// Frees one object.
    ///
    /// # Safety
    /// 1. `object` came from `allocate` of this cache, nobody uses it any more, and it is in constructed state.
    #[inline(always)]
    #[track_caller]
    pub(crate) unsafe fn free<K: Hardening>(&self, object: NonNull<u8>) {
        if !is_any_on::<K>() {
            self.put_in(object);
        } else if let Some(place) = self.take_back::<K>(object) {
            self.put_in(place);
        }
    }

    #[inline(always)]
    #[track_caller]
    pub(crate) fn put_in(&self, object: NonNull<u8>) {
        if let Ok(mut slot) = self.slots.enter_known() {
            match slot.push(object) {
                Push::Done => return,
                Push::Full => (),
                Push::Again => {
                    drop(slot);
                    self.freed_again(object);
                    return;
                }
            }
        }
        self.free_missed(object);
    }

    #[cold]
    #[track_caller]
    fn freed_again(&self, object: NonNull<u8>) {
        self.system().report(&Fault::new(FaultKind::DoubleFree, object.addr().get(), 0, 0));
    }

    #[cold]
    #[inline(never)]
    fn allocate_missed<K: Hardening>(&self) -> Result<NonNull<u8>, OutOfMemory> {
        let mut earned = false;
        let mut is_draining = false;
        let mut spare = MagazineGuard::new(self, None);
        if let Ok(mut slot) = self.slots.enter() {
            slot.swap_to_objects();
            if let Some(object) = slot.pop() {
                return Ok(object);
            }
            is_draining = slot.was_draining(true);
            earned = slot.has_earned_magazines();
            spare.magazine = slot.unload();
        }
        if earned {
            if let Some(full) = self.take_full(&mut spare.magazine) {
                drop(spare);
                return Ok(self.load(full).expect("depot: full magazines are full"));
            }
            if let Some(magazine) = self.renew(spare.magazine.take()) {
                // Half of it after a free, so that the frees that follow find room as well as the allocations objects.
                let magazine = self.fill::<K>(magazine, is_draining)?;
                return Ok(self.load(magazine).expect("at least one object was taken"));
            }
        }
        drop(spare);
        self.take_one::<K>(Reclaim::Allowed)
    }

    /// Allocates one object without reclaiming: a cached one, else one of the slabs, else of a slab of pages that are free.
    #[cold]
    #[inline(never)]
    #[track_caller]
    pub(crate) fn try_allocate<K: Hardening>(&self) -> Result<NonNull<u8>, OutOfMemory> {
        loop {
            let place = self.try_take_out::<K>()?;
            if let Some(object) = self.hand_out::<K>(place) {
                return Ok(object);
            }
        }
    }

    fn try_take_out<K: Hardening>(&self) -> Result<NonNull<u8>, OutOfMemory> {
        if let Ok(mut slot) = self.slots.enter() {
            slot.swap_to_objects();
            if let Some(object) = slot.pop() {
                return Ok(object);
            }
        }
        match self.take_full(&mut None) {
            Some(full) => Ok(self.load(full).expect("depot: full magazines are full")),
            None => self.take_one::<K>(Reclaim::Forbidden),
        }
    }

    #[cold]
    #[inline(never)]
    fn free_missed(&self, object: NonNull<u8>) {
        let mut earned = false;
        let mut full = None;
        if let Ok(mut slot) = self.slots.enter() {
            if slot.swap_to_room() && slot.push(object) == Push::Done {
                return;
            }
            slot.was_draining(false);
            earned = slot.has_earned_magazines();
            if earned {
                full = slot.take_previous();
            }
        }
        let mut held = MagazineGuard::new(self, None);
        held.object = Some(object);
        let magazine = match full {
            Some(full) => self.exchange_full(full),
            None if earned => self.take_empty(),
            None => None,
        };
        held.object = None;
        let Some(mut magazine) = magazine else {
            self.give_back(Patience::Wait, &[object]);
            return;
        };
        magazine.push(object);
        self.store(magazine);
    }

    /// Pops an object of `magazine` and loads the rest into the slot.
    fn load(&self, mut magazine: Magazine) -> Option<NonNull<u8>> {
        let mut held = MagazineGuard::new(self, None);
        held.object = magazine.pop();
        self.store(magazine);
        held.object.take()
    }

    /// Loads `magazine` into the slot; or, where that cannot be, puts it away.
    fn store(&self, magazine: Magazine) {
        let out = match self.slots.enter() {
            Ok(mut slot) => slot.insert(magazine),
            Err(_) => Some(magazine),
        };
        if let Some(out) = out {
            self.put_away(out);
        }
    }
}
