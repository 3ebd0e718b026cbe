//! The slab set: all slabs of a cache, by how full they are, under one lock.
//!
//! # Concepts
//! Objects are taken from the fullest slabs first, so that the emptier ones become empty and can be
//! released. Slabs with every object taken stay in a list of their own, where statistics find them.
//!
//! Frees do not need the lock. A full slab that gets an object back waits on the **pending** stack
//! until the next holder of the lock sorts it into the set ([`SlabSet::take_pending`]).
//!
//! # Invariants
//! - I1: every slab of the set is alive and in exactly one list, which its header names.
//! - I2: a slab in a list of [`ListName::KNOWN`] has a free object and is not pending. One in
//!   `Full` has none, or is pending, or is about to be put on the pending stack by the push that
//!   returned `First`.
//! - I3: the holder of the lock may release a slab in `Empty` that has all objects free. No caller
//!   owns an object of it, and by I2 no push is between its exchange and the pending stack, so no
//!   other code uses the slab.
//! - I4: in a type-stable cache readers may use a slab that has all objects free. A slab in
//!   `Waiting` has been empty since before the grace period of `waiting_since` was started. The
//!   holder of the lock may release it once that period has ended.

use core::ptr::NonNull;

use page_frame::sync::TakeAll;

use crate::grace::GracePeriods;
use crate::slabs::chain::FreedChain;
use crate::slabs::free_word::Pushed;
use crate::slabs::layout::geometry::Geometry;
use crate::slabs::layout::header::{ListName, SlabHeader};
use crate::slabs::list::SlabList;
use crate::slabs::settings::CacheSettings;

const LISTS: usize = ListName::Nowhere as usize;

/// All slabs of a cache.
#[derive(Debug)]
pub(crate) struct SlabSet {
    lists: [SlabList; LISTS],
    colour: u16,
    /// The minimum number of empty slabs since the last aging pass. Saturates.
    fewest_empty: u16,
    /// The pages that the slabs of lower orders lack, compared to slabs of the best order, in all.
    missing_pages: u32,
    /// Slabs released that have not been missed yet. Saturates.
    released: u8,
    /// Slabs that were released and fetched again soon after. Each one raises the limit on empty
    /// slabs.
    missed: u16,
    /// Whether objects were taken or given since the last aging pass.
    was_used: bool,
    /// Slabs ever taken from the page source, modulo 2^32.
    grown: u32,
    /// The token of the grace period that the slabs in `Waiting` wait for, if there are any (I4).
    waiting_since: u64,
}

// SAFETY: the headers in the lists belong to the cache, and the lists are used only under its lock.
unsafe impl Send for SlabSet {}

impl SlabSet {
    pub(crate) const fn new() -> Self {
        let lists = [const { SlabList::new() }; LISTS];
        Self {
            lists,
            colour: 0,
            fewest_empty: 0,
            missing_pages: 0,
            released: 0,
            missed: 0,
            was_used: false,
            grown: 0,
            waiting_since: 0,
        }
    }

    /// Returns how many slabs there are.
    pub(crate) fn slabs(&self) -> usize {
        self.lists.iter().map(SlabList::count).sum()
    }

    /// Returns how many slabs were ever taken from the page source.
    pub(crate) fn grown(&self) -> usize {
        self.grown as usize
    }

    /// Returns how many slabs were ever returned to the page source.
    pub(crate) fn shrunk(&self) -> usize {
        self.grown.wrapping_sub(self.slabs() as u32) as usize
    }

    /// Returns the pages of all slabs, most of which are cut by `best`.
    pub(crate) fn pages(&self, best: &Geometry) -> usize {
        (self.slabs() * best.order().pages()).saturating_sub(self.missing_pages as usize)
    }

    /// Returns the bytes of all slabs, as if all of them were cut by `best`.
    pub(crate) fn bytes(&self, best: &Geometry) -> usize {
        self.slabs() * best.slab_bytes()
    }

    /// Returns how many slabs are in the lists of empty ones.
    pub(crate) fn empty_slabs(&self) -> usize {
        self.list(ListName::Empty).count() + self.list(ListName::Waiting).count()
    }

    /// Returns the token of the grace period that slabs wait for, if any does.
    pub(crate) fn waiting_since(&self) -> Option<u64> {
        (self.list(ListName::Waiting).count() > 0).then_some(self.waiting_since)
    }

    pub(crate) fn list(&self, name: ListName) -> &SlabList {
        &self.lists[name as usize]
    }

