//! The settings of a cache.

use core::fmt;
use core::ptr::NonNull;

use page_frame::{CacheName, Tag};

use crate::grace::GracePeriods;
use crate::hardening::padding::Padding;
use crate::hardening::presets::Hardening;
use crate::slabs::layout::geometry::Geometry;
use crate::trace::{Event, Trace};

/// A constructor or destructor: the hook gets the address of the object.
/// Example: see [`CacheBuilder::constructor`](crate::CacheBuilder::constructor).
pub type ObjectHook = unsafe fn(NonNull<u8>);

/// The settings of one cache.
#[derive(Clone, Copy)]
pub(crate) struct CacheSettings {
    pub(crate) name: CacheName,
    /// The size of an object in bytes, without padding.
    pub(crate) size: u32,
    pub(crate) padding: Padding,
    /// How slabs are cut, except those for which only smaller blocks were free.
    pub(crate) geometry: Geometry,
    pub(crate) coloured: bool,
    pub(crate) constructor: Option<ObjectHook>,
    pub(crate) destructor: Option<ObjectHook>,
    pub(crate) tag: Tag,
    /// Empty slabs that stay until memory is short, `u16::MAX` for all; `None`: a share of the
    /// slabs.
    pub(crate) keep_empty: Option<u16>,
    /// Empty slabs that stay even when memory is short, `u16::MAX` for all.
    pub(crate) keep_at_least: u16,
    pub(crate) most_slabs: u32,
    /// The key of canaries and shuffled slabs.
    pub(crate) secret: usize,
    /// The clock for the times in histories.
    pub(crate) clock: Option<fn() -> u64>,
    pub(crate) trace: Option<&'static dyn Trace>,
    /// Whether this is an internal cache. Such a cache keeps no extra empty slabs for missed ones.
    pub(crate) is_internal: bool,
    /// Whether users free objects on demand.
    pub(crate) is_reclaimable: bool,
    /// Whether dropping the cache with objects in use keeps the page source alive for ever.
    pub(crate) is_pinned: bool,
    /// The grace periods that empty slabs wait for before they are released, if the memory of the
    /// cache keeps its type for readers.
    pub(crate) grace: Option<&'static dyn GracePeriods>,
}

impl CacheSettings {
    /// Returns the settings of an internal cache.
    pub(crate) fn internal(name: &str, size: usize, geometry: Geometry) -> Self {
        Self {
            name: CacheName::new(name),
            size: size as u32,
            padding: Padding::default(),
            geometry,
            coloured: true,
            constructor: None,
            destructor: None,
            tag: Tag::SLAB,
            keep_empty: None,
            keep_at_least: 0,
            most_slabs: u32::MAX,
            secret: 0,
            clock: None,
            trace: None,
            is_internal: true,
            is_reclaimable: false,
            is_pinned: false,
            grace: None,
        }
    }

    /// Returns the size of an object in bytes, as the user asked for it.
    pub(crate) fn object_size(&self) -> usize {
        self.size as usize
    }

    /// Returns whether free objects are filled with the pattern of the preset `K`. Where readers or
    /// the constructor need the content, they are not.
    pub(crate) fn is_poisoned<K: Hardening>(&self) -> bool {
        K::POISON && self.constructor.is_none() && self.grace.is_none()
    }

    /// Returns how many empty slabs stay even when memory is short.
    pub(crate) fn kept(&self) -> usize {
        match self.keep_at_least {
            u16::MAX => usize::MAX,
            kept => usize::from(kept),
        }
    }

    /// Returns the pages of a slab of the best order.
    pub(crate) fn slab_pages(&self) -> usize {
        self.geometry.order().pages()
    }

    /// Returns the object in `place`: it follows the front padding.
    pub(crate) fn object_in(&self, place: NonNull<u8>) -> NonNull<u8> {
        place.map_addr(|address| address.saturating_add(self.padding.front()))
    }

    /// Fires an event, if the cache has a hook.
    #[inline]
    pub(crate) fn trace(&self, event: impl FnOnce() -> Event) {
        if let Some(trace) = self.trace {
            trace.event(&self.name, event());
        }
    }

    /// Fires an event for each object that left its slab.
    #[inline]
    pub(crate) fn trace_taken(&self, places: &[NonNull<u8>]) {
        if self.trace.is_some() {
            for place in places {
                self.trace(|| Event::ObjectTaken { object: self.object_in(*place) });
            }
        }
    }
}

impl fmt::Debug for CacheSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CacheSettings").field(&self.name).finish()
    }
}
