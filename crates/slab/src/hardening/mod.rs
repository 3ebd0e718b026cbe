//! Checks: the mistakes of its users that a cache looks for, chosen by a type.
//!
//! # Concepts
//! A **preset** is a type with one constant per check. The hit paths are compiled for it, so a check that is off leaves no
//! instruction and no byte. [`Off`], [`Hardened`] and [`Debug`] are given; who wants another mix writes his own:
//!
//! ```
//! struct Canaries;
//! impl slab::Hardening for Canaries {
//!     const CANARY: bool = true;
//! }
//! ```
//!
//! What a check needs lies around the object, in a **padding** that the preset adds to the layout, or in the slab's links:
//!
//! ```text
//! | red zone | object | canary | red zone | history |
//! ```
//!
//! Every object that goes out passes [`CacheInner::hand_out`], every one that comes back [`CacheInner::take_back`]. A fault goes to the
//! fault hook; where the hook returns, the object stays isolated: it counts as in use, and nobody gets it again.
//!
//! What each check finds:
//!
//! | check | finds | when |
//! |---|---|---|
//! | always | the object freed last, once more | at the free |
//! | `MARKS` | any double free, racing ones too; interior and foreign pointers, other caches' objects | at the free |
//! | `CANARY` | writes behind the object | at the free |
//! | `RED_ZONE` | writes in front of and further behind the object | at the free |
//! | `POISON` | writes after the free | at the next allocation of the object |
//! | `SHUFFLE` | nothing, but who guesses neighbours of a fresh slab guesses wrong | |
//! | `HISTORY` | nothing, but tells who allocated and freed an object last, and when | |

mod canary;
mod history;
mod mark;
mod padding;
mod poison;
mod red_zone;
mod shuffle;

use core::ptr::NonNull;

use page_frame::Fault;

use crate::cache::inner::CacheInner;
use crate::slabs::header::SlabHeader;
use crate::system::System;

pub use history::History;
pub(crate) use mark::MARK_CACHED;
pub(crate) use padding::Padding;
pub(crate) use shuffle::shuffle;

/// Which mistakes of its users a cache looks for.
pub trait Hardening: 'static {
    /// Whether each object's state is kept in its link, outside it. Costs a look-up at both calls and an atomic
    /// exchange at the free.
    const MARKS: bool = false;
    /// Whether a word behind the object is bound to its address and the cache's secret.
    const CANARY: bool = false;
    /// Bytes of a pattern in front of the object (rounded up to its alignment) and behind it.
    const RED_ZONE: usize = 0;
    /// Whether free objects are filled with a pattern. Caches with a constructor go without: their objects keep their
    /// state.
    const POISON: bool = false;
    /// Whether the objects of a fresh slab go out in an order that the secret decides.
    const SHUFFLE: bool = false;
    /// Whether is kept who allocated and freed each object last, and when.
    const HISTORY: bool = false;
}

/// No checks beyond those that cost one comparison.
#[derive(Clone, Copy, Debug)]
pub struct Off;

impl Hardening for Off {}

/// What an attacker would have to get around: marks, canaries, shuffled slabs.
#[derive(Clone, Copy, Debug)]
pub struct Hardened;

impl Hardening for Hardened {
    const MARKS: bool = true;
    const CANARY: bool = true;
    const SHUFFLE: bool = true;
}

/// Everything, for the search for a mistake.
#[derive(Clone, Copy, Debug)]
pub struct Debugging;

impl Hardening for Debugging {
    const MARKS: bool = true;
    const CANARY: bool = true;
    const RED_ZONE: usize = 16;
    const POISON: bool = true;
    const SHUFFLE: bool = true;
    const HISTORY: bool = true;
}

/// Whether objects pass a check on their way out or back.
pub(crate) const fn is_any_on<K: Hardening>() -> bool {
    K::MARKS || K::CANARY || K::RED_ZONE > 0 || K::POISON || K::HISTORY
}

