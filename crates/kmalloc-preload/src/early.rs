//! Memory for requests that arrive while the allocator is being set up, on the thread that does so.
//!
//! # Concepts
//! Set-up calls the C library, which may allocate (`pthread_setspecific` does for keys beyond the
//! 32nd), as may functions of other libraries that stand in for the C library's. Such a request
//! cannot wait for the set-up. It gets a part of a static array, which is never reused.
//!
//! Each allocation follows a header with its size. A free does nothing.

use core::cell::UnsafeCell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use page_frame::OutOfMemory;

/// Bytes of the array. Pages that are not used cost nothing.
const BYTES: usize = 256 << 10;
/// Bytes of the header, and the alignment of all allocations.
const HEADER: usize = 16;

#[repr(align(4096))]
struct Array(UnsafeCell<[u8; BYTES]>);

// SAFETY: `allocate` gives each byte to one caller.
unsafe impl Sync for Array {}

static ARRAY: Array = Array(UnsafeCell::new([0; BYTES]));
/// The number of bytes that are taken.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// Allocates `bytes` bytes aligned to `alignment`, at most a page. They read as zero.
///
/// # Errors
/// [`OutOfMemory`] when the array is used up.
pub(crate) fn allocate(bytes: usize, alignment: usize) -> Result<NonNull<u8>, OutOfMemory> {
    if alignment > align_of::<Array>() {
        return Err(OutOfMemory);
    }
    let place = |taken: usize| {
        let start = (taken + HEADER).next_multiple_of(alignment.max(HEADER));
        Some((start, start.checked_add(bytes)?.checked_next_multiple_of(HEADER)?))
    };
    let take = |taken| place(taken).map(|(_, end)| end).filter(|end| *end <= BYTES);
    // Relaxed: bytes that nobody else has need no order.
    let taken = TAKEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
    let (start, _) = taken.ok().and_then(place).ok_or(OutOfMemory)?;
    // SAFETY: `start` is below the size of the array.
    let start = unsafe { ARRAY.0.get().cast::<u8>().add(start) };
    // SAFETY: the header lies in the bytes that were just taken.
    let header = unsafe { start.sub(HEADER) }.cast::<usize>();
    // SAFETY: as above, and aligned to 16.
    unsafe { header.write(bytes) };
    NonNull::new(start).ok_or(OutOfMemory)
}

/// Returns whether `address` lies in the array.
pub(crate) fn contains(address: usize) -> bool {
    address.wrapping_sub(ARRAY.0.get().addr()) < BYTES
}

/// Returns the size of an allocation.
///
/// # Safety
/// 1. `start` came from [`allocate`].
pub(crate) unsafe fn size(start: NonNull<u8>) -> usize {
    // SAFETY: clause 1: the header is in front of it.
    let header = unsafe { start.sub(HEADER) }.cast::<usize>();
    // SAFETY: clause 1: `allocate` has written it.
    unsafe { header.read() }
}
