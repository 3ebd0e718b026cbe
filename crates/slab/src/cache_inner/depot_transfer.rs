//! Moving magazines between a CPU, the depot, and the internal caches that their memory comes from.

use core::ptr::NonNull;

use page_frame::{Cpu, IrqLockGuard, IrqLockToken};

use crate::cache_inner::depot::Depot;
use crate::cache_inner::percpu_cache::PerCpuCache;
use crate::cache_inner::slab_transfer::{Backing, DrainGuard};
use crate::patience::Patience;
use crate::percpu::magazine::{Chain, Magazine};
use crate::percpu::slot::CpuSlot;
use crate::slabs::clock::Work;
use crate::system::System;
use crate::trace::Event;

impl<C: Cpu> PerCpuCache<C> {
    /// Takes a full magazine from the depot, and stores the empty magazine `spare` there if the
    /// depot has room.
    #[inline(always)]
    pub(crate) fn take_full<S: System<Cpus = C>>(
        &self,
        backing: &Backing<S>,
        spare: &mut Option<Magazine>,
    ) -> Option<Magazine> {
        let token = backing.environment().lock_token();
        self.lock_depot(backing, &token)?.take_full(spare)
    }

    /// Fires the event of [`take_full`](Self::take_full), and puts away `spare`, if the depot had
    /// no room for it.
    #[cold]
    pub(crate) fn finish_take_full<S: System<Cpus = C>>(
        &self,
        backing: &Backing<S>,
        full: Magazine,
        spare: Option<Magazine>,
    ) -> Magazine {
        let objects = full.length();
        let (mut full, spare) = (backing.guard(Some(full), None), backing.guard(spare, None));
        backing.slabs.settings.trace(|| Event::MagazineLoaded { objects });
        if let Some(spare) = spare.disarm() {
            self.put_away(backing, spare);
        }
        full.magazine.take().expect("nobody else takes it out of the guard")
    }

    /// Stores `full` in the depot and takes an empty magazine. Returns the empty magazine, if the
    /// depot had one; or, as the second value, `full`, if the depot had no room.
    #[inline(always)]
    pub(crate) fn exchange_full<S: System<Cpus = C>>(
        &self,
        backing: &Backing<S>,
        full: Magazine,
    ) -> (Option<Magazine>, Option<Magazine>) {
        let token = backing.environment().lock_token();
        let Some(mut depot) = self.lock_depot(backing, &token) else { return (None, Some(full)) };
        match depot.offer(full) {
            None => (depot.take_empty(), None),
            refused => (None, refused),
        }
    }

    /// Takes an empty magazine from the depot.
    pub(crate) fn take_empty<S: System<Cpus = C>>(&self, backing: &Backing<S>) -> Option<Magazine> {
        let token = backing.environment().lock_token();
        self.lock_depot(backing, &token).and_then(|mut depot| depot.take_empty())
    }

    /// Returns an empty magazine of the present capacity: the empty `old` if it fits, else a new
    /// one, which replaces it. Returns `old` if there is no memory for a new one.
    #[inline]
    pub(crate) fn renew<S: System<Cpus = C>>(
        &self,
        backing: &Backing<S>,
        old: Option<Magazine>,
    ) -> Option<Magazine> {
        if old.as_ref().is_some_and(|old| backing.is_current(old)) {
            return old;
        }
        let mut old = backing.guard(old, None);
        let Some(new) = backing.new_magazine() else { return old.magazine.take() };
        if let Some(old) = old.magazine.take() {
            backing.free_magazine(old, Patience::Wait);
        }
        Some(new)
    }

    /// Fires the event of a full magazine that the depot took, and frees `empty` if the hook
    /// panics.
    pub(crate) fn trace_stored<S: System<Cpus = C>>(
        &self,
        backing: &Backing<S>,
        empty: Option<Magazine>,
        objects: usize,
    ) -> Option<Magazine> {
        let held = backing.guard(empty, None);
        backing.slabs.settings.trace(|| Event::MagazineStored { objects });
        held.disarm()
    }

    /// Pops an object from `magazine`, which is not empty. Loads the rest into the caller's slot.
    #[inline(always)]
    pub(crate) fn pop_and_load<S: System<Cpus = C>>(
        &self,
        backing: &Backing<S>,
        mut magazine: Magazine,
    ) -> Option<NonNull<u8>> {
        let object = magazine.pop();
        let Some(out) = self.load(magazine) else { return object };
        self.put_away_holding(backing, out, object)
    }

    /// Puts `magazine` away, and frees `object` if that panics.
    #[cold]
    fn put_away_holding<S: System<Cpus = C>>(
        &self,
        backing: &Backing<S>,
        magazine: Magazine,
        object: Option<NonNull<u8>>,
    ) -> Option<NonNull<u8>> {
        let held = backing.guard(None, object);
        self.put_away(backing, magazine);
        held.disarm();
        object
    }

