//! Magazines: arrays of objects that CPUs exchange as a whole.
//!
//! # Concepts
//! A magazine is memory of an internal cache: a header, then `capacity` pointers. While it is loaded in a CPU slot the
//! slot knows its length; otherwise the header does (Bonwick and Adams 2001, section 3).

use core::ptr::NonNull;

/// The header of a magazine. The count comes last: it lies below the first place, where CPU slots look for the object pushed
/// before, and is no object's address.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Magazine {
    /// The next one in the depot or in a chain of magazines that somebody empties.
    pub(crate) next: *mut Magazine,
    /// How many objects are in it.
    pub(crate) length: usize,
}

/// How many objects a magazine holds, by object size: about 4 KiB of them, two at least, so that what idle CPUs keep stays
/// small.
///
/// The bound is measured: over the peak of three recorded kernel loads with 5, 7 and 13 MB in use, pages held were 1.22, 1.21
/// and 1.13 times that with up to 48 KiB in a magazine, and 1.20, 1.17 and 1.11 times with 4 KiB. The capacities make
/// magazines of 496, 240, 112, 48 and 32 bytes, of which slabs lose little.
pub(crate) const CAPACITIES: [usize; 5] = [60, 28, 12, 4, 2];

/// About how many bytes of objects a magazine holds, if nothing else is said.
pub(crate) const USUAL_BYTES: usize = 4 << 10;

/// Returns the index into [`CAPACITIES`] for objects of `stride` bytes in magazines of about `bytes` bytes of them.
pub(crate) const fn capacity_class(stride: usize, bytes: usize) -> usize {
    match stride.saturating_mul(USUAL_BYTES) / bytes {
        0..=68 => 0,
        69..=144 => 1,
        145..=384 => 2,
        385..=1024 => 3,
        _ => 4,
    }
}

const _: () =
    assert!(core::mem::offset_of!(Magazine, length) + size_of::<usize>() == size_of::<Magazine>());

impl Magazine {
    /// Returns the size in bytes of a magazine of `capacity` objects.
    pub(crate) const fn bytes(capacity: usize) -> usize {
        size_of::<Self>() + capacity * size_of::<NonNull<u8>>()
    }

    /// Makes an empty magazine of raw memory.
    ///
    /// # Safety
    /// 1. `memory` is aligned for pointers and the caller's, of the bytes that a magazine has.
    pub(crate) unsafe fn new_in(memory: NonNull<u8>) -> NonNull<Self> {
        let magazine = memory.cast::<Self>();
        // SAFETY: clause 1.
        unsafe { magazine.write(Self { next: core::ptr::null_mut(), length: 0 }) };
        magazine
    }

    /// Returns where object `index` is kept.
    ///
    /// # Safety
    /// 1. `magazine` is a live magazine and `index` is below its capacity.
    #[inline(always)]
    pub(crate) unsafe fn place(magazine: NonNull<Self>, index: usize) -> NonNull<NonNull<u8>> {
        // SAFETY: clause 1: the objects follow the header.
        let first = unsafe { magazine.add(1) }.cast::<NonNull<u8>>();
        // SAFETY: clause 1: below the capacity.
        unsafe { first.add(index) }
    }

    /// Adds `object`.
    ///
    /// # Safety
    /// 1. The caller owns the magazine, it is not loaded, and there is room.
    pub(crate) unsafe fn push(mut magazine: NonNull<Self>, object: NonNull<u8>) {
        // SAFETY: clause 1: ours.
        let header = unsafe { magazine.as_mut() };
        let index = header.length;
        header.length = index + 1;
        // SAFETY: clause 1: there is room at `index`.
        let place = unsafe { Self::place(magazine, index) };
        // SAFETY: clause 1: ours.
        unsafe { place.write(object) };
    }

    /// Takes the last object.
    ///
    /// # Safety
    /// 1. The caller owns the magazine and it is not loaded.
    pub(crate) unsafe fn pop(mut magazine: NonNull<Self>) -> Option<NonNull<u8>> {
        // SAFETY: clause 1: ours.
        let header = unsafe { magazine.as_mut() };
        let index = header.length.checked_sub(1)?;
        header.length = index;
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
