//! Red zones: bytes of a pattern in front of and behind each object.

use core::ptr::NonNull;

use page_frame::{Fault, FaultKind};

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

/// Checks both red zones of `object`.
///
/// # Safety
/// 1. As for [`fill`], which filled them.
#[track_caller]
pub(crate) unsafe fn check(object: NonNull<u8>, padding: &Padding) -> Result<(), Fault> {
    let zones = [(object.as_ptr().wrapping_sub(padding.front()), padding.front())];
    let behind = (object.as_ptr().wrapping_add(padding.behind()), padding.end() - padding.behind());
    for (start, bytes) in zones.into_iter().chain([behind]) {
        // SAFETY: clause 1: both lie in the object's place.
        if let Some((changed, found)) = unsafe { first_other(start, bytes, PATTERN) } {
            let kind = FaultKind::Overflow { changed, expected: Some(PATTERN), found };
            return Err(Fault::at_address(kind, object.addr().get()));
        }
    }
    Ok(())
}
