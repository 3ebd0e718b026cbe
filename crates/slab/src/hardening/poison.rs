//! Poison: a pattern that fills free objects, and is checked when they are allocated again.

use core::ptr::NonNull;

use page_frame::{Fault, FaultKind};

const PATTERN: u8 = 0xdb;

/// Fills `object`, of `size` bytes.
///
/// # Safety
/// 1. The object is the caller's.
pub(crate) unsafe fn fill(object: NonNull<u8>, size: usize) {
    // SAFETY: clause 1: that many bytes of it.
    unsafe { object.write_bytes(PATTERN, size) };
}

/// Checks that nobody wrote to `object` since it was filled.
///
/// # Safety
/// 1. The object is the caller's, and was filled.
#[track_caller]
pub(crate) unsafe fn check(object: NonNull<u8>, size: usize) -> Result<(), Fault> {
    // SAFETY: clause 1: `fill` has written them all.
    match unsafe { first_other(object.as_ptr(), size, PATTERN) } {
        None => Ok(()),
        Some((changed, found)) => {
            let kind = FaultKind::WriteAfterFree { changed, expected: PATTERN, found };
            Err(Fault::at_address(kind, object.addr().get()))
        }
    }
}

/// Returns the address and the value of the first of `bytes` bytes from `start` on that is not
/// `pattern`.
///
/// # Safety
/// 1. The bytes are readable and written.
pub(crate) unsafe fn first_other(
    start: *const u8,
    bytes: usize,
    pattern: u8,
) -> Option<(usize, u8)> {
    const WORD: usize = size_of::<usize>();
    let word = usize::from_ne_bytes([pattern; WORD]);
    let is_good = |offset: &usize| {
        let place = start.wrapping_add(*offset).cast::<usize>();
        // SAFETY: clause 1: the word ends at `bytes` at most.
        let found = unsafe { place.read_unaligned() };
        found == word
    };
    // Whole words first: one comparison checks all bytes of a word.
    let good_words = (0..bytes / WORD).map(|word| word * WORD).take_while(is_good).count();
    (good_words * WORD..bytes).map(|offset| start.wrapping_add(offset)).find_map(|place| {
        // SAFETY: clause 1: one of the bytes.
        let byte = unsafe { place.read() };
        (byte != pattern).then(|| (place.addr(), byte))
    })
}
