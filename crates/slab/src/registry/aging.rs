//! Aging: caches release what they did not need lately.
//!
//! # Concepts
//! A library has no clock, so time is **traffic**: pages that the caches of a registry take and
//! return. An **aging pass** is due after traffic of 1/32 of the pages held. Depots and slab sets
//! note the least that they kept between two passes: it was not needed, and the pass releases it. A
//! cache that is in use keeps what it uses; one that is idle while others grow gives up everything
//! but its CPUs' magazines within two passes. Without traffic nothing ages.
//!
//! Between passes a cache releases empty slabs by itself when they are more than 1/64 of all. A
//! cache that is emptied and filled again and again would pay for it each time; so slabs that had
//! to be fetched again are **missed**, and each one raises the number of empty slabs that stay.
//!
//! # Concurrency
//! The caller that finds a pass due runs it, holding nothing; others go on. A pass only tries
//! locks, and runs no constructor and no destructor: caches that have a destructor keep their empty
//! slabs until they are shrunk, as do those whose user has said how many to keep.

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

#[cold]
fn age<S: System>(registry: &RegistryInner<S>) {
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