    /// Iterates over all slabs.
    pub(crate) fn iter(&self) -> impl Iterator<Item = NonNull<SlabHeader>> + '_ {
        self.lists.iter().flat_map(SlabList::iter)
    }

    /// Returns the invariant that the sums over all slabs break, if they break one. The slabs are
    /// valid one by one.
    pub(crate) fn violated_sum(&self, best: &Geometry) -> Option<&'static str> {
        // SAFETY: I1: slabs in lists have not been released.
        let missing = self.iter().map(|header| missing_pages(unsafe { header.as_ref() }, best));
        if missing.sum::<u32>() != self.missing_pages {
            return Some("slab set: the missing pages are those of all slabs of lower orders");
        }
        if self.fewest_empty > self.empty_slabs_at_most() {
            return Some("slab set: the minimum number of empty slabs is at most their number");
        }
        None
    }

    /// Returns the colour of the next slab, and advances to the one after it. Zero for caches that
    /// are not coloured.
    pub(crate) fn colour_of_next(&mut self, settings: &CacheSettings) -> usize {
        if !settings.coloured {
            return 0;
        }
        let colour = usize::from(self.colour);
        self.colour = settings.geometry.next_colour(colour) as u16;
        colour
    }

    /// Adds a fresh slab.
    ///
    /// # Safety
    /// 1. `header` is live, of this cache, in no list, all its objects free.
    pub(crate) unsafe fn add(&mut self, header: NonNull<SlabHeader>, best: &Geometry) {
        // SAFETY: clause 1 of `put`: the slab is live and in no list (clause 1).
        unsafe { self.put(header, ListName::Empty) };
        self.grown = self.grown.wrapping_add(1);
        if self.released > 0 {
            self.released -= 1;
            self.missed = self.missed.saturating_add(1);
        }
        // SAFETY: clause 1: the header lives.
        self.missing_pages += missing_pages(unsafe { header.as_ref() }, best);
    }

    /// Sorts the pending slabs into the lists.
    pub(crate) fn take_pending(&mut self, pending: &TakeAll<SlabHeader>, best: &Geometry) {
        if pending.is_empty() {
            return;
        }
        for header in pending.take_all() {
            // SAFETY: a pending slab is alive (I3), and in `Full` (I2).
            unsafe { self.sort(header, best) };
        }
    }

    /// Takes up to `wanted` objects, at least one, from the fullest slabs; returns how many. Calls
    /// `put` with each object and its number, from 0; a later call for the same number replaces the
    /// earlier one.
    ///
    /// With a `mark`, writes it into each object's link, and checks the links. An object is taken
    /// only if its link names an object of the slab; an object in use has a mark there instead. At
    /// any other link it stops, and calls `broken` with that object. The free objects behind it are
    /// lost.
    pub(crate) fn take(
        &mut self,
        best: &Geometry,
        wanted: usize,
        mark: Option<u8>,
        mut put: impl FnMut(usize, NonNull<u8>),
        mut broken: impl FnMut(NonNull<u8>),
    ) -> usize {
        let mut taken = 0;
        self.was_used = true;
        while let Some(header) = self.fullest() {
            // SAFETY: I1: slabs in lists have not been released.
            let slab = unsafe { header.as_ref() };
            let geometry = &slab.geometry(best);
            let last = geometry.capacity() - 1;
            // Without marks, links are not checked.
            let known = |index: usize| if mark.is_some() { index.min(last) } else { index };
            // SAFETY: I1: the header lives.
            let links = unsafe { SlabHeader::links(header, geometry) };
            // SAFETY: clause 1 of `read`: the word and the links hold indices of objects, or
            // `known` makes it one. Clause 2: `self` came through the set lock.
            let next = |index| unsafe { links.read(known(index)) };
            // SAFETY: clause 1 of `object`: a slab has an object.
            let first = unsafe { slab.object(geometry, 0) };
            let stride = geometry.stride();
            let popped = slab.word.pop_chain(wanted - taken, next, |place, index| {
                // SAFETY: the word holds indices of objects, below the capacity; otherwise
                // `known` makes it one. Every object lies inside the slab (geometry I1).
                put(taken + place, unsafe { first.add(known(index) * stride) });
            });
            let mut is_last = popped.is_some_and(|chain| chain.is_last);
            let mut count = popped.map_or(0, |chain| chain.count);
            if let (Some(mark), Some(chain)) = (mark, popped) {
                let mut index = chain.head;
                for number in 0..chain.count {
                    // Read first, as the mark overwrites the link.
                    let following = next(index);
                    // The last free object of a slab links to object 0.
                    let ends = is_last && number + 1 == chain.count;
                    let highest = if ends { 0 } else { last };
                    if index > last || following > highest {
                        // SAFETY: clause 1 of `object`: `known` makes it an index of an object.
                        broken(unsafe { slab.object(geometry, known(index)) });
                        count = number;
                        if !is_last {
                            slab.word.forget_all();
                            is_last = true;
                        }
                        break;
                    }
                    // SAFETY: clause 1 of `set_mark`: an object just taken, so ours.
                    unsafe { links.set_mark(index, mark) };
                    index = following;
                }
            }
            taken += count;
            if is_last {
                // SAFETY: clause 1 of `relist`: the slab is in the list that it names. By I2 it now
                // belongs in `Full`, even if it is pending already.
                unsafe { self.relist(header, ListName::Full) };
            } else {
                // SAFETY: it is in the list that it names. It is not pending, as that is a list of
                // `KNOWN` (I2).
                unsafe { self.sort(header, best) };
            }
            if taken == wanted {
                return taken;
            }
        }
        taken
    }

    /// Returns the first slab of the fullest list that is not empty.
    fn fullest(&self) -> Option<NonNull<SlabHeader>> {
        ListName::KNOWN.iter().find_map(|name| self.list(*name).first())
    }

    /// Frees the objects of `chain`, and moves their slab to the list for its fill.
    ///
    /// # Safety
    /// 1. The chain has objects, its slab is one of this set, and the caller owns them.
    pub(crate) unsafe fn give(&mut self, chain: &mut FreedChain, best: &Geometry) {
        let header = chain.header;
        self.was_used = true;
        // SAFETY: clause 1 of `push`: the chain has objects, which the caller owns and gives up
        // (clause 1).
        let pushed = unsafe { chain.push() };
        // SAFETY: clause 1: the slab is one of this set, so it is released only under the lock.
        let slab = unsafe { header.as_ref() };
        // SAFETY: clause 1 of `list`: `self` came through the set lock.
        let is_full = unsafe { slab.list() } == ListName::Full;
        // In `Full`, and this push was not the first: the push of another CPU was, and that CPU
        // puts the slab on the pending stack.
        if pushed == Pushed::First || !is_full {
            // SAFETY: clause 1 of `sort`: the slab is in this set. It is not pending: either it has
            // a known list (I2), or this call got `First`, and sorts the slab instead of making it
            // pending.
            unsafe { self.sort(header, best) };
        }
    }

    /// Returns how many slabs were taken from the page source soon after others had been released.
    pub(crate) fn missed(&self) -> usize {
        usize::from(self.missed)
    }

    /// Notes that `slabs` slabs were released as surplus, not because memory was short.
    pub(crate) fn note_released(&mut self, slabs: usize) {
        let slabs = u8::try_from(slabs).unwrap_or(u8::MAX);
        self.released = self.released.saturating_add(slabs);
    }

    /// Resets the counts of released and missed slabs: memory is short.
    pub(crate) fn forget_missed(&mut self) {
        (self.released, self.missed) = (0, 0);
    }

    /// Takes one slab that may be released out of the set, while more than `keep` are empty. In a
    /// type-stable cache, which has `grace`, only one that was empty for a whole grace period.
    ///
    /// The caller then owns the slab; its objects are constructed.
    pub(crate) fn pop_empty(
        &mut self,
        keep: usize,
        best: &Geometry,
        grace: Option<&dyn GracePeriods>,
    ) -> Option<NonNull<SlabHeader>> {
        if self.empty_slabs() <= keep {
            return None;
        }
        let name = match grace {
            None => ListName::Empty,
            Some(grace) if self.has_waited(grace) => ListName::Waiting,
            Some(_) => return None,
        };
        let header = self.lists[name as usize].pop()?;
        self.note_fewest();
        // SAFETY: I1: the slab was in a list until now, so it is alive.
        let slab = unsafe { header.as_ref() };
        let capacity = slab.geometry(best).capacity();
        debug_assert_eq!(slab.word.load().free, capacity, "I3: all objects are free");
        // SAFETY: clause 1 of `set_list`: `self` came through the set lock.
        unsafe { slab.set_list(ListName::Nowhere) };
        self.missing_pages -= missing_pages(slab, best);
        Some(header)
    }

    /// Returns whether the grace period of the slabs in `Waiting` has ended, so that they may be
    /// released. If there are none, all empty slabs begin to wait. O(slabs that begin).
    fn has_waited(&mut self, grace: &dyn GracePeriods) -> bool {
        if self.waiting_since().is_none() {
            // After the last free of their objects, as I4 wants. Before the first slab waits, as
            // `start` may panic.
            self.waiting_since = grace.start();
            while let Some(header) = self.lists[ListName::Empty as usize].pop() {
                // SAFETY: clause 1 of `put`: the slab was in a list until now, so it is alive (I1).
                unsafe { self.put(header, ListName::Waiting) };
            }
        }
        grace.has_ended(self.waiting_since)
    }

    /// Returns how many empty slabs were not needed since the last aging pass. If these are at most
    /// `most`, restarts the count. Otherwise the caller releases `most`, and the next call returns
    /// those that are left; where slabs wait for a grace period, it releases fewer in this pass.
    /// `None` if objects were taken or given since: the set is in use. In an idle set, halves the
    /// count of missed slabs, and forgets those that were released: to take them again is not soon
    /// after.
    pub(crate) fn age(&mut self, most: usize) -> Option<usize> {
        let fewest = usize::from(self.fewest_empty);
        let was_used = core::mem::take(&mut self.was_used);
        if fewest > most && !was_used {
            self.fewest_empty -= most as u16;
            return Some(fewest);
        }
        self.fewest_empty = self.empty_slabs_at_most();
        if was_used {
            return None;
        }
        (self.missed, self.released) = (self.missed / 2, 0);
        Some(fewest)
    }

    fn note_fewest(&mut self) {
        self.fewest_empty = self.fewest_empty.min(self.empty_slabs_at_most());
    }

    /// Returns how many slabs are empty, at most `u16::MAX`.
    fn empty_slabs_at_most(&self) -> u16 {
        u16::try_from(self.empty_slabs()).unwrap_or(u16::MAX)
    }

    /// Moves slabs with free objects to the lists for their fill: frees without the lock move none.
    /// Empty slabs get no frees, so those that wait stay where they are.
    pub(crate) fn sort_all(&mut self, best: &Geometry) {
        for name in ListName::KNOWN.into_iter().filter(|name| *name != ListName::Waiting) {
            let mut next = self.lists[name as usize].first();
            for _ in 0..self.lists[name as usize].count() {
                let Some(header) = next else { break };
                // SAFETY: I1: the slab is in the list, so alive.
                let slab = unsafe { header.as_ref() };
                // SAFETY: clause 1 of `neighbours`: `self` came through the set lock.
                next = NonNull::new(unsafe { slab.neighbours() }.next);
                // SAFETY: it is in `name`.
                unsafe { self.sort(header, best) };
            }
        }
    }

    /// Moves a slab with free objects to the list for its fill.
    ///
    /// # Safety
    /// 1. `header` is in the list that it names, and not pending.
    unsafe fn sort(&mut self, header: NonNull<SlabHeader>, best: &Geometry) {
        // SAFETY: clause 1 and I1: live.
        let slab = unsafe { header.as_ref() };
        let name = ListName::for_fill(slab.word.load().free, slab.capacity(best));
        // SAFETY: clause 1 of `relist` is a part of clause 1.
        unsafe { self.relist(header, name) };
    }

    /// # Safety
    /// 1. `header` is in the list that it names.
    unsafe fn relist(&mut self, header: NonNull<SlabHeader>, name: ListName) {
        // SAFETY: clause 1 and I1: live.
        let slab = unsafe { header.as_ref() };
        // SAFETY: clause 1 of `list`: `self` came through the set lock.
        let old = unsafe { slab.list() };
        if old != name {
            // SAFETY: clause 1 of `remove`: `old` is the list that the header names (clause 1).
            unsafe { self.lists[old as usize].remove(header) };
            self.note_fewest();
            // SAFETY: clause 1 of `put`: the slab is live, and now in no list.
            unsafe { self.put(header, name) };
        }
    }

    /// # Safety
    /// 1. `header` is live and in no list.
    unsafe fn put(&mut self, header: NonNull<SlabHeader>, name: ListName) {
        // SAFETY: clause 1: the header lives.
        let slab = unsafe { header.as_ref() };
        // SAFETY: clause 1 of `set_list`: `self` came through the set lock.
        unsafe { slab.set_list(name) };
        // SAFETY: clause 1 of `push`: the slab is live and in no list; `pop_empty` takes it out
        // before it dies.
        unsafe { self.lists[name as usize].push(header) };
    }
}

fn missing_pages(slab: &SlabHeader, best: &Geometry) -> u32 {
    (best.order().pages() - slab.pages()) as u32
}

#[cfg(test)]
impl SlabSet {
    /// Changes a list and the sums, as a bug would.
    pub(crate) fn corrupt(&mut self, name: ListName, count: isize, missing: u32, fewest: u16) {
        self.lists[name as usize].corrupt_count(count);
        self.missing_pages += missing;
        self.fewest_empty += fewest;
    }
}

#[cfg(test)]
#[path = "set_tests.rs"]
mod tests;
