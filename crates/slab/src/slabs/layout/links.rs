//! The links of a slab: one or two bytes per object, which chain the free ones.
//!
//! They lie outside the objects, so that free objects stay constructed: in the slab header, or in
//! whole cache lines before it.
//!
//! # Invariants
//! - I1: a link is written only by the CPU that owns the object: before the push that frees it, or
//!   as a mark (see `slabs/checks`). It is read as a link only under the set lock.
//! - I2: while a slab is in a set, its links are accessed only as atomics of one width: an
//!   invalid free may read a mark at any time.

use core::ptr::NonNull;

use page_frame::sync::{
    UnsafeCell, exchange_byte, exchange_half, load_byte, load_half, store_byte, store_half,
};

/// How many links fit in the header.
pub(crate) const LINKS_WITHIN: usize = 12;
/// The mark of an object in use. No link has this value.
pub(crate) const MARK_ALLOCATED: u8 = 0xff;
/// The mark of an object in a magazine, or on its way there. No link has this value.
pub(crate) const MARK_CACHED: u8 = 0xfe;

/// The links of one slab.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Links {
    /// One byte per object, in the header.
    Within(NonNull<[UnsafeCell<u8>; LINKS_WITHIN]>),
    /// One byte per object, from this address on.
    Short(NonNull<u8>),
    /// Two bytes per object, from this address on.
    Long(NonNull<u16>),
}

impl Links {
    /// Reads the link of object `index`.
    ///
    /// # Safety
    /// 1. `index` is one of the slab's objects.
    /// 2. The caller holds the set lock (I1).
    #[inline]
    pub(crate) unsafe fn read(self, index: usize) -> usize {
        match self {
            Self::Within(links) => {
                // SAFETY: the header lives as long as the links are used (clause 1 of
                // `SlabHeader::links`).
                let link = &unsafe { links.as_ref() }[index];
                // SAFETY: I1: the CPU that pushed the object wrote its link before, and the push
                // published it.
                link.with(|link| unsafe { load_byte(link.cast_mut()) }).into()
            }
            Self::Short(first) => {
                // SAFETY: clause 1: there is a byte for each object.
                let link = unsafe { first.add(index) };
                // SAFETY: I1 and I2, as above.
                unsafe { load_byte(link.as_ptr()) }.into()
            }
            Self::Long(first) => {
                // SAFETY: clause 1: there are two bytes for each object.
                let link = unsafe { first.add(index) };
                // SAFETY: I1 and I2, as above; half words are aligned, as links are whole lines.
                unsafe { load_half(link.as_ptr()) }.into()
            }
        }
    }

    /// Writes the link of object `index`.
    ///
    /// # Safety
    /// 1. `index` is one of the slab's objects, and the caller frees it (I1).
    #[inline]
    pub(crate) unsafe fn write(self, index: usize, next: usize) {
        match self {
            Self::Within(links) => {
                // SAFETY: the header lives as long as the links are used (clause 1 of
                // `SlabHeader::links`).
                let link = &unsafe { links.as_ref() }[index];
                // SAFETY: I1: no other code uses this object's link before the push.
                link.with_mut(|link| unsafe { store_byte(link, next as u8) });
            }
            Self::Short(first) => {
                // SAFETY: clause 1: there is a byte for each object.
                let link = unsafe { first.add(index) };
                // SAFETY: I1, as above.
                unsafe { store_byte(link.as_ptr(), next as u8) };
            }
            Self::Long(first) => {
                // SAFETY: clause 1: there are two bytes for each object.
                let link = unsafe { first.add(index) };
                // SAFETY: I1, as above.
                unsafe { store_half(link.as_ptr(), next as u16) };
            }
        }
    }

    /// Links each of the `capacity` objects of a fresh slab to the next one, from `first` on, and
    /// the last to object 0. So the chain ends with the object before `first`.
    ///
    /// # Safety
    /// 1. The slab has `capacity` objects, all of them the caller's, and no other code has it.
    ///    `first` is one of them.
    pub(crate) unsafe fn chain_all(self, capacity: usize, first: usize) {
        match self {
            // One loop for each width: the compiler writes many bytes at once.
            Self::Short(bytes) => {
                for index in 0..capacity {
                    // SAFETY: clause 1: there is a byte for each object.
                    let link = unsafe { bytes.add(index) };
                    // SAFETY: clause 1: no other code uses the links.
                    unsafe { link.write((index + 1) as u8) };
                }
            }
            Self::Long(halves) => {
                for index in 0..capacity {
                    // SAFETY: clause 1: there are two bytes for each object.
                    let link = unsafe { halves.add(index) };
                    // SAFETY: clause 1: no other code uses the links.
                    unsafe { link.write((index + 1) as u16) };
                }
            }
            Self::Within(_) => {
                for index in 0..capacity {
                    // SAFETY: clause 1 is clause 1 of `write`.
                    unsafe { self.write(index, index + 1) };
                }
            }
        }
        // The last of all objects, and the last of the chain where that is another one.
        for last in [capacity - 1, first.wrapping_sub(1).min(capacity - 1)] {
            // SAFETY: clause 1 is clause 1 of `write`.
            unsafe { self.write(last, 0) };
        }
    }

    /// Writes the mark of object `index`.
    ///
    /// # Safety
    /// 1. As for `write`, but the caller owns the object instead of freeing it.
    pub(crate) unsafe fn set_mark(self, index: usize, mark: u8) {
        let shift = if matches!(self, Self::Long(_)) { 8 } else { 0 };
        // SAFETY: clause 1 of `write`: the caller owns the object, so no other code uses its link
        // (I1).
        unsafe { self.write(index, usize::from(mark) << shift) };
    }

    /// Exchanges the mark of object `index` from `from` to `to`, atomically.
    ///
    /// A mark lies in the byte of a short link, or in the upper byte of a long one, whose lower one
    /// is zero then; the geometry bounds indices so that none looks like a mark.
    ///
    /// # Errors
    /// The lowest byte of the link that it found instead of `from`; then nothing has changed.
    ///
    /// # Safety
    /// 1. `index` is one of the slab's objects.
    pub(crate) unsafe fn change_mark(self, index: usize, from: u8, to: u8) -> Result<(), u8> {
        let place = match self {
            Self::Within(links) => {
                // SAFETY: the header lives as long as the links are used (clause 1 of
                // `SlabHeader::links`).
                let link = &unsafe { links.as_ref() }[index];
                link.with_mut(|link| link)
            }
            // SAFETY: clause 1: there is a byte for each object.
            Self::Short(first) => unsafe { first.add(index) }.as_ptr(),
            Self::Long(first) => {
                // SAFETY: clause 1: there are two bytes for each object.
                let link = unsafe { first.add(index) }.as_ptr();
                let [from, to] = [from, to].map(|mark| u16::from(mark) << u8::BITS);
                // SAFETY: the half word is written and in the slab's bookkeeping, which is alive;
                // I2.
                return unsafe { exchange_half(link, from, to) }.map_err(|found| found as u8);
            }
        };
        // SAFETY: the byte is written and in the slab's bookkeeping, which is alive; I2.
        unsafe { exchange_byte(place, from, to) }
    }
}
