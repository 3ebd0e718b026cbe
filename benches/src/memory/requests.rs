//! Single requests, as all workloads of this layer make them.

use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;

use testkit::Random;

pub(crate) fn layout(size: usize, alignment: usize) -> Layout {
    Layout::from_size_align(size, alignment).expect("small sizes")
}

/// A size from `least` to `most`, each doubling as likely as the next.
pub(crate) fn log_uniform(random: &mut Random, least: usize, most: usize) -> usize {
    let doubling = least << random.below((most / least).ilog2() as usize);
    doubling + random.below(doubling + 1)
}

/// The compiler knows the system's allocator and would leave out what nobody looks at; so somebody
/// looks.
#[inline]
pub(crate) fn allocate<A: GlobalAlloc>(allocator: &A, layout: Layout) -> *mut u8 {
    // SAFETY: the workloads ask for no empty layout.
    let start = black_box(unsafe { allocator.alloc(layout) });
    assert!(!start.is_null(), "the workloads use little memory");
    start
}

#[inline]
pub(crate) fn free<A: GlobalAlloc + ?Sized>(allocator: &A, start: *mut u8, layout: Layout) {
    // SAFETY: the workloads free once what they allocated, with its layout.
    unsafe { allocator.dealloc(start, layout) };
}

#[inline]
pub(crate) fn touch(start: *mut u8) {
    // SAFETY: at least 8 bytes that are ours, or nobody's in the case of the floor, aligned to 8.
    unsafe { start.cast::<u64>().write(7) };
}
