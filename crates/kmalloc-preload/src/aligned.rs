//! Aligned allocation: `posix_memalign`, `aligned_alloc`, `memalign`, `valloc`, `pvalloc`.
//!
//! An alignment that is not a power of two is `EINVAL`, except for `memalign`, which rounds it up
//! as glibc does. The size need not be a multiple of the alignment.

use core::alloc::Layout;
use core::ffi::{c_int, c_void};
use core::ptr::{NonNull, null_mut};

use page_frame::{OutOfMemory, PAGE_SIZE};

use crate::errno::{no_memory, or_errno, set_errno};
use crate::heap::{PLAIN, allocate_early, with_heap};

/// The minimum alignment of every allocation, in bytes.
const LEAST: usize = 16;

fn allocate(alignment: usize, bytes: usize) -> Result<NonNull<u8>, OutOfMemory> {
    let layout = Layout::from_size_align(bytes, alignment.max(LEAST))?;
    match PLAIN.get() {
        Some(heap) => heap.allocate(layout),
        None => with_heap!(|heap| heap.allocate(layout))
            .unwrap_or_else(|| allocate_early(bytes, alignment)),
    }
}

/// Allocates `bytes` bytes aligned to `alignment` and stores the address in `place`. Returns an
/// error number and leaves `errno` alone.
///
/// # Safety
/// 1. `place` may be written.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn posix_memalign(
    place: *mut *mut c_void,
    alignment: usize,
    bytes: usize,
) -> c_int {
    if !alignment.is_power_of_two() || alignment % size_of::<*mut c_void>() != 0 {
        return libc::EINVAL;
    }
    let Ok(start) = allocate(alignment, bytes) else { return libc::ENOMEM };
    // SAFETY: clause 1. The C caller passes a pointer's address, so it is aligned as a pointer.
    unsafe { place.write(start.as_ptr().cast()) };
    0
}

/// Allocates `bytes` bytes aligned to `alignment`, a power of two (C11).
#[unsafe(no_mangle)]
pub(crate) extern "C" fn aligned_alloc(alignment: usize, bytes: usize) -> *mut c_void {
    if !alignment.is_power_of_two() {
        set_errno(libc::EINVAL);
        return null_mut();
    }
    or_errno(allocate(alignment, bytes))
}

/// Allocates `bytes` bytes aligned to the power of two that is at least `alignment`.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn memalign(alignment: usize, bytes: usize) -> *mut c_void {
    match alignment.checked_next_power_of_two() {
        Some(alignment) => or_errno(allocate(alignment, bytes)),
        None => {
            set_errno(libc::EINVAL);
            null_mut()
        }
    }
}

/// Allocates `bytes` bytes aligned to a page.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn valloc(bytes: usize) -> *mut c_void {
    or_errno(allocate(PAGE_SIZE, bytes))
}

/// Allocates at least `bytes` bytes, rounded up to whole pages.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn pvalloc(bytes: usize) -> *mut c_void {
    match bytes.checked_next_multiple_of(PAGE_SIZE) {
        Some(all) => or_errno(allocate(PAGE_SIZE, all)),
        None => no_memory(),
    }
}
