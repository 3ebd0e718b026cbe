//! Objects in use, one by one: for the list of leaks when a cache is to be destroyed, and for
//! inspection.
//!
//! # Concepts
//! With all magazines emptied, an object is in use exactly when it is not in its slab's stack of
//! free objects. Each slab is walked by windows of 128 objects, so that nothing is allocated for
//! it.

use core::ptr::NonNull;

use crate::hardening::history::{self, History};
use crate::hardening::presets::Hardening;
use crate::patience::Patience;
use crate::slabs::Slabs;
use crate::slabs::environment::Environment;
use crate::slabs::layout::geometry::Geometry;
use crate::slabs::layout::header::SlabHeader;
use crate::slabs::settings::CacheSettings;
use crate::system::System;

/// Objects looked at in one walk over a slab's free objects.
const WINDOW: usize = 128;

/// An object in use.
///
/// ```
/// # use core::{alloc::Layout, mem::MaybeUninit};
/// # use page_frame::{Arena, SingleCpu};
/// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
/// # let arena = Arena::new(&mut memory)?;
/// # let registry = slab::Registry::new(&arena, SingleCpu::new())?;
/// use slab::{Debugging, History, LiveObject};
/// let inodes = registry.cache("inode", Layout::new::<[u64; 75]>());
/// let inodes = inodes.hardening::<Debugging>().clock(|| 42).build()?;
/// let forgotten = inodes.allocate()?;
/// let mut busy = inodes.destroy().expect_err("an object is in use");
/// busy.cache.for_each_live(|live: LiveObject| {
///     assert_eq!((live.object, live.index), (forgotten, live.index));
///     let history: History = live.history.expect("`Debugging` keeps it");
///     let place = history.allocated_by.expect("it was allocated");
///     println!("{:p} allocated by {place} at {}", live.object, history.allocated_at);
///     assert_eq!((history.allocations, history.freed_at), (1, 0));
/// });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct LiveObject {
    /// The object.
    pub object: NonNull<u8>,
    /// The address of its slab.
    pub slab: usize,
    /// Its index in the slab.
    pub index: usize,
    /// The caller that allocated it, and when, where the preset keeps
    /// [histories](Hardening::HISTORY).
    pub history: Option<History>,
}

/// Calls `look` with each object in use.
///
/// # Safety
/// 1. No other code uses the cache meanwhile, its visitors have gone or only shrink it, and its
///    magazines are empty.
pub(crate) unsafe fn for_each_live<S: System, K: Hardening>(
    slabs: &Slabs,
    environment: &Environment<S>,
    mut look: impl FnMut(LiveObject),
) {
    let token = environment.lock_token();
    let Some(set) = slabs.lock::<S>(&token, Patience::Wait) else { return };
    for header in set.iter() {
        // SAFETY: alive, as it is in the set, whose lock we hold.
        let geometry = &unsafe { header.as_ref() }.geometry(&slabs.settings.geometry);
        for first in (0..geometry.capacity()).step_by(WINDOW) {
            // SAFETY: alive, as it is in the set, whose lock we hold.
            let free = unsafe { free_in_window(header, geometry, first) };
            let window = (geometry.capacity() - first).min(WINDOW);
            for index in (0..window).filter(|bit| free >> bit & 1 == 0).map(|bit| first + bit) {
                // SAFETY: as above, and below the capacity.
                look(unsafe { live_object::<K>(&slabs.settings, header, geometry, index) });
            }
        }
    }
}

/// # Safety
/// 1. `header` is live, of a slab cut by `geometry`, and has object `index`, which is in use.
unsafe fn live_object<K: Hardening>(
    settings: &CacheSettings,
    header: NonNull<SlabHeader>,
    geometry: &Geometry,
    index: usize,
) -> LiveObject {
    // SAFETY: clause 1: an object of the slab is in use, so its header stays.
    let slab = unsafe { header.as_ref() };
    // SAFETY: clause 1: the index is one of the slab's.
    let object = settings.object_in(unsafe { slab.object(geometry, index) });
    let history = if K::HISTORY {
        // SAFETY: clause 1 of `read`: written when the slab was made; only frees and allocations
        // write it again.
        unsafe { history::read(settings.padding.history(object), settings.secret) }
    } else {
        None
    };
    LiveObject { object, slab: slab.start.addr().get(), index, history }
}

/// Returns which of the `WINDOW` objects from `first` on are free in their slab, a bit each.
///
/// # Safety
/// 1. `header` is live, of a slab cut by `geometry`, and the caller holds the lock of its set.
unsafe fn free_in_window(header: NonNull<SlabHeader>, geometry: &Geometry, first: usize) -> u128 {
    // SAFETY: clause 1: no slab leaves the set while its lock is held.
    let seen = unsafe { header.as_ref() }.word.load();
    // SAFETY: clause 1: cut by `geometry`, and live.
    let links = unsafe { SlabHeader::links(header, geometry) };
    let mut index = seen.head;
    let mut free = 0;
    for _ in 0..seen.free {
        if let Some(bit) = index.checked_sub(first).filter(|bit| *bit < WINDOW) {
            free |= 1 << bit;
        }
        // SAFETY: clause 1; the free word names objects.
        index = unsafe { links.read(index) };
    }
    free
}
