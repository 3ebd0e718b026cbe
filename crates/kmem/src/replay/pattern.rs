//! The pattern in live objects: written over all requested bytes, and checked when the object is
//! freed.
//!
//! The pattern depends on the object's address and on a stamp that differs between successive
//! allocations. So overlapping objects, a write into a neighbour, and an object handed out twice
//! all change it.

use std::ptr::NonNull;

// A linear congruential generator (Knuth's MMIX).
const FACTOR: u64 = 6_364_136_223_846_793_005;
const INCREMENT: u64 = 1_442_695_040_888_963_407;

/// Fills `bytes` bytes at `object`.
///
/// # Safety
/// 1. The bytes are valid for writes, aligned to 8, and have no other user.
pub unsafe fn write(object: NonNull<u8>, bytes: usize, stamp: u32) {
    let words = object.cast::<u64>();
    let mut pattern = Pattern::new(object, stamp);
    for index in 0..bytes / 8 {
        // SAFETY: clause 1; the word ends within `bytes`.
        let word = unsafe { words.add(index) };
        // SAFETY: clause 1; words of an aligned start are aligned.
        unsafe { word.write(pattern.next_word()) };
    }
    for (index, byte) in (bytes & !7..bytes).zip(pattern.next_word().to_ne_bytes()) {
        // SAFETY: clause 1; `index` is below `bytes`.
        let place = unsafe { object.add(index) };
        // SAFETY: clause 1: one of the bytes.
        unsafe { place.write(byte) };
    }
}

/// Returns the offset of the first word or byte that differs from what [`write()`] wrote.
///
/// # Safety
/// 1. The bytes were written by [`write()`] with this `bytes` and are valid for reads.
pub unsafe fn first_difference(object: NonNull<u8>, bytes: usize, stamp: u32) -> Option<usize> {
    let words = object.cast::<u64>();
    let mut pattern = Pattern::new(object, stamp);
    for index in 0..bytes / 8 {
        // SAFETY: clause 1; the word ends within `bytes`.
        let word = unsafe { words.add(index) };
        // SAFETY: clause 1, and `write` aligned it.
        if unsafe { word.read() } != pattern.next_word() {
            return Some(index * 8);
        }
    }
    for (index, byte) in (bytes & !7..bytes).zip(pattern.next_word().to_ne_bytes()) {
        // SAFETY: clause 1; `index` is below `bytes`.
        let place = unsafe { object.add(index) };
        // SAFETY: clause 1: one of those that `write` wrote.
        if unsafe { place.read() } != byte {
            return Some(index);
        }
    }
    None
}

/// A sequence of words, seeded by address and stamp.
struct Pattern(u64);

impl Pattern {
    fn new(object: NonNull<u8>, stamp: u32) -> Self {
        Self(object.addr().get() as u64 ^ u64::from(stamp) << 32)
    }

    fn next_word(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(FACTOR).wrapping_add(INCREMENT);
        // The generator's low bits depend only on lower bits, and the stamp is in the high half.
        self.0 ^ self.0 >> 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_counts_and_none_beyond_is_touched() {
        for bytes in 1..64 {
            let mut memory = [0x55_u64; 9];
            let object = NonNull::from(&mut memory).cast::<u8>();
            // SAFETY: at most 63 of 72 aligned bytes, all ours.
            unsafe { write(object, bytes, 7) };
            // SAFETY: written above.
            assert_eq!(unsafe { first_difference(object, bytes, 7) }, None);
            // SAFETY: written above.
            let other_stamp = unsafe { first_difference(object, bytes, 8) };
            assert!(other_stamp.is_some(), "{bytes} bytes");
            // SAFETY: 72 bytes are ours.
            let after = unsafe { object.add(bytes.next_multiple_of(8)) };
            // SAFETY: the byte after the object's last word, initialized to 0x55.
            assert_eq!(unsafe { after.read() }, 0x55);
            for spoilt in 0..bytes {
                // SAFETY: within the object.
                let place = unsafe { object.add(spoilt) };
                // SAFETY: `place` is a byte of the test's own object.
                unsafe { *place.as_ptr() ^= 0xff };
                // SAFETY: written above.
                let found = unsafe { first_difference(object, bytes, 7) };
                assert!(found.is_some_and(|at| at <= spoilt && spoilt < at + 8));
                // SAFETY: the same byte, turned back.
                unsafe { *place.as_ptr() ^= 0xff };
            }
        }
    }
}