    /// Stores `magazine` in the depot; one that is not full is emptied into the slabs first. Frees
    /// an empty one of another than the present capacity; empties and frees one that the depot
    /// refuses.
    pub(crate) fn put_away<S: System<Cpus = C>>(
        &self,
        backing: &Backing<S>,
        mut magazine: Magazine,
    ) {
        if !magazine.is_full() {
            magazine = backing.empty(magazine, Patience::Wait).0;
            if !backing.is_current(&magazine) {
                backing.free_magazine(magazine, Patience::Wait);
                return;
            }
        }
        let objects = magazine.length();
        let refused = {
            let token = backing.environment().lock_token();
            match self.lock_depot(backing, &token) {
                Some(mut depot) => depot.offer(magazine),
                None => Some(magazine),
            }
        };
        if let Some(refused) = refused {
            let (empty, _) = backing.empty(refused, Patience::Wait);
            backing.free_magazine(empty, Patience::Wait);
        } else if objects > 0 {
            backing.slabs.settings.trace(|| Event::MagazineStored { objects });
        }
    }

    /// Empties all magazines of slots and depot into the slabs. Returns the pages released.
    pub(crate) fn drain<S: System<Cpus = C>>(
        &self,
        backing: &Backing<S>,
        patience: Patience,
    ) -> usize {
        let mut draining = self.take_depot(backing, patience);
        self.slots.take_over(|_| true, |_, slot| take_magazines(slot, &mut draining.full));
        draining.drain();
        draining.pages
    }

    /// Empties the magazines of the depot and of the caller's slot into the slabs; the slots of
    /// other CPUs stay as they are, so that no CPU need be fenced. Returns the pages released.
    pub(crate) fn drain_own<S: System<Cpus = C>>(
        &self,
        backing: &Backing<S>,
        patience: Patience,
    ) -> usize {
        let mut draining = self.take_depot(backing, patience);
        if let Ok(mut slot) = self.slots.enter() {
            take_magazines(&mut slot, &mut draining.full);
        }
        draining.drain();
        draining.pages
    }

    /// Takes all magazines of the depot, to be emptied, and resets the capacity of new ones.
    fn take_depot<'b, S: System<Cpus = C>>(
        &self,
        backing: &'b Backing<S>,
        patience: Patience,
    ) -> DrainGuard<'b, S> {
        backing.sizing.reset();
        let [full, empty] = {
            let token = backing.environment().lock_token();
            let depot = patience.lock(&token, &self.depot);
            depot.map_or([Chain::new(), Chain::new()], |mut depot| depot.take_all())
        };
        let draining = DrainGuard { backing, full, empty, patience, pages: 0 };
        trace_emptied(backing, &draining.full);
        draining
    }

    /// Empties the magazines of the depot that were not needed since the last aging pass, from
    /// `stage` on as far as `work` allows, see [`Depot::age`]. Returns the pages released, and the
    /// stage at which the next call continues.
    pub(crate) fn drain_idle<S: System<Cpus = C>>(
        &self,
        backing: &Backing<S>,
        patience: Patience,
        stage: usize,
        work: &mut Work,
    ) -> (usize, usize) {
        let aged = {
            let token = backing.environment().lock_token();
            patience.lock(&token, &self.depot).map(|mut depot| depot.age(stage, work))
        };
        let Some(([full, empty], next)) = aged else { return (0, 2) };
        let mut draining = DrainGuard { backing, full, empty, patience, pages: 0 };
        trace_emptied(backing, &draining.full);
        draining.drain();
        (draining.pages, next)
    }

    /// Takes the depot's lock, and notes if another CPU holds it.
    fn lock_depot<'l, S: System<Cpus = C>>(
        &'l self,
        backing: &Backing<S>,
        token: &'l IrqLockToken<'_, CpuSlot, C>,
    ) -> Option<IrqLockGuard<'l, Depot, C>> {
        token.try_lock(&self.depot).or_else(|| {
            backing.sizing.note_wait();
            token.lock(&self.depot)
        })
    }
}

/// Moves the magazines of `slot` to `magazines`.
fn take_magazines(slot: &mut CpuSlot, magazines: &mut Chain) {
    slot.forget_misses();
    for magazine in [slot.unload(), slot.take_previous()].into_iter().flatten() {
        magazines.push(magazine);
    }
}

/// Fires an event for each magazine of `full`, which left the depot.
fn trace_emptied<S: System>(backing: &Backing<S>, full: &Chain) {
    for magazine in full.iter() {
        backing.slabs.settings.trace(|| Event::MagazineEmptied { objects: magazine.length() });
    }
}
