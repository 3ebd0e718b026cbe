//! The addresses of this library's memory: which allocations can be its own.

use core::sync::atomic::{AtomicUsize, Ordering};

/// The first address, and the size in bytes; zero before the pages are made.
static START: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

/// Sets the addresses, when the pages are made.
pub(crate) fn set(start: usize, bytes: usize) {
    // Relaxed: a thread that has an allocation of this library got it after the pages were made.
    START.store(start, Ordering::Relaxed);
    BYTES.store(bytes, Ordering::Relaxed);
}

/// Returns whether `address` lies outside the space of this library.
#[inline]
pub(crate) fn is_outside(address: usize) -> bool {
    // Relaxed: as in `set`.
    address.wrapping_sub(START.load(Ordering::Relaxed)) >= BYTES.load(Ordering::Relaxed)
}
