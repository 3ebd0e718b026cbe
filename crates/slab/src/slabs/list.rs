//! Doubly linked lists of slabs, through their headers.
//!
//! # Invariants
//! - I1: from `first` the `next` pointers lead to `count` live headers, and the `previous` of each
//!   is its predecessor.
//! - I2: only one CPU at a time uses a list and its headers' neighbours: the holder of the set
//!   lock, or the owner of slabs that it took out of the set.

use core::ptr::NonNull;

use crate::slabs::layout::header::{Neighbours, SlabHeader};

/// A list of slabs.
#[derive(Debug)]
pub(crate) struct SlabList {
    first: *mut SlabHeader,
    count: usize,
}

impl SlabList {
    pub(crate) const fn new() -> Self {
        Self { first: core::ptr::null_mut(), count: 0 }
    }

    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    pub(crate) const fn first(&self) -> Option<NonNull<SlabHeader>> {
        NonNull::new(self.first)
    }

    /// Puts `header` in front.
    ///
    /// # Safety
    /// 1. `header` is live, in no list, and will be taken out before it dies.
    pub(crate) unsafe fn push(&mut self, header: NonNull<SlabHeader>) {
        let neighbours = Neighbours { next: self.first, previous: core::ptr::null_mut() };
        // SAFETY: clause 1 of `change_neighbours`: `header` is live, and about to be in this list
        // (I2).
        unsafe { change_neighbours(header, |_| neighbours) };
        if let Some(second) = self.first() {
            let previous = header.as_ptr();
            // SAFETY: clause 1 of `change_neighbours`: I1: `second` is a header of this list.
            unsafe {
                change_neighbours(second, |neighbours| Neighbours { previous, ..neighbours })
            };
        }
        self.first = header.as_ptr();
        self.count += 1;
    }

    /// Takes `header` out.
    ///
    /// # Safety
    /// 1. `header` is in this list.
    pub(crate) unsafe fn remove(&mut self, header: NonNull<SlabHeader>) {
        // SAFETY: clause 1 of `neighbours_of`: `header` is in this list (clause 1), so live (I1).
        let Neighbours { next, previous } = unsafe { neighbours_of(header) };
        if let Some(before) = NonNull::new(previous) {
            // SAFETY: I1: the neighbour of a header of this list is in the list too, so live.
            unsafe { change_neighbours(before, |neighbours| Neighbours { next, ..neighbours }) };
        } else {
            self.first = next;
        }
        if let Some(after) = NonNull::new(next) {
            // SAFETY: I1: likewise the neighbour on the other side.
            unsafe { change_neighbours(after, |neighbours| Neighbours { previous, ..neighbours }) };
        }
        self.count -= 1;
    }

    /// Takes the first header out.
    pub(crate) fn pop(&mut self) -> Option<NonNull<SlabHeader>> {
        let first = self.first()?;
        // SAFETY: clause 1 of `remove`: `first` is in this list.
        unsafe { self.remove(first) };
        Some(first)
    }

    /// Iterates over the headers, at most `count` of them even if a link is damaged.
    pub(crate) fn iter(&self) -> impl Iterator<Item = NonNull<SlabHeader>> + '_ {
        let mut next = self.first;
        (0..self.count).map_while(move |_| {
            let header = NonNull::new(next)?;
            // SAFETY: I1: the list cannot change while it is borrowed.
            next = unsafe { neighbours_of(header) }.next;
            Some(header)
        })
    }
}

/// Returns the neighbours of `header`.
///
/// # Safety
/// 1. `header` is live, in a list that the caller has borrowed (I1), so no other code uses it (I2).
unsafe fn neighbours_of(header: NonNull<SlabHeader>) -> Neighbours {
    // SAFETY: clause 1: the header is live and listed, so its slab is not released meanwhile.
    let header = unsafe { header.as_ref() };
    // SAFETY: clause 1: no other code changes the neighbours meanwhile.
    unsafe { header.neighbours() }
}

/// Changes the neighbours of `header`.
///
/// # Safety
/// 1. `header` is live, and in a list that the caller changes or about to be (I1), so no other code
///    uses it (I2).
unsafe fn change_neighbours(
    header: NonNull<SlabHeader>,
    change: impl FnOnce(Neighbours) -> Neighbours,
) {
    // SAFETY: clause 1: the header is live.
    let header = unsafe { header.as_ref() };
    // SAFETY: clause 1: no other code changes the neighbours meanwhile.
    let neighbours = unsafe { header.neighbours() };
    // SAFETY: clause 1: no other code reads the neighbours either.
    unsafe { header.set_neighbours(change(neighbours)) };
}

#[cfg(test)]
impl SlabList {
    /// Changes the count, as a bug would.
    pub(crate) fn corrupt_count(&mut self, by: isize) {
        self.count = self.count.wrapping_add_signed(by);
    }
}