impl<S: System> CacheInner<S> {
    /// Looks at an object that is about to go out and prepares it; returns the pointer for the user, or `None` when the
    /// object is spoilt, after the fault hook has returned.
    #[track_caller]
    pub(crate) fn hand_out<K: Hardening>(&self, place: NonNull<u8>) -> Option<NonNull<u8>> {
        let padding = &self.settings.padding;
        // SAFETY: the padding in front lies inside the object's place.
        let object = unsafe { place.add(padding.front()) };
        let mut outcome = Ok(());
        if K::POISON && self.settings.constructor.is_none() {
            // SAFETY: a free object of ours, in hand.
            outcome = unsafe { poison::check(object, self.object_size()) };
        }
        if K::MARKS {
            outcome = outcome.and_then(|()| self.mark_allocated(place));
        }
        if let Err(fault) = outcome {
            self.system().report(&fault);
            return None;
        }
        if K::RED_ZONE > 0 {
            // SAFETY: in hand, with the padding of this preset around it.
            unsafe { red_zone::fill(object, padding) };
        }
        if K::CANARY {
            // SAFETY: in hand; the padding of this preset has room for a canary behind it.
            unsafe { canary::write(object, self.object_size(), self.settings.secret) };
        }
        if K::HISTORY {
            // SAFETY: in hand; the history was written when the slab was made.
            unsafe { history::note_allocation(padding.history(object), self.now()) };
        }
        Some(object)
    }

    /// Looks at an object that a user frees; returns its place, or `None` when nothing may be credited, after the fault
    /// hook has returned.
    #[track_caller]
    pub(crate) fn take_back<K: Hardening>(&self, object: NonNull<u8>) -> Option<NonNull<u8>> {
        let padding = &self.settings.padding;
        let place = object.as_ptr().wrapping_sub(padding.front());
        match self.look_at_returned::<K>(object, place.addr()) {
            Ok(()) => NonNull::new(place),
            Err(fault) => {
                self.system().report(&fault);
                None
            }
        }
    }

    #[track_caller]
    fn look_at_returned<K: Hardening>(
        &self,
        object: NonNull<u8>,
        place: usize,
    ) -> Result<(), Fault> {
        let (padding, size) = (&self.settings.padding, self.object_size());
        let found = if K::MARKS { Some(self.find_given(object, place)?) } else { None };
        if K::CANARY {
            // SAFETY: an object of ours, as the look-up says or the caller of `free` promises.
            unsafe { canary::check(object, size, self.settings.secret)? };
        }
        if K::RED_ZONE > 0 {
            // SAFETY: this preset wrote the zones when the object went out.
            unsafe { red_zone::check(object, padding)? };
        }
        // Last, so that an object with another fault keeps its mark and stays isolated.
        if let Some((header, index)) = found {
            self.mark_cached(object, header, index)?;
        }
        if K::HISTORY {
            // SAFETY: as above; ours since the mark.
            unsafe { history::note_free(padding.history(object), self.now()) };
        }
        if K::POISON && self.settings.constructor.is_none() {
            // SAFETY: ours since the mark, or since the user freed it: nobody reads it before it goes out again.
            unsafe { poison::fill(object, size) };
        }
        Ok(())
    }

    /// Finds the slab of the object that a user named, in whose place it lies; faults name the user's pointer.
    #[track_caller]
    fn find_given(
        &self,
        object: NonNull<u8>,
        place: usize,
    ) -> Result<(NonNull<SlabHeader>, usize), Fault> {
        self.find(place).map_err(|fault| Fault { address: object.addr().get(), ..fault })
    }

    /// Prepares the free objects of a fresh slab.
    ///
    /// # Safety
    /// 1. The slab is the caller's, in no list, and its objects are memory of ours.
    pub(crate) unsafe fn prepare_slab<K: Hardening>(&self, header: NonNull<SlabHeader>) {
        // SAFETY: clause 1: the header of a slab that nobody else has yet.
        let slab = unsafe { header.as_ref() };
        let geometry = &slab.geometry(&self.settings.geometry);
        for index in 0..geometry.capacity() {
            // SAFETY: below the capacity.
            let place = unsafe { slab.object(geometry, index) };
            // SAFETY: the padding in front lies inside the object's place.
            let object = unsafe { place.add(self.settings.padding.front()) };
            if K::POISON && self.settings.constructor.is_none() {
                // SAFETY: clause 1: nobody has an object of the slab yet.
                unsafe { poison::fill(object, self.object_size()) };
            }
            if K::HISTORY {
                // SAFETY: clause 1, and the padding of this preset has a history.
                unsafe { self.settings.padding.history(object).write(History::default()) };
            }
        }
    }

    fn now(&self) -> u64 {
        self.settings.clock.map_or(0, |clock| clock())
    }
}
