//! Checks of a cache's invariants. Bounded; nothing is allocated.
//!
//! Other CPUs may use the cache meanwhile. Frees without the lock only put objects on top of the
//! stack that is being walked. Takes from the slabs, and exchanges with the depot, wait for the
//! lock. `magazines.rs` has the checks for which no other call may use the cache.

use core::ptr::NonNull;

use page_frame::{PAGE_SIZE, PageMap, Violation};

use crate::cache_inner::CacheInner;
use crate::patience::Patience;
use crate::slabs::Slabs;
use crate::slabs::environment::Environment;
use crate::slabs::layout::header::{ListName, SlabHeader};
use crate::slabs::set::SlabSet;
use crate::system::System;

/// Checks the invariants of `slabs`.
pub(crate) fn validate<S: System>(
    slabs: &Slabs,
    environment: &Environment<S>,
) -> Result<(), Violation> {
    let token = environment.lock_token();
    let Some(set) = slabs.lock_sorted::<S>(&token, Patience::Wait) else { return Ok(()) };
    for name in [ListName::Full].into_iter().chain(ListName::KNOWN) {
        validate_list(slabs, environment, &set, name)?;
    }
    match set.violated_sum(&slabs.settings.geometry) {
        Some(invariant) => Err(Violation::of(invariant)),
        None => Ok(()),
    }
}

/// Checks the invariants of the slabs of `cache` and of its depot.
pub(crate) fn validate_cache<S: System>(cache: &CacheInner<S>) -> Result<(), Violation> {
    validate(cache.slabs(), cache.environment())?;
    let token = cache.environment().lock_token();
    let depot = token.lock(&cache.percpu.depot);
    match depot.and_then(|depot| depot.violated_invariant()) {
        Some(invariant) => Err(Violation::of(invariant)),
        None => Ok(()),
    }
}

fn validate_list<S: System>(
    slabs: &Slabs,
    environment: &Environment<S>,
    set: &SlabSet,
    name: ListName,
) -> Result<(), Violation> {
    let mut previous: *mut SlabHeader = core::ptr::null_mut();
    let mut count = 0;
    for header in set.list(name).iter() {
        // SAFETY: slab set I1: alive.
        let slab = unsafe { header.as_ref() };
        // SAFETY: we hold the set lock.
        if unsafe { slab.neighbours() }.previous != previous {
            return Err(Violation::of("slab list I1: neighbours name each other"));
        }
        // SAFETY: we hold the set lock.
        if unsafe { slab.list() } != name {
            return Err(Violation::of("slab set I1: a slab is in the list that its header names"));
        }
        validate_slab(slabs, environment, header, name)?;
        previous = header.as_ptr();
        count += 1;
    }
    let next = NonNull::new(previous).map(|last| {
        // SAFETY: slab set I1: alive.
        let last = unsafe { last.as_ref() };
        // SAFETY: we hold the set lock.
        unsafe { last.neighbours() }.next
    });
    let goes_on = next.map_or(set.list(name).first().is_some(), |next| !next.is_null());
    if goes_on || count != set.list(name).count() {
        return Err(Violation::of("slab list I1: a list is as long as it says"));
    }
    Ok(())
}

fn validate_slab<S: System>(
    slabs: &Slabs,
    environment: &Environment<S>,
    header: NonNull<SlabHeader>,
    name: ListName,
) -> Result<(), Violation> {
    // SAFETY: slab set I1: alive.
    let slab = unsafe { header.as_ref() };
    let Some(geometry) = &slab.known_geometry(&slabs.settings.geometry) else {
        return Err(Violation::of("header: the cache cuts slabs of its order"));
    };
    if usize::from(slab.colour) >= geometry.colours() {
        return Err(Violation::of("header: the colour is one of the geometry's"));
    }
    if slab.cache != slabs.identity() {
        return Err(Violation::of("header: a slab names its cache"));
    }
    let source = &environment.source;
    for page in 0..slab.pages() {
        let address = slab.start.addr().get() + page * PAGE_SIZE;
        if source.tag(address) != slabs.settings.tag {
            return Err(Violation::of("page map: every page of a slab has its cache's tag"));
        }
        if source.owner(address) != header.as_ptr().cast() {
            return Err(Violation::of("page map: the owner of every page of a slab is its header"));
        }
    }
    let behind = slab.start.addr().get() + slab.pages() * PAGE_SIZE;
    if source.tag(behind).is_slab() && source.owner(behind) == header.as_ptr().cast() {
        return Err(Violation::of("page map: the owner of no other page is a slab's header"));
    }
    let seen = slab.word.load();
    let is_known = name != ListName::Full;
    if is_known != (seen.free > 0) && (is_known || seen.is_known != (seen.free > 0)) {
        return Err(Violation::of(
            "slab set I2: slabs with free objects, and no others, are in sight",
        ));
    }
    let is_empty = matches!(name, ListName::Empty | ListName::Waiting);
    if is_empty && seen.free != geometry.capacity() {
        return Err(Violation::of("slab set I3: the objects of an empty slab are all free"));
    }
    // Twice the free word's capacity of steps visits no object twice, unless the links form a ring:
    // then the steps do not end at the object counted last. Counting each object needs a bit per
    // object, which windows provide. SAFETY: slab set I1: alive.
    let links = unsafe { SlabHeader::links(header, geometry) };
    let mut windows = 0;
    while windows < geometry.capacity() {
        let mut visited = 0_u128;
        let mut index = seen.head;
        for _ in 0..seen.free {
            if index >= geometry.capacity() {
                return Err(Violation::of("free word I1: links name objects of the slab"));
            }
            if let Some(bit) = index.checked_sub(windows).filter(|bit| *bit < 128) {
                if visited >> bit & 1 == 1 {
                    return Err(Violation::of("free word I1: each free object is linked once"));
                }
                visited |= 1 << bit;
            }
            // SAFETY: we hold the set lock, and the index was checked.
            index = unsafe { links.read(index) };
        }
        if index != 0 {
            // `push_chain` links the first object of a slab without free objects to index 0.
            return Err(Violation::of("free word I1: the last link is zero"));
        }
        windows += 128;
    }
    Ok(())
}
