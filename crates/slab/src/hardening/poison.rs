//! Poison: free objects are filled with a pattern, which is checked when they go out again.

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
        Some(changed) => {
            let address = object.addr().get();
            Err(Fault::at_address(FaultKind::WriteAfterFree { changed }, address))
        }
    }
}

/// Returns the address of the first of `bytes` bytes from `start` on that is not `pattern`.
///
/// # Safety
/// 1. The bytes are readable and written.
pub(crate) unsafe fn first_other(start: *const u8, bytes: usize, pattern: u8) -> Option<usize> {
    (0..bytes).map(|offset| start.wrapping_add(offset)).find_map(|place| {
        // SAFETY: clause 1: one of the bytes.
        let byte = unsafe { place.read() };
        (byte != pattern).then(|| place.addr())
    })
}
