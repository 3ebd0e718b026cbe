//! Magazines: arrays of objects that CPUs exchange as a whole.
//!
//! # Concepts
//! A magazine is memory of an internal cache: a header, then as many pointers as its **capacity**, which is one of a few
//! and never changes. While it is loaded in a CPU slot the slot knows how many objects it has; otherwise the header does
//! (Bonwick and Adams 2001, section 3).

use core::ptr::NonNull;

/// The header of a magazine.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Magazine {
    /// The next one in the depot or in a chain of magazines that somebody empties.
    next: *mut Magazine,
    /// How many objects are in it, and in the bits above the class of its capacity. It comes last: it lies below the first
    /// place, where CPU slots look for the object pushed before; and it is less than a page, so no object's address.
    fill: usize,
}

/// How many objects a magazine may hold. They make magazines of 32, 48, 112, 240 and 496 bytes, of which slabs lose little.
pub(crate) const CAPACITIES: [usize; 5] = [2, 4, 12, 28, 60];

/// The bits of [`Magazine::fill`] that count objects.
const LENGTH_BITS: u32 = 8;
const LENGTH: usize = (1 << LENGTH_BITS) - 1;

const _: () = {
    assert!(core::mem::offset_of!(Magazine, fill) + size_of::<usize>() == size_of::<Magazine>());
    let last = CAPACITIES.len() - 1;
    assert!(CAPACITIES[last] <= LENGTH && (last + 1) << LENGTH_BITS <= page_frame::PAGE_SIZE);
};

impl Magazine {
    /// Returns the size in bytes of a magazine of `capacity` objects.
    pub(crate) const fn bytes(capacity: usize) -> usize {
        size_of::<Self>() + capacity * size_of::<NonNull<u8>>()
    }

    /// Makes an empty magazine of raw memory, of the capacity that `class` names.
    ///
    /// # Safety
    /// 1. `memory` is aligned for pointers and the caller's, of the bytes that a magazine has.
    pub(crate) unsafe fn new_in(memory: NonNull<u8>, class: usize) -> NonNull<Self> {
        let magazine = memory.cast::<Self>();
        let header = Self { next: core::ptr::null_mut(), fill: class << LENGTH_BITS };
        // SAFETY: clause 1.
        unsafe { magazine.write(header) };
        magazine
    }

    /// Returns how many objects are in it, while it is not loaded.
    pub(crate) const fn length(&self) -> usize {
        self.fill & LENGTH
    }

    /// Notes how many objects are in it, at most its capacity.
    pub(crate) const fn set_length(&mut self, length: usize) {
        self.fill = self.fill & !LENGTH | length;
    }

    /// Returns which of [`CAPACITIES`] is its own.
    pub(crate) const fn class(&self) -> usize {
        self.fill >> LENGTH_BITS
    }

    /// Returns how many objects it has room for in all.
    pub(crate) const fn capacity(&self) -> usize {
        CAPACITIES[self.class()]
    }

    /// Whether as many objects are in it as it has room for, while it is not loaded.
    pub(crate) const fn is_full(&self) -> bool {
        self.length() == self.capacity()
    }

    /// Returns where object `index` is kept.
    ///
    /// # Safety
    /// 1. `magazine` is a live magazine and `index` is below its capacity, or equal to it.
    #[inline(always)]
    pub(crate) unsafe fn place(magazine: NonNull<Self>, index: usize) -> NonNull<NonNull<u8>> {
        // SAFETY: clause 1: the objects follow the header.
        let first = unsafe { magazine.add(1) }.cast::<NonNull<u8>>();
        // SAFETY: clause 1: one of its places, or the end behind them.
        unsafe { first.add(index) }
    }

    /// Adds `object`.
    ///
    /// # Safety
    /// 1. The caller owns the magazine, it is not loaded, and there is room.
    pub(crate) unsafe fn push(mut magazine: NonNull<Self>, object: NonNull<u8>) {
        // SAFETY: clause 1: ours.
        let header = unsafe { magazine.as_mut() };
        let index = header.length();
        header.set_length(index + 1);
        // SAFETY: clause 1: there is room at `index`.
        let place = unsafe { Self::place(magazine, index) };
        // SAFETY: clause 1: ours.
        unsafe { place.write(object) };
    }

    /// Takes all objects out, and returns where they are until the magazine is used again.
    ///
    /// # Safety
    /// 1. The caller owns the magazine, it is not loaded, and it lives on.
    pub(crate) unsafe fn take_all<'m>(mut magazine: NonNull<Self>) -> &'m [NonNull<u8>] {
        // SAFETY: clause 1: ours.
        let header = unsafe { magazine.as_mut() };
        let length = header.length();
        header.set_length(0);
        // SAFETY: at most the capacity.
        let first = unsafe { Self::place(magazine, 0) };
        // SAFETY: the places below the length are written, and clause 1.
        unsafe { core::slice::from_raw_parts(first.as_ptr(), length) }
    }

    /// Takes the last object.
    ///
    /// # Safety
    /// 1. The caller owns the magazine and it is not loaded.
    pub(crate) unsafe fn pop(mut magazine: NonNull<Self>) -> Option<NonNull<u8>> {
        // SAFETY: clause 1: ours.
        let header = unsafe { magazine.as_mut() };
        let index = header.length().checked_sub(1)?;
        header.set_length(index);
        // SAFETY: below the length, so below the capacity.
        let place = unsafe { Self::place(magazine, index) };
        // SAFETY: the places below the length are written.
        Some(unsafe { place.read() })
    }
}

/// Magazines chained through their headers, owned by whoever holds the chain.
#[derive(Debug)]
pub(crate) struct Chain {
    first: *mut Magazine,
    count: u32,
}

impl Chain {
    pub(crate) const fn new() -> Self {
        Self { first: core::ptr::null_mut(), count: 0 }
    }

    pub(crate) const fn count(&self) -> u32 {
        self.count
    }

    /// Puts `magazine` in front.
    ///
    /// # Safety
    /// 1. The caller owns the magazine, and gives it to the chain.
    pub(crate) unsafe fn push(&mut self, mut magazine: NonNull<Magazine>) {
        // SAFETY: clause 1: ours.
        unsafe { magazine.as_mut() }.next = self.first;
        self.first = magazine.as_ptr();
        self.count += 1;
    }

    /// Returns the first one, which the chain goes on to own.
    pub(crate) fn first(&self) -> Option<NonNull<Magazine>> {
        NonNull::new(self.first)
    }

    /// Takes the first one; the caller owns it.
    pub(crate) fn pop(&mut self) -> Option<NonNull<Magazine>> {
        let magazine = NonNull::new(self.first)?;
        // SAFETY: the chain owns its magazines.
        self.first = unsafe { magazine.as_ref() }.next;
        self.count -= 1;
        Some(magazine)
    }

    /// Takes all of them.
    pub(crate) fn take(&mut self) -> Self {
        core::mem::replace(self, Self::new())
    }
}
