//! Aging: caches release memory that they did not need lately.
//!
//! # Concepts
//! A library has no clock, so time is **traffic**: pages that the caches of a registry take and
//! return. An **aging pass** is due after traffic of 1/32 of the pages held, and of at least 64
//! pages. Depots and slab sets note the minimum number of magazines and of empty slabs that they
//! held between two passes: these were not needed, and the pass releases them. A cache in use keeps
//! its working set; one that is idle while others grow releases everything but its CPUs' magazines
//! within two passes. Without traffic nothing ages.
//!
//! Between passes a cache releases empty slabs by itself when they are more than 1/64 of all. A
//! cache that is emptied and filled in turns would pay for this each time. So slabs that were
//! released and fetched again are **missed**, and each one raises the limit on empty slabs.
//!
//! # Concurrency
//! The caller that finds a pass due runs it, with no lock held; other callers continue. A pass only
//! tries locks, and runs no constructor and no destructor. A cache with a destructor keeps its
//! empty slabs until it is shrunk, and so does a cache whose user has set how many to keep.

use crate::cache_inner::CacheInner;
use crate::patience::Patience;
use crate::registry::inner::RegistryInner;
use crate::system::System;

/// Runs an aging pass, if one is due and none is running. Called with no lock held and outside all
/// slots.
#[inline]
pub(crate) fn age_if_due<S: System>(registry: &RegistryInner<S>) {
    if registry.environment().aging.is_due() {
        age(registry);
    }
}

/// Runs an aging pass, unless one is running or the caller is nested.
#[cold]
pub(crate) fn age<S: System>(registry: &RegistryInner<S>) {
    let environment = registry.environment();
    if environment.lock_token().is_nested() {
        return;
    }
    let Some(pass) = environment.aging.begin() else { return };
    registry.visit(CacheInner::age);
    for slabs in registry.shared.internal() {
        slabs.release_idle(&registry.shared.slab_source, 0, Patience::Try, || ());
    }
    drop(pass);
}
