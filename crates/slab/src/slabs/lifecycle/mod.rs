//! Taking objects from slabs and freeing them to slabs, and the growth and release of slabs that
//! follow.
//!
//! # Concurrency
//! Growth and release hold no lock: the caller owns a slab that it makes or has taken out of the
//! set.
//!
//! # Panics
//! Constructors, destructors and traces are code of the user and may panic. The guards of
//! `ending.rs` own the slabs and blocks that a function holds at such a moment.

pub(crate) mod build;
pub(crate) mod ending;
pub(crate) mod shuffle;

use core::ptr::NonNull;

use page_frame::OutOfMemory;

use crate::hardening::presets::{Hardening, Off};
use crate::patience::{Patience, Reclaim};
use crate::slabs::chain::FreedChain;
use crate::slabs::clock::Work;
use crate::slabs::layout::header::SlabHeader;
use crate::slabs::layout::links::MARK_CACHED;
use crate::slabs::lifecycle::build::{BlockGuard, prepare_objects, take_block, write_header};
use crate::slabs::lifecycle::ending::{ReleasingSlabs, UnfinishedSlab};
use crate::slabs::list::SlabList;
use crate::slabs::set::SlabSet;
use crate::slabs::settings::CacheSettings;
use crate::slabs::{SlabSource, Slabs};
use crate::system::System;
use crate::trace::Event;

/// Maximum number of slabs that one call makes, for a caller that wants more objects than one slab
/// has: a guess.
const MAX_GROWN_AT_ONCE: usize = 8;

/// Maximum number of surplus slabs that one call releases, besides those that became empty by it. A
/// large surplus is there after the limit of empty slabs has been lowered. A guess.
const MOST_SURPLUS: usize = 8;

impl Slabs {
    /// Takes up to `wanted` objects, at least one; makes a slab if none has a free object, and
    /// further ones while `wanted` exceeds what they have, up to [`MAX_GROWN_AT_ONCE`]. Calls `put`
    /// with each object and its number, from 0; a later call for the same number replaces the
    /// earlier one. Calls `note` with the bytes of all slabs, under the set lock. Sets `broken` to
    /// an object whose link has been overwritten, if it finds one, see [`SlabSet::take`].
    pub(crate) fn take<S: System, K: Hardening>(
        &self,
        source: &SlabSource<S>,
        wanted: usize,
        reclaim: Reclaim,
        note: impl Fn(usize),
        broken: &mut Option<NonNull<u8>>,
        mut put: impl FnMut(usize, NonNull<u8>),
    ) -> Result<usize, OutOfMemory> {
        let best = &self.settings.geometry;
        let mark = K::MARKS.then_some(MARK_CACHED);
        let count = wanted.div_ceil(best.capacity()).min(MAX_GROWN_AT_ONCE);
        let mut colours = [0; MAX_GROWN_AT_ONCE];
        {
            let token = source.environment.lock_token();
            let set = self.lock_sorted::<S>(&token, Patience::Wait);
            let mut set = set.ok_or(OutOfMemory)?;
            let taken = set.take(best, wanted, mark, &mut put, |place| *broken = Some(place));
            if taken > 0 {
                note(set.bytes(best));
                return Ok(taken);
            }
            if !self.may_grow(&set) {
                return Err(OutOfMemory);
            }
            colours[..count].fill_with(|| set.colour_of_next(&self.settings));
        }
        // No object is taken before all slabs are made: code of the user may panic meanwhile.
        let mut fresh = ReleasingSlabs::new(self, source);
        for colour in &colours[..count] {
            let Ok(header) = self.grow::<S, K>(source, *colour, reclaim) else { break };
            // SAFETY: clause 1 of `push`: `grow` made the slab: live and in no list. It leaves this
            // list before it is released.
            unsafe { fresh.list.push(header) };
        }
        let mut pages = 0;
        let taken = {
            let token = source.environment.lock_token();
            let set = self.lock::<S>(&token, Patience::Wait);
            set.map_or(0, |mut set| {
                // Checked again: another CPU may have grown the cache meanwhile.
                while self.may_grow(&set) {
                    let Some(header) = fresh.list.pop() else { break };
                    // SAFETY: `grow` made the slab, and no other code has it.
                    pages += unsafe { header.as_ref() }.pages();
                    // SAFETY: clause 1 of `add`: the slab is live, of this cache, in no list, and
                    // all its objects are free.
                    unsafe { set.add(header, best) };
                }
                note(set.bytes(best));
                set.take(best, wanted, mark, &mut put, |place| *broken = Some(place))
            })
        };
        // Slabs that the cache may not have go back.
        drop(fresh);
        source.environment.aging.note(pages, 0);
        if taken > 0 { Ok(taken) } else { Err(OutOfMemory) }
    }

