//! Misuse is reported and ends the program.

use crate::Check;
use crate::End::{Aborted, AbortedWhenChecked};
use crate::calls::{fill, free, malloc, usable_size};

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
    Check { name: "a_large_double_free_is_found", run: large, ends: Aborted("ForeignPointer") },
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
