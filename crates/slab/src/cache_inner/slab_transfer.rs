//! Moving objects between magazines and slabs.
//!
//! # Costs
//! A transfer of a whole magazine takes the set lock once, and does one atomic exchange for
//! neighbouring objects of the same slab.
//!
//! # Panics
//! Constructors, destructors, traces, page sources and fault hooks are code of the user, and may
//! panic. A [`MagazineGuard`] owns the magazine and the object that a miss holds at such a moment,
//! and frees them during unwinding. A second panic during unwinding ends the program; `drop` of an
//! empty guard runs no code of the user.

use core::ptr::NonNull;

use page_frame::sync::AtomicU16;
use page_frame::{Fault, FaultKind, OutOfMemory};

use crate::cache_inner::shared::Shared;
use crate::cache_inner::sizing::MagazineSizing;
use crate::hardening::presets::Hardening;
use crate::patience::{Patience, Reclaim};
use crate::percpu::magazine::{Chain, Magazine};
use crate::slabs::Slabs;
use crate::slabs::environment::Environment;
use crate::system::System;

/// The parts below the CPU slots of a cache: its slabs, how large its magazines are, and what the
/// registry's caches share.
pub(crate) struct Backing<S: System> {
    shared: NonNull<Shared<S>>,
    pub(crate) slabs: Slabs,
    pub(crate) sizing: MagazineSizing,
    /// The calls inside the `reclaim` callback of the cache. Here, as here are bytes to spare.
    pub(crate) reclaim_calls: AtomicU16,
}

impl<S: System> Backing<S> {
    /// # Safety
    /// 1. `shared` outlives the value.
    pub(crate) unsafe fn new(
        shared: NonNull<Shared<S>>,
        slabs: Slabs,
        sizing: MagazineSizing,
    ) -> Self {
        Self { shared, slabs, sizing, reclaim_calls: AtomicU16::new(0) }
    }

    /// Returns what all caches of the registry share.
    #[inline]
    pub(crate) fn shared(&self) -> &Shared<S> {
        // SAFETY: clause 1 of `new`: `shared` outlives this value.
        unsafe { self.shared.as_ref() }
    }

    /// Returns [`shared`](Self::shared) as a pointer.
    pub(crate) fn shared_pointer(&self) -> NonNull<Shared<S>> {
        self.shared
    }

    #[inline]
    pub(crate) fn environment(&self) -> &Environment<S> {
        self.shared().environment()
    }

    /// Takes one object from the slabs.
    pub(crate) fn take_one<K: Hardening>(
        &self,
        reclaim: Reclaim,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let (mut object, mut broken) = (None, None);
        let outcome = self.take::<K>(1, reclaim, &mut broken, |_, taken| object = Some(taken));
        // The guard owns the object in case the fault hook panics.
        let held = self.guard(None, object.filter(|_| outcome.is_ok()));
        self.report_broken(broken);
        _ = held.disarm();
        outcome?;
        self.slabs.settings.trace_taken(object.as_slice());
        object.ok_or(OutOfMemory)
    }

    /// Reports an object whose link has been overwritten, if there is one. No lock may be held.
    fn report_broken(&self, broken: Option<NonNull<u8>>) {
        if let Some(place) = broken {
            let object = self.slabs.settings.object_in(place).addr().get();
            let fault = Fault::at_address(FaultKind::Corrupted, object);
            self.environment().report(&fault.in_cache(self.slabs.settings.name));
        }
    }

    /// Fills the empty `magazine` from the slabs: all of it, or half. Returns it with at least one
    /// object; frees it if there is no object or a constructor panics.
    pub(crate) fn fill<K: Hardening>(
        &self,
        magazine: Magazine,
        as_a_whole: bool,
    ) -> Result<Magazine, OutOfMemory> {
        let mut held = self.guard(Some(magazine), None);
        let places = held.magazine().places_mut();
        let wanted = if as_a_whole { places.len() } else { places.len().div_ceil(2) };
        // Reversed, so that pops return objects in ascending order of addresses, which CPUs
        // prefetch best.
        let mut broken = None;
        let outcome = self.take::<K>(wanted, Reclaim::Allowed, &mut broken, |index, object| {
            places[wanted - 1 - index].write(object);
        });
        let taken = outcome.unwrap_or(0);
        if taken < wanted {
            places.copy_within(wanted - taken..wanted, 0);
        }
        // SAFETY: clause 1 of `set_length`: the first `taken` places hold the objects taken, which
        // are ours.
        unsafe { held.magazine().set_length(taken) };
        self.report_broken(broken);
        outcome?;
        self.slabs.settings.trace_taken(held.magazine().objects());
        held.magazine.take().ok_or(OutOfMemory)
    }

    fn take<K: Hardening>(
        &self,
        wanted: usize,
        reclaim: Reclaim,
        broken: &mut Option<NonNull<u8>>,
        put: impl FnMut(usize, NonNull<u8>),
    ) -> Result<usize, OutOfMemory> {
        let stride = self.slabs.settings.geometry.stride();
        let note = |bytes| self.sizing.note_trip(stride, bytes);
        self.slabs.take::<S, K>(&self.shared().slab_source, wanted, reclaim, note, broken, put)
    }

