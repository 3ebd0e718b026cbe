//! Red zones: bytes of a pattern in front of and behind each object.

use core::ptr::NonNull;

use crate::hardening::changed::Changed;
use crate::hardening::padding::Padding;
use crate::hardening::poison::first_other;

const PATTERN: u8 = 0xcc;

/// Fills both red zones of `object`.
///
/// # Safety
/// 1. The object is the caller's, with `padding` around it.
pub(crate) unsafe fn fill(object: NonNull<u8>, padding: &Padding) {
    // SAFETY: clause 1: the padding in front lies in the same place.
    let front = unsafe { object.sub(padding.front()) };
    // SAFETY: clause 1: that many bytes up to the object.
    unsafe { front.write_bytes(PATTERN, padding.front()) };
    // SAFETY: clause 1: the zone behind begins inside the place.
    let behind = unsafe { object.add(padding.behind()) };
    // SAFETY: clause 1: up to the padding's end.
    unsafe { behind.write_bytes(PATTERN, padding.end() - padding.behind()) };
}

/// Fills the bytes of `object`, of `size` bytes, behind the `requested` ones.
///
/// # Safety
/// 1. The caller owns the object, and `requested` is at most `size`.
pub(crate) unsafe fn fill_rest(object: NonNull<u8>, requested: usize, size: usize) {
    // SAFETY: clause 1: inside the object, or its end.
    let rest = unsafe { object.add(requested) };
    // SAFETY: clause 1: up to the object's end.
    unsafe { rest.write_bytes(PATTERN, size - requested) };
}

/// Checks what [`fill_rest`] filled; returns the first byte that was changed.
///
/// # Safety
/// 1. As for [`fill_rest`], which filled these bytes.
pub(crate) unsafe fn check_rest(
    object: NonNull<u8>,
    requested: usize,
    size: usize,
) -> Result<(), Changed> {
    // SAFETY: clause 1: `fill_rest` wrote them.
    unsafe { check_zone(object.as_ptr().wrapping_add(requested), size - requested) }
}

/// Checks both red zones of `object`; returns the first byte that was changed.
///
/// # Safety
/// 1. As for [`fill`], which filled them.
pub(crate) unsafe fn check(object: NonNull<u8>, padding: &Padding) -> Result<(), Changed> {
    let front = object.as_ptr().wrapping_sub(padding.front());
    // SAFETY: clause 1: it lies in the object's place.
    unsafe { check_zone(front, padding.front())? };
    let behind = object.as_ptr().wrapping_add(padding.behind());
    // SAFETY: clause 1: it lies in the object's place.
    unsafe { check_zone(behind, padding.end() - padding.behind()) }
}

/// # Safety
/// 1. The `bytes` bytes from `start` on are readable and written.
unsafe fn check_zone(start: *const u8, bytes: usize) -> Result<(), Changed> {
    // SAFETY: clause 1.
    match unsafe { first_other(start, bytes, PATTERN) } {
        Some((address, found)) => Err(Changed { address, expected: Some(PATTERN), found }),
        None => Ok(()),
    }
}
