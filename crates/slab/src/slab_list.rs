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
        // SAFETY: clause 1: live.
        let new = unsafe { record.as_ref() };
        // SAFETY: I2.
        unsafe { new.set_place(place) };
        if let Some(second) = self.first() {
            // SAFETY: I1: live.
            let second = unsafe { second.as_ref() };
            // SAFETY: I2.
            let place = unsafe { second.place() };
            // SAFETY: I2.
            unsafe { second.set_place(Place { previous: record.as_ptr(), ..place }) };
        }
        self.first = record.as_ptr();
        self.count += 1;
    }

    /// Takes `record` out.
    ///
    /// # Safety
    /// 1. `record` is in this list.
    pub(crate) unsafe fn remove(&mut self, record: NonNull<Record>) {
        // SAFETY: I1: live.
        let this = unsafe { record.as_ref() };
        // SAFETY: I2.
        let Place { next, previous } = unsafe { this.place() };
        if let Some(before) = NonNull::new(previous) {
            // SAFETY: I1: live.
            let before = unsafe { before.as_ref() };
            // SAFETY: I2.
            let place = unsafe { before.place() };
            // SAFETY: I2.
            unsafe { before.set_place(Place { next, ..place }) };
        } else {
            self.first = next;
        }
        if let Some(after) = NonNull::new(next) {
            // SAFETY: I1: live.
            let after = unsafe { after.as_ref() };
            // SAFETY: I2.
            let place = unsafe { after.place() };
            // SAFETY: I2.
            unsafe { after.set_place(Place { previous, ..place }) };
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
            // SAFETY: I1: live.
            let this = unsafe { record.as_ref() };
            // SAFETY: I2.
            next = unsafe { this.place() }.next;
            Some(record)
        })
    }
}
