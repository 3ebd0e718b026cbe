//! Misuse is reported and ends the program.

use core::ffi::c_void;

use crate::Check;
use crate::End::{Aborted, AbortedWhenChecked, Well};
use crate::calls::{check, fill, free, malloc, realloc, usable_size};

pub(crate) const CHECKS: &[Check] = &[
    Check { name: "a_double_free_at_once_is_found", run: freed_again, ends: Aborted("DoubleFree") },
    Check {
        name: "a_double_free_later_is_found",
        run: freed_later,
        ends: AbortedWhenChecked("DoubleFree"),
    },
    Check { name: "an_overflow_is_found", run: overflow, ends: AbortedWhenChecked("Overflow") },
    Check { name: "a_foreign_pointer_is_found", run: foreign, ends: Aborted("free(): invalid") },
    Check {
        name: "an_interior_pointer_is_found",
        run: interior,
        ends: AbortedWhenChecked("InteriorPointer"),
    },
    Check { name: "a_large_double_free_is_found", run: large, ends: Aborted("DoubleFree") },
    Check {
        name: "a_large_interior_pointer_is_found",
        run: large_interior,
        ends: Aborted("InteriorPointer"),
    },
    Check { name: "the_first_free_again_is_found", run: first_again, ends: Aborted("DoubleFree") },
    Check { name: "a_free_of_one_is_found", run: free_of_one, ends: Aborted("ForeignPointer") },
    Check {
        name: "a_write_behind_a_large_block_is_found",
        run: behind_large,
        ends: AbortedWhenChecked(""),
    },
    Check { name: "large_blocks_with_guard_pages_work", run: large_blocks, ends: Well },
    Check {
        name: "a_delete_of_a_wrong_size_is_found",
        run: wrong_delete,
        ends: AbortedWhenChecked("WrongSize"),
    },
    Check { name: "a_delete_of_the_right_size_works", run: right_delete, ends: Well },
    Check {
        name: "a_write_after_the_free_is_found_at_the_end",
        run: write_after_free,
        ends: AbortedWhenChecked("WriteAfterFree"),
    },
    Check {
        name: "the_size_of_a_free_object_is_refused",
        run: size_of_free,
        ends: AbortedWhenChecked("DoubleFree"),
    },
    Check {
        name: "the_size_inside_an_object_is_refused",
        run: size_inside,
        ends: AbortedWhenChecked("InteriorPointer"),
    },
    Check {
        name: "the_size_of_no_address_is_refused",
        run: size_of_nothing,
        ends: AbortedWhenChecked("ForeignPointer"),
    },
];

/// Takes the ways that lead past a first allocation from a slot.
fn warm() {
    let many: Vec<_> = (0..200).map(|_| malloc(100)).collect();
    many.into_iter().for_each(free);
}

fn freed_again() {
    warm();
    let start = malloc(100);
    free(start);
    free(start);
}

fn freed_later() {
    warm();
    let (start, other) = (malloc(100), malloc(100));
    free(start);
    free(other);
    free(start);
}

fn overflow() {
    let start = malloc(100);
    let usable = usable_size(start);
    fill(start.wrapping_add(usable), 1, 0x5a);
    fill(start.wrapping_add(usable + 1), 1, 0xa5);
    free(start);
}

/// An address outside our space goes to the C library, which knows that it is not its own.
fn foreign() {
    let mut here = [0_u64; 8];
    free((&raw mut here[2]).cast());
}

fn interior() {
    free(malloc(100).wrapping_add(16));
}

fn large() {
    let start = malloc(1 << 20);
    free(start);
    free(start);
}

fn large_interior() {
    free(malloc(1 << 20).wrapping_add(8 * 4096));
}

/// The process may have freed before; in the smallest classes the slot has no magazines yet.
fn first_again() {
    let start = malloc(20_000);
    free(start);
    free(start);
}

fn free_of_one() {
    free(core::ptr::without_provenance_mut(1));
}

fn behind_large() {
    let start = malloc(200_000);
    let usable = usable_size(start);
    fill(start, usable, 1);
    fill(start.wrapping_add(usable), 1, 1);
}

/// Sizes up and down, moved and in place, of which each keeps its content.
fn large_blocks() {
    let mut start = malloc(100_000);
    fill(start, 100_000, 7);
    for bytes in [150_000, 120_000, 3 << 20, 100_001, 2 << 20, 70_000] {
        start = realloc(start, bytes);
        assert!(usable_size(start) >= bytes);
        check(start, 70_000, 7);
        fill(start, usable_size(start), 7);
    }
    free(start);
    let many: Vec<_> = (0..3000).map(|number| malloc(70_000 + number)).collect();
    many.iter().for_each(|start| fill(*start, 70_000, 3));
    many.into_iter().for_each(free);
}

/// Returns the sized `operator delete` that a C++ program would call.
fn sized_delete() -> unsafe extern "C" fn(*mut u8, usize) {
    // SAFETY: the name ends with zero.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"_ZdlPvm".as_ptr()) };
    assert!(!found.is_null());
    // SAFETY: the function of this name has this type.
    unsafe { core::mem::transmute(found) }
}

fn wrong_delete() {
    // SAFETY: the bug that is looked for.
    unsafe { sized_delete()(malloc(100), 2000) };
}

fn right_delete() {
    for bytes in (1..=5000).chain([16_384, 30_000, 32_768, 40_000, 65_536, 100_000, 3 << 20]) {
        let start = malloc(bytes);
        // SAFETY: allocated above with this size.
        unsafe { sized_delete()(start, bytes) };
    }
    // SAFETY: null is allowed.
    unsafe { sized_delete()(core::ptr::null_mut(), 5) };
    // SAFETY: the name ends with zero.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"_ZdlPvmSt11align_val_t".as_ptr()) };
    assert!(!found.is_null());
    type Delete = unsafe extern "C" fn(*mut u8, usize, usize);
    // SAFETY: the function of this name has this type.
    let delete = unsafe { core::mem::transmute::<*mut c_void, Delete>(found) };
    for (bytes, alignment) in [(40_usize, 64), (40, 8192), (9000, 4096), (100_000, 1 << 16)] {
        // The C++ library asks for a multiple of the alignment, and frees the size of the object.
        // SAFETY: both are allowed.
        let start = unsafe { libc::aligned_alloc(alignment, bytes.next_multiple_of(alignment)) };
        assert!(!start.is_null());
        // SAFETY: allocated above.
        unsafe { delete(start.cast(), bytes, alignment) };
    }
}

fn write_after_free() {
    let start = malloc(3000);
    free(start);
    fill(start.wrapping_add(1000), 1, 1);
}

fn size_of_free() {
    let start = malloc(300);
    free(start);
    let _ = usable_size(start);
}

fn size_inside() {
    let _ = usable_size(malloc(300).wrapping_add(32));
}

fn size_of_nothing() {
    let _ = usable_size(core::ptr::without_provenance_mut(0x123));
}
