//! Requested sizes: how many bytes of an object the caller asked for.
//!
//! An allocator of size classes returns an object that is larger than the request. The bytes after
//! the requested size hold the pattern of the red zones, so a write of one byte too many changes
//! the pattern. The record lies after the red zone, where a short overflow does not reach it. Linux
//! keeps the same word (`orig_size` of SLUB's `SLAB_STORE_USER`).
//!
//! # Concurrency
//! A safe function may read a record while the owner of the object writes it. So both words are
//! accessed as atomics, and the checksum reveals a mixture of two records.

use core::ptr::NonNull;

use page_frame::sync::{load_word, store_word};

/// The record of a requested size, with a checksum that depends on the object and a secret.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct RequestedSize {
    bytes: usize,
    checksum: usize,
}

impl RequestedSize {
    fn new(bytes: usize, object: NonNull<u8>, secret: usize) -> Self {
        Self { bytes, checksum: checksum(bytes, object.addr().get(), secret) }
    }
}

/// Returns pointers to the two words of a record: size and checksum.
fn words(record: NonNull<RequestedSize>) -> [*mut usize; 2] {
    let first = record.as_ptr().cast::<usize>();
    [first, first.wrapping_add(1)]
}

/// Returns the checksum of a record, by multiplicative hashing (Knuth TAOCP 3, section 6.4).
fn checksum(bytes: usize, address: usize, secret: usize) -> usize {
    const SPREAD: usize = 0x9e37_79b9_7f4a_7c15_u64 as usize;
    [address, bytes]
        .into_iter()
        .fold(!secret, |sum, word| (sum ^ word).wrapping_mul(SPREAD).rotate_left(usize::BITS / 2))
}

/// Writes `bytes` as the requested size of `object` into `record`.
///
/// # Safety
/// 1. The caller owns the object, in a slab that is alive, and `record` is its record.
pub(crate) unsafe fn write(
    record: NonNull<RequestedSize>,
    object: NonNull<u8>,
    bytes: usize,
    secret: usize,
) {
    let RequestedSize { bytes, checksum } = RequestedSize::new(bytes, object, secret);
    for (place, word) in words(record).into_iter().zip([bytes, checksum]) {
        // SAFETY: clause 1: a word of the record, which all code accesses as an atomic.
        unsafe { store_word(place, word) };
    }
}

/// Returns the requested size of `object`, which has `size` bytes. `None` if a stray write has
/// changed the record.
///
/// # Safety
/// 1. `record` is the record of the object, in a slab that is alive; it was written.
pub(crate) unsafe fn read(
    record: NonNull<RequestedSize>,
    object: NonNull<u8>,
    size: usize,
    secret: usize,
) -> Option<usize> {
    // SAFETY: clause 1: words of the record, which all code accesses as atomics.
    let [bytes, found] = words(record).map(|place| unsafe { load_word(place) });
    let is_intact = bytes <= size && found == checksum(bytes, object.addr().get(), secret);
    is_intact.then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutations that it catches: the checksum leaves out the size, the object or the secret.
    #[test]
    fn a_record_is_bound_to_size_object_and_secret() {
        let mut objects = [0_u8; 2];
        let [one, other] = objects.each_mut().map(NonNull::from);
        let mut record = RequestedSize::new(100, one, 7);
        let place = NonNull::from(&mut record);
        // SAFETY: the record lies on the stack of the test, and was written.
        let read = |object, secret| unsafe { read(place, object, 112, secret) };
        assert_eq!(read(one, 7), Some(100));
        assert_eq!((read(other, 7), read(one, 8)), (None, None));
        // SAFETY: as above.
        unsafe { (*place.as_ptr()).bytes = 101 };
        assert_eq!(read(one, 7), None);
    }
}
