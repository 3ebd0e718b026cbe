//! Watching a cache from inside: an observer is told when slabs come and go, and when magazines and objects move.
//!
//! # Concepts
//! What a CPU takes from its own magazine, or puts into it, is nobody's news. An observer hears of all else: an object leaves
//! its slab for a magazine or a user, and comes back; a full magazine goes to the depot, and is had from there
//! (empty ones are not told of); a slab is made,
//! and its pages go home. The numbers of a picture follow from that and from [`Cache::for_each_slab`](crate::Cache::for_each_slab).
//!
//! # Concurrency
//! Told with nothing held and no slot entered, after a thing was done or, where a slab is left, before it. With one CPU events
//! come in order; with several each CPU's own do.
//!
//! # Costs
//! Nothing in a hit. In a miss, where nobody listens, a load and a branch for a magazine.

use core::ptr::NonNull;

use crate::cache::inner::CacheInner;
use crate::system::System;

/// What an observer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A block of the page source became a slab.
    SlabMade {
        /// Its first byte.
        start: NonNull<u8>,
        /// Its size in pages.
        pages: usize,
        /// The offset of the first object in bytes.
        colour_offset: usize,
    },
    /// A slab's block goes home to the page source.
    SlabGone {
        /// Its first byte.
        start: NonNull<u8>,
        /// Its size in pages.
        pages: usize,
    },
    /// A CPU had a full magazine from the depot.
    MagazineLoaded {
        /// The objects in it.
        objects: usize,
    },
    /// A CPU left a magazine at the depot.
    MagazineStored {
        /// The objects in it.
        objects: usize,
    },
    /// The depot gave a magazine up, to be emptied into the slabs.
    MagazineGone {
        /// The objects in it.
        objects: usize,
    },
    /// An object left its slab, for a magazine or a user.
    ObjectOut {
        /// The object.
        object: NonNull<u8>,
    },
    /// An object goes back into its slab.
    ObjectBack {
        /// The object.
        object: NonNull<u8>,
    },
}

/// Who is told. It may use other caches, but not the one that it watches.
pub type Observer = fn(Event);

impl<S: System> CacheInner<S> {
    /// Tells whoever listens.
    #[inline]
    pub(crate) fn trace(&self, event: impl FnOnce() -> Event) {
        if let Some(told) = self.settings.observer {
            told(event());
        }
    }

    /// Tells whoever listens that the objects at `places` left their slabs.
    #[inline]
    pub(crate) fn trace_taken(&self, places: &[NonNull<u8>]) {
        if let Some(told) = self.settings.observer {
            places
                .iter()
                .for_each(|place| told(Event::ObjectOut { object: self.object_at(*place) }));
        }
    }

    /// Tells whoever listens that the objects at `places` go back into their slabs; pointers that are none are passed over.
    #[inline]
    pub(crate) fn trace_returned(&self, places: &[NonNull<u8>]) {
        if let Some(told) = self.settings.observer {
            let ours = places.iter().filter(|place| self.find(place.addr().get()).is_ok());
            ours.for_each(|place| told(Event::ObjectBack { object: self.object_at(*place) }));
        }
    }

    /// Returns where the object of a place begins: behind the padding.
    fn object_at(&self, place: NonNull<u8>) -> NonNull<u8> {
        place.map_addr(|address| address.saturating_add(self.settings.padding.front()))
    }
}
