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
//! A pass is divided into **steps**, as an allocation or a free must not wait for the work of all
//! caches. Each miss that goes beyond the depot runs one step while a pass is under way. The next
//! step continues where it stopped, in the middle of a cache if need be.
//!
//! Between passes a cache releases empty slabs by itself when they are more than 1/64 of all. A
//! cache that is emptied and filled in turns would pay for this each time. So slabs that were
//! released and fetched again are **missed**, and each one raises the limit on empty slabs.
//!
//! # Concurrency
//! The caller that finds a step due runs it, with no lock held; callers that find a step running
//! skip it. A pass only tries locks, and runs no constructor and no destructor. A cache with a
//! destructor keeps its empty slabs until it is shrunk, and so does a cache whose user has set how
//! many to keep. If the cache at which the pass continues is destroyed, the pass continues at the
//! one after it, and may skip the depot of that one.
//!
//! # Costs
//! A step visits about ten caches without anything to release, or returns up to 32 objects and one
//! magazine to their slabs, see [`Work`].

use crate::cache_inner::AGING_STAGES;
use crate::patience::Patience;
use crate::registry::inner::RegistryInner;
use crate::slabs::clock::Work;
use crate::system::System;

/// Runs a step of an aging pass, if one is due and none is running. Called with no lock held and
/// outside all slots.
#[inline]
pub(crate) fn age_if_due<S: System>(registry: &RegistryInner<S>) {
    if registry.environment().aging.is_due() {
        age_by_step(registry);
    }
}

#[cold]
fn age_by_step<S: System>(registry: &RegistryInner<S>) {
    let environment = registry.environment();
    if environment.lock_token().is_nested() {
        return;
    }
    let Some(step) = environment.aging.begin() else { return };
    if step.is_first {
        registry.list.begin_round(&environment.locking);
    }
    if let Some(stage) = age_from(registry, step.stage(), Work::of_step()) {
        step.pause(stage);
    }
}

/// Runs a whole aging pass, unless a step of one is running or the caller is nested. It takes the
/// place of one that is under way.
#[cold]
pub(crate) fn age<S: System>(registry: &RegistryInner<S>) {
    let environment = registry.environment();
    if environment.lock_token().is_nested() {
        return;
    }
    let Some(step) = environment.aging.begin() else { return };
    registry.list.begin_round(&environment.locking);
    let unfinished = age_from(registry, 0, Work::unlimited());
    debug_assert!(unfinished.is_none(), "the work is not limited");
    drop(step);
}

/// Continues the pass at `stage`, as far as `work` allows: those below [`AGING_STAGES`] are of the
/// cache that the round visits next, and then comes one for each internal cache. Returns the stage
/// at which the next step continues; `None` at the end of the pass.
fn age_from<S: System>(
    registry: &RegistryInner<S>,
    mut stage: usize,
    mut work: Work,
) -> Option<usize> {
    let locking = &registry.environment().locking;
    while stage < AGING_STAGES {
        if !work.is_left() {
            return Some(stage);
        }
        let mut next = stage;
        let was_visit = registry.list.visit_next(locking, |cache| {
            next = cache.age(stage, &mut work);
            next == AGING_STAGES
        });
        stage = match next {
            _ if !was_visit => AGING_STAGES,
            AGING_STAGES => 0,
            next => next,
        };
    }
    let source = &registry.shared.slab_source;
    for slabs in registry.shared.internal().skip(stage - AGING_STAGES) {
        if !slabs.release_idle(source, 0, Patience::Try, &mut work, || ()).1 {
            return Some(stage);
        }
        stage += 1;
    }
    None
}
