//! The working set: what caches keep beyond the objects in use, and when they let it go.
//!
//! # Concepts
//! A library has no clock, so time is **traffic**: pages that the caches of a registry take and give back. A **turn** comes
//! after traffic of 1/32 of the pages held. Depots and slab sets note the least that they kept between two aging: so
//! much was not needed, and goes. A cache that is in use keeps what it uses; one that is idle while others grow gives up
//! everything but its CPUs' magazines within two aging. While nothing grows or shrinks nothing aging, and the caches keep
//! what they have.
//!
//! Between aging a cache sends empty slabs home by itself when they are more than 1/64 of all. One that is emptied and filled
//! again and again would pay for it each time; so slabs that had to be taken from the page source again are **missed**, and
//! so many more stay from then on.
//!
//! # Concurrency
//! Whoever's growth makes a turn due does it, holding nothing; the others go on. It only tries locks, and calls no
//! constructor and no destructor: the caches that have one keep their empty slabs until somebody shrinks them, as do those
//! that were told how many to keep.

use page_frame::sync::{AtomicBool, AtomicUsize, Ordering};

use crate::cache::inner::CacheInner;
use crate::percpu::path::Patience;
use crate::registry::handle::Shared;
use crate::system::System;

/// A turn comes after traffic of one part in so many of the pages held: a guess.
const PARTS: usize = 32;
/// The least traffic between two aging, in pages: a guess; a turn looks at every cache.
const LEAST_TRAFFIC: usize = 64;

/// When the next turn is due.
#[derive(Debug)]
pub(crate) struct AgingClock {
    /// Pages that all caches hold.
    pages: AtomicUsize,
    /// Pages taken and given back since the last turn.
    traffic: AtomicUsize,
    turning: AtomicBool,
}

impl AgingClock {
    pub(crate) fn new() -> Self {
        Self {
            pages: AtomicUsize::new(0),
            traffic: AtomicUsize::new(0),
            turning: AtomicBool::new(false),
        }
    }

    /// Notes that pages were taken or given back; whether a turn is due.
    ///
    /// Relaxed throughout: the numbers decide when caches are looked at, and nothing else.
    fn note(&self, taken: usize, given: usize) -> bool {
        let before = if taken > given {
            self.pages.fetch_add(taken - given, Ordering::Relaxed)
        } else {
            self.pages.fetch_sub(given - taken, Ordering::Relaxed)
        };
        let traffic = self.traffic.fetch_add(taken + given, Ordering::Relaxed) + taken + given;
        traffic >= (before / PARTS).max(LEAST_TRAFFIC)
    }

    /// Begins a turn, unless one is going on.
    fn begin(&self) -> bool {
        // Acquire: pairs with the Release in `end`, though a turn shares nothing with the one before.
        !self.turning.swap(true, Ordering::Acquire)
    }

    fn end(&self) {
        self.traffic.store(0, Ordering::Relaxed);
        self.turning.store(false, Ordering::Release);
    }
}

/// A turn that goes on. Dropping it ends the turn, also when an observer panics.
struct AgingPass<'t>(&'t AgingClock);

impl Drop for AgingPass<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl<S: System> Shared<S> {
    /// Notes that a cache took `taken` pages and gave back `given`; makes the turn, if one is due. Called with nothing
    /// held.
    pub(crate) fn note_traffic(&self, taken: usize, given: usize) {
        if self.aging.note(taken, given)
            && !self.locking.lock_token().is_nested()
            && self.aging.begin()
        {
            let turn = AgingPass(&self.aging);
            self.list.visit(&self.locking, CacheInner::turn);
            self.internal().for_each(CacheInner::turn);
            drop(turn);
        }
    }
}

impl<S: System> CacheInner<S> {
    /// Gives up what nobody has needed since the last turn.
    fn turn(&self) {
        self.release_idle_magazines(Patience::Try);
        if self.settings.destructor.is_none() && self.settings.keep_empty.is_none() {
            self.release_idle_slabs(Patience::Try);
        }
    }
}