    /// Frees `objects`, which the caller owns, into the slabs. Returns the pages released.
    pub(crate) fn give(&self, patience: Patience, objects: &[NonNull<u8>]) -> usize {
        let stride = self.slabs.settings.geometry.stride();
        let note = |bytes| self.sizing.note_trip(stride, bytes);
        self.slabs.give(&self.shared().slab_source, patience, objects, note)
    }

    /// Frees all objects of `magazine` into the slabs. Returns the magazine, and the pages
    /// released. Where a destructor panics, the magazine is freed.
    pub(crate) fn empty(&self, magazine: Magazine, patience: Patience) -> (Magazine, usize) {
        if magazine.length() == 0 {
            return (magazine, 0);
        }
        let mut held = self.guard(Some(magazine), None);
        let pages = self.give(patience, held.magazine().take_all());
        (held.magazine.take().expect("nobody else takes it out of the guard"), pages)
    }

    /// Returns whether `magazine` has the capacity of new ones.
    #[inline]
    pub(crate) fn is_current(&self, magazine: &Magazine) -> bool {
        magazine.class() == self.sizing.class()
    }

    /// Makes an empty magazine of the present capacity.
    pub(crate) fn new_magazine(&self) -> Option<Magazine> {
        let class = self.sizing.class();
        let magazines = self.shared().magazines(class);
        let memory = magazines.take_internal(&self.shared().slab_source, Reclaim::Allowed).ok()?;
        // SAFETY: clause 1 of `new_in`: the memory is an object of the internal cache for magazines
        // of this class.
        Some(unsafe { Magazine::new_in(memory, class) })
    }

    /// Frees the memory of the empty `magazine`. Returns the pages released.
    pub(crate) fn free_magazine(&self, magazine: Magazine, patience: Patience) -> usize {
        let magazines = self.shared().magazines(magazine.class());
        magazines.give_internal(&self.shared().slab_source, patience, magazine.into_memory())
    }

    /// Empties the magazines of `full` into the slabs, and frees their memory and that of `empty`.
    /// Returns the pages released. Where code of the user panics, the rest is emptied and freed
    /// during unwinding.
    pub(crate) fn drain(&self, full: Chain, empty: Chain, patience: Patience) -> usize {
        let mut draining = DrainGuard { backing: self, full, empty, patience, pages: 0 };
        draining.drain();
        draining.pages
    }

    /// Makes a guard that owns `magazine` and `object`.
    pub(crate) fn guard(
        &self,
        magazine: Option<Magazine>,
        object: Option<NonNull<u8>>,
    ) -> MagazineGuard<'_, S> {
        MagazineGuard { backing: self, magazine, object }
    }
}

/// A magazine and an object that a caller owns. Dropping the guard frees both: objects to their
/// slabs, and the magazine's memory.
pub(crate) struct MagazineGuard<'c, S: System> {
    backing: &'c Backing<S>,
    pub(crate) magazine: Option<Magazine>,
    pub(crate) object: Option<NonNull<u8>>,
}

impl<S: System> MagazineGuard<'_, S> {
    /// Passes the magazine and the object to the caller; returns the magazine.
    pub(crate) fn disarm(self) -> Option<Magazine> {
        core::mem::ManuallyDrop::new(self).magazine.take()
    }

    fn magazine(&mut self) -> &mut Magazine {
        self.magazine.as_mut().expect("the caller put a magazine into the guard")
    }
}

impl<S: System> Drop for MagazineGuard<'_, S> {
    fn drop(&mut self) {
        if let Some(magazine) = self.magazine.take() {
            let (magazine, _) = self.backing.empty(magazine, Patience::Wait);
            self.backing.free_magazine(magazine, Patience::Wait);
        }
        if let Some(object) = self.object.take() {
            self.backing.give(Patience::Wait, &[object]);
        }
    }
}

/// Magazines that are being emptied into the slabs. Dropping it empties the rest.
pub(crate) struct DrainGuard<'c, S: System> {
    pub(crate) backing: &'c Backing<S>,
    pub(crate) full: Chain,
    pub(crate) empty: Chain,
    pub(crate) patience: Patience,
    /// The pages released.
    pub(crate) pages: usize,
}

impl<S: System> DrainGuard<'_, S> {
    pub(crate) fn drain(&mut self) {
        while let Some(magazine) = self.full.pop() {
            let (magazine, pages) = self.backing.empty(magazine, self.patience);
            self.pages += pages;
            self.empty.push(magazine);
        }
        while let Some(magazine) = self.empty.pop() {
            self.pages += self.backing.free_magazine(magazine, self.patience);
        }
    }
}

impl<S: System> Drop for DrainGuard<'_, S> {
    fn drop(&mut self) {
        self.drain();
    }
}
