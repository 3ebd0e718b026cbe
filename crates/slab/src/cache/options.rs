//! The options of a cache that is not built yet, with their defaults.

use core::alloc::Layout;

use page_frame::{CacheName, Order, Tag};

use crate::cache_inner::depot::USUAL_ROOM;
use crate::cache_inner::sizing::USUAL_BYTES;
use crate::grace::GracePeriods;
use crate::slabs::settings::ObjectHook;
use crate::trace::Trace;

/// The options of a [`CacheBuilder`](crate::CacheBuilder). Each field is set by the builder's
/// method of the same name or by those that its comment names. They document units and meaning.
pub(super) struct CacheOptions {
    /// Set by `Registry::cache`, like the layout.
    pub(super) name: CacheName,
    pub(super) layout: Layout,
    pub(super) line_bytes: usize,
    /// Set by `line_aligned`.
    pub(super) is_line_aligned: bool,
    pub(super) max_order: Order,
    pub(super) min_objects: usize,
    pub(super) tight_order: Option<Order>,
    /// Cleared by `uncoloured`.
    pub(super) is_coloured: bool,
    pub(super) constructor: Option<ObjectHook>,
    pub(super) destructor: Option<ObjectHook>,
    pub(super) tag: Tag,
    /// Set by `keep_empty` and `release_at_once`.
    pub(super) keep_empty: Option<u16>,
    pub(super) keep_at_least: u16,
    pub(super) most_pages: usize,
    /// Set by `reclaimable` and `reclaim`.
    pub(super) is_reclaimable: bool,
    pub(super) reclaim: Option<&'static (dyn Fn() + Sync)>,
    pub(super) magazine_bytes: usize,
    pub(super) secret: Option<usize>,
    pub(super) clock: Option<fn() -> u64>,
    pub(super) trace: Option<&'static dyn Trace>,
    /// Set by `pinned`, which users do not call.
    pub(super) is_pinned: bool,
    pub(super) depot_bytes: usize,
    /// Set by `type_stable`.
    pub(super) grace: Option<&'static dyn GracePeriods>,
}

impl CacheOptions {
    pub(super) fn new(name: &str, layout: Layout) -> Self {
        Self {
            name: CacheName::new(name),
            layout,
            line_bytes: 64,
            is_line_aligned: false,
            max_order: Order::MAX,
            min_objects: 0,
            tight_order: None,
            is_coloured: true,
            constructor: None,
            destructor: None,
            tag: Tag::SLAB,
            keep_empty: None,
            keep_at_least: 0,
            most_pages: usize::MAX,
            is_reclaimable: false,
            reclaim: None,
            magazine_bytes: USUAL_BYTES,
            secret: None,
            clock: None,
            trace: None,
            is_pinned: false,
            depot_bytes: USUAL_ROOM,
            grace: None,
        }
    }
}
