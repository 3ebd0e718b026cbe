//! Requests at the edges: alignments beyond the largest block, bytes beyond the size that was asked
//! for.

use std::ptr::null_mut;

use crate::Check;
use crate::End::Well;
use crate::calls::{calloc, fill, free, malloc, usable_size};

pub(crate) const CHECKS: &[Check] = &[
    Check { name: "calloc_is_zero_up_to_the_usable_size", run: zero, ends: Well },
    Check { name: "alignments_of_gigabytes", run: gigabytes, ends: Well },
];

/// Mutation that it catches: zeroing of the size that was asked for.
fn zero() {
    for bytes in (1..=8192).chain([10_000, 100_001, 3_000_001]) {
        let start = malloc(bytes);
        let usable = usable_size(start);
        fill(start, usable, bytes | 1);
        free(start);
        let start = calloc(1, bytes);
        let usable = usable_size(start);
        // SAFETY: the usable bytes of an allocation of ours.
        let all = unsafe { std::slice::from_raw_parts(start, usable) };
        assert!(all.iter().all(|byte| *byte == 0), "{bytes} bytes, {usable} usable");
        free(start);
    }
}

fn gigabytes() {
    for alignment in [1 << 30, 2 << 30, 4 << 30, 16 << 30] {
        for bytes in [1, 4096, 100_000, 600 << 20] {
            let mut place = null_mut();
            // SAFETY: a valid place for the result.
            let outcome = unsafe { libc::posix_memalign(&raw mut place, alignment, bytes) };
            assert_eq!((outcome, place.addr() % alignment), (0, 0), "{bytes} bytes");
            let start = place.cast::<u8>();
            fill(start, 1, 7);
            fill(start.wrapping_add(bytes - 1), 1, 7);
            free(start);
        }
    }
    let mut place = null_mut();
    // SAFETY: a valid place for the result.
    assert_eq!(unsafe { libc::posix_memalign(&raw mut place, 1 << 46, 1) }, libc::ENOMEM);
}
