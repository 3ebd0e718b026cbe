//! Doubly linked lists of slabs, through their records.
//!
//! # Invariants
//! - I1: the records from `first` through `next` are `count` many, each with its `previous` right, all live.
//! - I2: lists are reached only under the set lock, which also guards the records' places.

use core::ptr::NonNull;

use crate::record::{Place, Record};

/// A list of slabs.
#[derive(Debug)]
pub(crate) struct SlabList {
    first: *mut Record,
    count: usize,
}

impl SlabList {
    pub(crate) const fn new() -> Self {
        Self { first: core::ptr::null_mut(), count: 0 }
    }

    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    pub(crate) const fn first(&self) -> Option<NonNull<Record>> {
        NonNull::new(self.first)
    }

    /// Puts `record` in front.
    ///
    /// # Safety
    /// 1. `record` is live, in no list, and will be taken out before it dies.
    pub(crate) unsafe fn push(&mut self, record: NonNull<Record>) {
        let place = Place { next: self.first, previous: core::ptr::null_mut() };
        // SAFETY: clause 1: it is live, and in no list before this.
        unsafe { change_place(record, |_| place) };
        if let Some(second) = self.first() {
            let previous = record.as_ptr();
            // SAFETY: I1: a record of the list.
            unsafe { change_place(second, |place| Place { previous, ..place }) };
        }
        self.first = record.as_ptr();
        self.count += 1;
    }

    /// Takes `record` out.
    ///
    /// # Safety
    /// 1. `record` is in this list.
    pub(crate) unsafe fn remove(&mut self, record: NonNull<Record>) {
        // SAFETY: clause 1.
        let Place { next, previous } = unsafe { place_of(record) };
        if let Some(before) = NonNull::new(previous) {
            // SAFETY: I1: what a record of the list names as its neighbour is one too.
            unsafe { change_place(before, |place| Place { next, ..place }) };
        } else {
            self.first = next;
        }
        if let Some(after) = NonNull::new(next) {
            // SAFETY: I1: likewise the neighbour on the other side.
            unsafe { change_place(after, |place| Place { previous, ..place }) };
        }
        self.count -= 1;
    }

    /// Takes the first record out.
    pub(crate) fn pop(&mut self) -> Option<NonNull<Record>> {
        let first = self.first()?;
        // SAFETY: it is the first of this list.
        unsafe { self.remove(first) };
        Some(first)
    }

    /// Iterates over the records, at most `count` of them even if a link is damaged.
    pub(crate) fn iter(&self) -> impl Iterator<Item = NonNull<Record>> + '_ {
        let mut next = self.first;
        (0..self.count).map_while(move |_| {
            let record = NonNull::new(next)?;
            // SAFETY: I1: the list cannot change while it is borrowed.
            next = unsafe { place_of(record) }.next;
            Some(record)
        })
    }
}

/// Returns the neighbours of `record`.
///
/// # Safety
/// 1. `record` is live, in a list that the caller has (I1), and so under the set lock (I2).
unsafe fn place_of(record: NonNull<Record>) -> Place {
    // SAFETY: clause 1: it is live, and listed, so its slab cannot go home meanwhile.
    let record = unsafe { record.as_ref() };
    // SAFETY: clause 1: the lock keeps writers away.
    unsafe { record.place() }
}

/// Changes the neighbours of `record`.
///
/// # Safety
/// 1. `record` is live, in a list that the caller changes or about to be (I1), and so under the set lock (I2).
unsafe fn change_place(record: NonNull<Record>, change: impl FnOnce(Place) -> Place) {
    // SAFETY: clause 1: it is live, and nobody else lists it under the lock.
    let record = unsafe { record.as_ref() };
    // SAFETY: clause 1: the lock keeps writers away.
    let place = unsafe { record.place() };
    // SAFETY: clause 1: it keeps readers away too.
    unsafe { record.set_place(change(place)) };
}
