//! Canaries: a word after each object, computed from the object's address and the cache's secret.
//!
//! The canary begins right after the object's last byte, so a write of one byte too many changes
//! it. A copy of another object's canary does not match, and an attacker without the secret cannot
//! compute the right one.

use core::ptr::NonNull;

use crate::hardening::changed::Changed;

pub(crate) const BYTES: usize = size_of::<usize>();
/// Odd, its bits spread evenly: the golden ratio's fraction (Knuth TAOCP 3 §6.4).
const SPREAD: usize = 0x9e37_79b9_7f4a_7c15_u64 as usize;

/// Writes the canary of `object`, of `size` bytes.
///
/// # Safety
/// 1. The object is the caller's, with [`BYTES`] behind it.
pub(crate) unsafe fn write(object: NonNull<u8>, size: usize, secret: usize) {
    // SAFETY: clause 1: the canary's bytes lie there.
    let place = unsafe { object.add(size) }.cast::<usize>();
    // SAFETY: clause 1: as many bytes as a word, the caller's.
    unsafe { place.write_unaligned(expected(object, secret)) };
}

/// Checks the canary of `object`; returns the first byte of it that was changed.
///
/// # Safety
/// 1. As for [`write`], which wrote it.
pub(crate) unsafe fn check(object: NonNull<u8>, size: usize, secret: usize) -> Result<(), Changed> {
    // SAFETY: clause 1: where `write` put it.
    let place = unsafe { object.add(size) }.cast::<usize>();
    // SAFETY: clause 1: `write` initialised it.
    let (found, expected) = (unsafe { place.read_unaligned() }, expected(object, secret));
    if found == expected {
        return Ok(());
    }
    // Not the canary itself: reports are read by many, and the secret is shared by all objects.
    let first = (found ^ expected).to_ne_bytes().iter().position(|byte| *byte != 0).unwrap_or(0);
    let address = object.addr().get() + size + first;
    Err(Changed { address, expected: None, found: found.to_ne_bytes()[first] })
}

const fn expected_at(address: usize, secret: usize) -> usize {
    ((address ^ secret).wrapping_mul(SPREAD) ^ secret).rotate_left(usize::BITS / 2)
}

fn expected(object: NonNull<u8>, secret: usize) -> usize {
    expected_at(object.addr().get(), secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_have_canaries_that_differ_in_many_bits() {
        for address in (0x1000..0x2000).step_by(8) {
            let differ = expected_at(address, 77) ^ expected_at(address + 8, 77);
            assert!(differ.count_ones() >= 2, "{address:#x}");
            assert_ne!(expected_at(address, 77), expected_at(address, 78));
        }
    }
}