    /// Takes one object for the registry itself.
    pub(crate) fn take_internal<S: System>(
        &self,
        source: &SlabSource<S>,
        reclaim: Reclaim,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let mut object = None;
        let put = |_, taken| object = Some(taken);
        self.take::<S, Off>(source, 1, reclaim, |_| (), &mut None, put)?;
        object.ok_or(OutOfMemory)
    }

    /// Frees `objects`, which the caller owns, into their slabs, and releases surplus empty slabs.
    /// Returns the pages released. Calls `note` as [`take`](Self::take) does.
    ///
    /// If it does not get the set lock (nested, or [`Patience::Try`]), it pushes each chain of
    /// objects to its slab's free word.
    pub(crate) fn give<S: System>(
        &self,
        source: &SlabSource<S>,
        patience: Patience,
        objects: &[NonNull<u8>],
        note: impl Fn(usize),
    ) -> usize {
        self.trace_returned(&source.environment, objects);
        let best = &self.settings.geometry;
        source.environment.prefetch_headers(objects, best);
        let fault;
        let mut surplus = ReleasingSlabs::new(self, source);
        {
            let token = source.environment.lock_token();
            if let Some(mut set) = self.lock::<S>(&token, patience) {
                // SAFETY: clause 1 of `SlabSet::give`: a chain of objects of this cache, which the
                // caller owns.
                let free = |chain: &mut FreedChain| unsafe { set.give(chain, best) };
                fault = self.for_each_chain(&source.environment, objects, free);
                set.take_pending(&self.pending, best);
                note(set.bytes(best));
                // `Patience::Try` may come from an aging pass, which must not run destructors.
                let keep = match patience {
                    Patience::Try if self.settings.destructor.is_some() => usize::MAX,
                    _ => self.empty_slabs_kept(&set),
                };
                // Each object makes at most one slab empty, so the surplus becomes smaller.
                let most = objects.len() + MOST_SURPLUS;
                self.pop_empty(&mut set, keep, most, &mut surplus.list);
                set.note_released(surplus.list.count());
            } else {
                let free = |chain: &mut FreedChain| self.give_unlocked(chain);
                fault = self.for_each_chain(&source.environment, objects, free);
            }
        }
        let pages = surplus.finish();
        if let Some(fault) = fault {
            source.environment.report(&fault.in_cache(self.settings.name));
        }
        pages
    }

    /// Frees one object of an internal cache. Returns the pages released.
    pub(crate) fn give_internal<S: System>(
        &self,
        source: &SlabSource<S>,
        patience: Patience,
        object: NonNull<u8>,
    ) -> usize {
        self.give(source, patience, &[object], |_| ())
    }

    /// Releases empty slabs of up to `target_pages` pages, but keeps `keep` of them. Returns the
    /// pages released.
    pub(crate) fn release_empty<S: System>(
        &self,
        source: &SlabSource<S>,
        target_pages: usize,
        keep: usize,
        patience: Patience,
    ) -> usize {
        let most = target_pages.div_ceil(self.settings.slab_pages());
        let mut surplus = ReleasingSlabs::new(self, source);
        {
            let token = source.environment.lock_token();
            let Some(mut set) = self.lock_sorted::<S>(&token, patience) else { return 0 };
            set.sort_all(&self.settings.geometry);
            set.forget_missed();
            self.pop_empty(&mut set, keep, most, &mut surplus.list);
        }
        surplus.finish()
    }

