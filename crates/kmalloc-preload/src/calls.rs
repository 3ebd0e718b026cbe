//! `malloc`, `free`, `calloc`, `realloc`: the calls that programs make all the time.
//!
//! Each asks for the plain allocator first. Sizes beyond `PTRDIFF_MAX` fail (C11 does not allow such objects), as do
//! products that overflow. Memory is aligned to 16 bytes. Requests for no bytes get the smallest object, one of their own.

use core::ffi::c_void;
use core::ptr::{NonNull, null_mut};

use crate::heap::{Heap, PLAIN, existing, no_memory, or_errno, with_heap};

/// Allocates `bytes` bytes.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn malloc(bytes: usize) -> *mut c_void {
    allocate(bytes)
}

/// What `malloc` does: a call of that would go to whichever `malloc` the program has first.
#[inline(always)]
fn allocate(bytes: usize) -> *mut c_void {
    match PLAIN.get() {
        Some(heap) => or_errno(heap.kmalloc(bytes)),
        None => with_heap!(|heap| or_errno(heap.kmalloc(bytes))).unwrap_or_else(no_memory),
    }
}

/// Frees what any of the functions returned; nothing for null.
///
/// # Safety
/// 1. `start` is null, or came from a function of this library and has not been freed since.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn free(start: *mut c_void) {
    // SAFETY: clause 1: null, or ours and not freed.
    unsafe { release(start) };
}

/// What `free` does, as `allocate` to `malloc`.
///
/// # Safety
/// 1. As for `free`.
#[inline(always)]
unsafe fn release(start: *mut c_void) {
    let Some(start) = NonNull::new(start.cast::<u8>()) else { return };
    match PLAIN.get() {
        // SAFETY: clause 1: it came from this heap, as there is no other.
        Some(heap) => unsafe { heap.free(start) },
        // SAFETY: clause 1 is its own.
        None => unsafe { free_checked(start) },
    }
}

/// # Safety
/// 1. As for `free`.
#[cold]
#[inline(never)]
unsafe fn free_checked(start: NonNull<u8>) {
    if let Some(Heap::Checked(heap)) = existing() {
        // SAFETY: clause 1: the checked heap is the one that it came from.
        unsafe { heap.free(start) };
    }
}

/// The old name of `free`.
///
/// # Safety
/// 1. As for `free`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cfree(start: *mut c_void) {
    // SAFETY: clause 1: only the name is another.
    unsafe { release(start) };
}

/// Allocates an array of `count` elements of `bytes` bytes that reads as zero.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn calloc(count: usize, bytes: usize) -> *mut c_void {
    match PLAIN.get() {
        Some(heap) => or_errno(heap.kcalloc(count, bytes)),
        None => with_heap!(|heap| or_errno(heap.kcalloc(count, bytes))).unwrap_or_else(no_memory),
    }
}

/// Changes the size of an allocation. Null is allocated; to no bytes is freed, and null returned, as glibc does.
///
/// # Safety
/// 1. As for `free`; unless null is returned for more than no bytes, only the address returned is used afterwards.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn realloc(start: *mut c_void, bytes: usize) -> *mut c_void {
    // SAFETY: clause 1: null, or ours and not freed; the caller goes on with the address returned.
    unsafe { resize(start, bytes) }
}

/// What `realloc` does, as `allocate` to `malloc`.
///
/// # Safety
/// 1. As for `realloc`.
#[inline]
unsafe fn resize(start: *mut c_void, bytes: usize) -> *mut c_void {
    let Some(old) = NonNull::new(start.cast::<u8>()) else { return allocate(bytes) };
    if bytes == 0 {
        // SAFETY: clause 1: no bytes are wanted, so it is freed and not used again.
        unsafe { release(start) };
        return null_mut();
    }
    match PLAIN.get() {
        // SAFETY: clause 1: from this heap, and given up unless null comes back.
        Some(heap) => or_errno(unsafe { heap.krealloc(Some(old), bytes) }),
        None => {
            // SAFETY: clause 1: from the checked heap, as the plain one is not there.
            with_heap!(|heap| or_errno(unsafe { heap.krealloc(Some(old), bytes) }))
                .unwrap_or_else(no_memory)
        }
    }
}

/// `realloc` to `count` elements of `bytes` bytes.
///
/// # Safety
/// 1. As for `realloc`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn reallocarray(
    start: *mut c_void,
    count: usize,
    bytes: usize,
) -> *mut c_void {
    match count.checked_mul(bytes) {
        // SAFETY: clause 1: the product is the size that is wanted.
        Some(all) => unsafe { resize(start, all) },
        None => no_memory(),
    }
}

/// Frees what was allocated with `bytes` bytes by `malloc`, `calloc` or `realloc` (C23). The plain allocator looks nothing up.
///
/// # Safety
/// 1. As for `free`, with that size.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn free_sized(start: *mut c_void, bytes: usize) {
    // SAFETY: clause 1; 16 is what those functions align to.
    unsafe { release_sized(start, 16, bytes) };
}

/// Frees what was allocated with `bytes` bytes by `aligned_alloc` with this alignment (C23).
///
/// # Safety
/// 1. As for `free`, with that size and alignment.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn free_aligned_sized(
    start: *mut c_void,
    alignment: usize,
    bytes: usize,
) {
    // SAFETY: clause 1: null, or ours and not freed, of that size and alignment.
    unsafe { release_sized(start, alignment, bytes) };
}

/// What `free_aligned_sized` does, as `allocate` to `malloc`.
///
/// # Safety
/// 1. As for `free_aligned_sized`.
#[inline]
unsafe fn release_sized(start: *mut c_void, alignment: usize, bytes: usize) {
    let layout = core::alloc::Layout::from_size_align(bytes, alignment.max(16));
    match (NonNull::new(start.cast::<u8>()), PLAIN.get(), layout) {
        // SAFETY: clause 1: the layout is the one it was allocated for.
        (Some(start), Some(heap), Ok(layout)) => unsafe { heap.free_sized(start, layout) },
        // SAFETY: clause 1: without a layout the page says the size.
        _ => unsafe { release(start) },
    }
}

/// Returns how many bytes at `start` may be used; none at null.
///
/// # Safety
/// 1. As for `free`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn malloc_usable_size(start: *mut c_void) -> usize {
    let Some(start) = NonNull::new(start.cast::<u8>()) else { return 0 };
    match existing() {
        Some(Heap::Plain(heap)) => heap.ksize(start),
        Some(Heap::Checked(heap)) => heap.ksize(start),
        None => 0,
    }
}
