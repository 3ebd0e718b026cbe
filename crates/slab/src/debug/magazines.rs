//! Checks of the objects in magazines, while no other call uses the cache. Nothing is allocated.
//!
//! # Concepts
//! A check compares each object with all others, and with the free objects of its slab. It does so
//! for a **batch** of at most 64 objects at a time. It first copies their addresses, as no lock may
//! be taken while this call has taken over the slot of a CPU: the owner of the lock may wait for
//! that slot. For each batch it walks all magazines again. The invariants of magazines stand in
//! `percpu/magazine.rs`.

use core::ptr::NonNull;

use page_frame::{FrameNumber, Violation};

use crate::cache_inner::CacheInner;
use crate::hardening::presets::Hardening;
use crate::patience::Patience;
use crate::slabs::layout::header::SlabHeader;
use crate::slabs::layout::links::MARK_CACHED;
use crate::system::System;

/// Number of objects of a batch: half a kilobyte of addresses.
const BATCH: usize = 64;

/// The addresses of some objects in magazines, and their number.
struct Batch {
    addresses: [usize; BATCH],
    count: usize,
}

/// Checks all objects in magazines of `cache`, which no other call uses meanwhile. A nested caller,
/// which cannot have the lock of the slab set, skips the comparison with the slabs.
pub(crate) fn validate_magazines<S: System, K: Hardening>(
    cache: &CacheInner<S>,
) -> Result<(), Violation> {
    let mut first = 0;
    loop {
        let batch = collect(cache, first)?;
        let addresses = &batch.addresses[..batch.count];
        for address in addresses {
            if cache.slabs().find(cache.environment(), *address).is_err() {
                return broken("magazine I2: a magazine holds objects of its cache", *address);
            }
        }
        compare_with_slabs::<S, K>(cache, addresses)?;
        if addresses.len() < BATCH {
            return Ok(());
        }
        first += BATCH;
    }
}

fn broken(invariant: &'static str, address: usize) -> Result<(), Violation> {
    Err(Violation::at(invariant, FrameNumber::containing(address)))
}

/// Copies the addresses of up to [`BATCH`] objects in magazines, from number `first` on, and
/// compares them with each other and with all objects that follow.
fn collect<S: System>(cache: &CacheInner<S>, first: usize) -> Result<Batch, Violation> {
    let mut batch = Batch { addresses: [0; BATCH], count: 0 };
    let mut twice = None;
    let mut number = 0;
    let mut note = |object: NonNull<u8>| {
        let address = object.addr().get();
        if number >= first {
            if batch.addresses[..batch.count].contains(&address) {
                twice.get_or_insert(address);
            }
            if batch.count < BATCH {
                batch.addresses[batch.count] = address;
                batch.count += 1;
            }
        }
        number += 1;
    };
    let mut is_consistent = true;
    cache.percpu.slots.take_over(
        |_| true,
        |_, slot| match slot.is_consistent() {
            true => slot.objects().for_each(&mut note),
            false => is_consistent = false,
        },
    );
    if !is_consistent {
        return Err(Violation::of("CPU slot I1: the loaded magazine has its places in order"));
    }
    let token = cache.environment().lock_token();
    if let Some(depot) = token.lock(&cache.percpu.depot) {
        depot.objects().for_each(&mut note);
    }
    match twice {
        Some(address) => broken("magazine I2: an object is in one magazine, once", address),
        None => Ok(()),
    }
    .map(|()| batch)
}

/// Checks that none of the objects at `addresses` is free in its slab, and that each has the mark
/// of a cached object.
fn compare_with_slabs<S: System, K: Hardening>(
    cache: &CacheInner<S>,
    addresses: &[usize],
) -> Result<(), Violation> {
    let slabs = cache.slabs();
    let token = cache.environment().lock_token();
    let Some(set) = slabs.lock_sorted::<S>(&token, Patience::Wait) else { return Ok(()) };
    for header in set.iter() {
        // SAFETY: slab set I1: alive, as we hold the lock.
        let slab = unsafe { header.as_ref() };
        let geometry = &slab.geometry(&slabs.settings.geometry);
        // SAFETY: clause 1 of `links`: alive, and cut by `geometry`.
        let links = unsafe { SlabHeader::links(header, geometry) };
        for address in addresses {
            let (index, _) = slab.index_of(geometry, *address);
            if index >= geometry.capacity() {
                continue; // not an object of this slab
            }
            let seen = slab.word.load();
            let mut free = seen.head;
            for _ in 0..seen.free {
                if free == index {
                    return broken("magazine I2: an object in a magazine is not free", *address);
                }
                if free >= geometry.capacity() {
                    return broken("free word I1: links name objects of the slab", *address);
                }
                // SAFETY: clause 1 of `read`: the index was checked. Clause 2: we hold the lock.
                free = unsafe { links.read(free) };
            }
            // Exchanges the mark for itself: a check that the mark is there.
            // SAFETY: clause 1 of `change_mark`: the index was checked.
            if K::MARKS && unsafe { links.change_mark(index, MARK_CACHED, MARK_CACHED) }.is_err() {
                return broken("mark: an object in a magazine is marked so", *address);
            }
        }
    }
    Ok(())
}