    /// Releases the empty slabs that were not needed since the last aging pass, but keeps `keep`,
    /// and does at most `work`; calls `note_idle` if no object was taken or given since. Returns
    /// the pages released, and whether these were all.
    pub(crate) fn release_idle<S: System>(
        &self,
        source: &SlabSource<S>,
        keep: usize,
        patience: Patience,
        work: &mut Work,
        note_idle: impl Fn(),
    ) -> (usize, bool) {
        let mut surplus = ReleasingSlabs::new(self, source);
        let most = work.parts(Work::SLAB);
        let is_done;
        {
            let token = source.environment.lock_token();
            let Some(mut set) = self.lock_sorted::<S>(&token, patience) else { return (0, true) };
            let Some(idle) = set.age(most) else { return (0, true) };
            is_done = idle <= most;
            if is_done {
                note_idle();
            }
            self.pop_empty(&mut set, keep, idle.min(most), &mut surplus.list);
        }
        work.spend(surplus.list.count() * Work::SLAB);
        (surplus.finish(), is_done)
    }

    /// Makes a slab: all objects constructed and free, in no list.
    ///
    /// # Errors
    /// [`OutOfMemory`] when there is no block, or no memory for its header; then nothing is held.
    ///
    /// # Panics
    /// When a constructor or the trace panics; then nothing is held.
    fn grow<S: System, K: Hardening>(
        &self,
        source: &SlabSource<S>,
        colour: usize,
        reclaim: Reclaim,
    ) -> Result<NonNull<SlabHeader>, OutOfMemory> {
        let (settings, pages) = (&self.settings, &source.environment.source);
        let (block, geometry) = take_block(pages, settings.geometry, reclaim)?;
        let geometry = &geometry;
        let block_start = block.start();
        // SAFETY: clause 1 of `BlockGuard::new`: just allocated from this source, so nothing refers
        // into it.
        let block = unsafe { BlockGuard::new(pages, block) };
        let memory = match geometry.bookkeeping_offset() {
            // SAFETY: the bookkeeping lies inside the slab (geometry I1).
            Some(offset) => unsafe { block_start.add(offset) },
            None => source.headers_for(geometry).take_internal(source, reclaim)?,
        };
        let (start, order) = block.release().ok_or(OutOfMemory)?.into_raw();
        let identity = self.identity();
        // SAFETY: clauses 1 and 2 of `write_header`: the block and the memory are ours, and were
        // allocated for this geometry. Clause 3: our own identity and settings.
        let header = unsafe {
            write_header::<K>(pages, settings, identity, start, memory, colour, geometry)
        };
        if K::POISON || K::CANARY || K::REQUESTED_SIZE || K::HISTORY {
            // SAFETY: clause 1 of `prepare_objects`: the slab is ours, in no list, and no
            // constructor has run.
            unsafe { prepare_objects::<K>(settings, header) };
        }
        let mut slab = UnfinishedSlab { slabs: self, source, header, constructed: 0 };
        slab.construct_objects(geometry);
        let (pages, colour_offset) = (order.pages(), geometry.colour_offset(colour));
        settings.trace(|| Event::SlabMade { start, pages, colour_offset });
        core::mem::forget(slab);
        Ok(header)
    }

    /// Moves empty slabs beyond `keep` that may be released to `surplus`, up to `most` slabs.
    fn pop_empty(&self, set: &mut SlabSet, keep: usize, most: usize, surplus: &mut SlabList) {
        let CacheSettings { geometry, grace, .. } = &self.settings;
        while surplus.count() < most {
            let Some(header) = set.pop_empty(keep, geometry, *grace) else { return };
            // SAFETY: clause 1 of `push`: the slab is alive and in no list; `ReleasingSlabs`
            // pops it before it releases it.
            unsafe { surplus.push(header) };
        }
    }
}
