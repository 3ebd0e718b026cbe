//! Shrinking when memory is short: what each cache releases, and in which order.
//!
//! # Concepts
//! Cheapest first, and first from the caches that need it least:
//!
//! 1. the surplus of every cache: the part not needed since the last [aging
//!    pass](crate::registry::aging), so idle caches release first, and busy ones keep their working
//!    set;
//! 2. empty slabs, from each cache in proportion to the number that it has;
//! 3. the magazines of depots and of all CPUs, and the slabs that become empty by that;
//! 4. the internal caches;
//! 5. objects that users can do without: their callbacks free them, and the caches are shrunk
//!    again.
//!
//! # Concurrency
//! No lock is held between two caches, nor during callbacks. With [`Patience::Try`] locks are only
//! tried.

use core::ptr::NonNull;

use page_frame::{OutOfMemory, Tag};

use crate::cache_inner::CacheInner;
use crate::cache_inner::shared::Shared;
use crate::hardening::presets::Hardening;
use crate::patience::Patience;
use crate::registry::inner::RegistryInner;
use crate::system::System;

/// The pages of a memory in which a cache takes what the others do not use before it fails: up to
/// 64 MiB. In a larger one the owner of the page source reclaims, and counts what it reclaims.
const FEW_PAGES: usize = 1 << 14;

/// Returns whether caches take pages from one another. A source that grew after the registry was
/// made counts with the pages that it had then.
pub(crate) fn has_few_pages<S: System>(registry: &RegistryInner<S>) -> bool {
    registry.environment().range.pages() <= FEW_PAGES
}

/// Allocates an object of `cache` after the page source had no page for it. For a cache of a size
/// class in a small memory, makes the other caches release pages that they do not use, and tries
/// again.
#[cold]
#[inline(never)]
pub(crate) fn allocate_after_shrinking<S: System, K: Hardening>(
    registry: &RegistryInner<S>,
    cache: &CacheInner<S>,
) -> Result<NonNull<u8>, OutOfMemory> {
    let settings = &cache.slabs().settings;
    let takes_from_others = settings.tag != Tag::SLAB && has_few_pages(registry);
    if !takes_from_others || shrink_unused(registry, settings.slab_pages(), Patience::Try) == 0 {
        return Err(OutOfMemory);
    }
    cache.allocate_place::<K>()
}

/// Releases at least `target_pages` pages if it can; returns how many.
#[cold]
#[inline(never)]
pub(crate) fn shrink<S: System>(
    registry: &RegistryInner<S>,
    target_pages: usize,
    patience: Patience,
) -> usize {
    let mut released = shrink_unused(registry, target_pages, patience);
    visit_until(registry, target_pages, &mut released, |cache, wanted| {
        if !cache.call_reclaim() {
            return 0;
        }
        cache.shrink(wanted, patience)
    });
    released
}

/// Releases pages as [`shrink`] does, but of no object in use: it calls no callback.
#[cold]
#[inline(never)]
pub(crate) fn shrink_unused<S: System>(
    registry: &RegistryInner<S>,
    target_pages: usize,
    patience: Patience,
) -> usize {
    let mut released = 0;
    visit_until(registry, target_pages, &mut released, |cache, _| cache.release_idle(patience));
    let wanted = target_pages.saturating_sub(released);
    released += shrink_in_proportion(registry, wanted, patience);
    visit_until(registry, target_pages, &mut released, |cache, wanted| {
        cache.shrink(wanted, patience)
    });
    if released < target_pages {
        released += shrink_internal(&registry.shared, target_pages - released, patience);
    }
    released
}

/// Releases empty slabs of each cache, in proportion to the number that it has; returns the pages
/// released.
fn shrink_in_proportion<S: System>(
    registry: &RegistryInner<S>,
    target_pages: usize,
    patience: Patience,
) -> usize {
    let environment = registry.environment();
    let mut all = 0;
    registry.visit(|cache| all += cache.slabs().reclaimable(environment));
    let mut released = 0;
    visit_until(registry, target_pages, &mut released, |cache, _| {
        let own = cache.slabs().reclaimable(environment);
        // If all caches together have at most the target, each releases all.
        let share = if all <= target_pages { own } else { share(target_pages, own, all) };
        if share > 0 { cache.release_empty(share, patience) } else { 0 }
    });
    released
}

/// Shrinks the internal caches; headers last, as releasing magazines and caches may free some.
fn shrink_internal<S: System>(
    shared: &Shared<S>,
    target_pages: usize,
    patience: Patience,
) -> usize {
    shared.internal().rev().fold(0, |released, slabs| {
        let wanted = target_pages.saturating_sub(released);
        if wanted == 0 {
            return released;
        }
        released + slabs.release_empty(&shared.slab_source, wanted, 0, patience)
    })
}

/// Calls `shrink` with each cache and the pages still wanted, until none are; adds its results to
/// `released`.
fn visit_until<S: System>(
    registry: &RegistryInner<S>,
    target_pages: usize,
    released: &mut usize,
    mut shrink: impl FnMut(&CacheInner<S>, usize) -> usize,
) {
    registry.visit(|cache| {
        if *released < target_pages {
            *released += shrink(cache, target_pages - *released);
        }
    });
}

/// Returns `target * own / all`, rounded up.
fn share(target: usize, own: usize, all: usize) -> usize {
    (target as u128 * own as u128).div_ceil(all as u128) as usize
}
