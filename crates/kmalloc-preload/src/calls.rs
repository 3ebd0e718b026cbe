//! `malloc`, `free`, `calloc`, `realloc` and the sized frees of C23.
//!
//! Each function tries the plain allocator first. Sizes beyond `PTRDIFF_MAX` fail (C11 allows no
//! such objects), as do products that overflow. Memory is aligned to 16 bytes. A request for zero
//! bytes gets an object of the smallest class, with an address of its own.

use core::ffi::c_void;
use core::ptr::{NonNull, null_mut};

use page_frame::OutOfMemory;

use crate::errno::{no_memory, or_errno};
use crate::foreign;
use crate::heap::{Heap, PLAIN, allocate_early, existing, stop, with_heap};
use crate::space::is_outside;

/// Allocates `bytes` bytes.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn malloc(bytes: usize) -> *mut c_void {
    allocate(bytes)
}

/// The body of `malloc`. Other functions here call it by this name, because a call of `malloc`
/// would go to whichever `malloc` the program defines first.
#[inline(always)]
fn allocate(bytes: usize) -> *mut c_void {
    match PLAIN.kmalloc_hit(bytes) {
        Some(start) => start.as_ptr().cast(),
        None => allocate_missed(bytes),
    }
}

/// The path of `malloc` after a miss, and without a plain allocator. The only call of `malloc`, and
/// its last one, so that a hit needs no stack frame.
#[cold]
#[inline(never)]
fn allocate_missed(bytes: usize) -> *mut c_void {
    match PLAIN.get() {
        Some(heap) => or_errno(heap.kmalloc_missed(bytes)),
        None => with_heap!(|heap| or_errno(heap.kmalloc(bytes)))
            .unwrap_or_else(|| or_errno(allocate_early(bytes, 16))),
    }
}

/// Frees an allocation of any function of this library. Does nothing for null.
///
/// # Safety
/// 1. `start` is null, or came from a function of this library and has not been freed since.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn free(start: *mut c_void) {
    // SAFETY: clause 1 of `free` is clause 1 of `release`.
    unsafe { release(start) };
}

/// The body of `free`, for the same reason as `allocate`.
///
/// # Safety
/// 1. As for `free`.
#[inline(always)]
pub(crate) unsafe fn release(start: *mut c_void) {
    if let Some(heap) = PLAIN.get() {
        // SAFETY: clause 1: clause 1. The plain heap exists, so the checked one does not (I2 of
        // `lib.rs`), and the object came from the plain one. Clause 2: clause 1.
        if unsafe { heap.free_hit(start.cast()) } {
            return;
        }
    }
    // SAFETY: clause 1 is clause 1 of `release_missed`, as a miss changes nothing.
    unsafe { release_missed(start) };
}

/// The path of `free` after a miss, for null, and without a plain allocator.
///
/// # Safety
/// 1. As for `free`.
#[cold]
#[inline(never)]
unsafe fn release_missed(start: *mut c_void) {
    let Some(start) = NonNull::new(start.cast::<u8>()) else { return };
    match existing() {
        // SAFETY: clause 1, as in `release`.
        Some(Heap::Plain(heap)) => unsafe { heap.free_missed(start) },
        // SAFETY: clause 1. The plain heap does not exist, so the object came from the checked one.
        Some(Heap::Checked(heap)) => unsafe { heap.free(start) },
        // SAFETY: clause 1 is clause 1 of `foreign::free`: without a heap, the object came from
        // another allocator.
        None => _ = unsafe { foreign::free(start) },
    }
}

/// The BSD name of `free`.
///
/// # Safety
/// 1. As for `free`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cfree(start: *mut c_void) {
    // SAFETY: clause 1 of `free` is clause 1 of `release`.
    unsafe { release(start) };
}

/// Allocates an array of `count` elements of `bytes` bytes each. It reads as zero.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn calloc(count: usize, bytes: usize) -> *mut c_void {
    match PLAIN.get() {
        Some(heap) => or_errno(heap.kcalloc(count, bytes)),
        None => with_heap!(|heap| or_errno(heap.kcalloc(count, bytes))).unwrap_or_else(|| {
            let all = count.checked_mul(bytes).ok_or(OutOfMemory);
            or_errno(all.and_then(|all| allocate_early(all, 16)))
        }),
    }
}

/// Changes the size of an allocation. For null it allocates. A new size of zero frees the
/// allocation and returns null, as in glibc.
///
/// # Safety
/// 1. As for `free`. Unless null is returned for a size above zero, only the returned address is
///    used from now on.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn realloc(start: *mut c_void, bytes: usize) -> *mut c_void {
    // SAFETY: clause 1 is clause 1 of `resize`.
    unsafe { resize(start, bytes) }
}

/// The body of `realloc`, for the same reason as `allocate`.
///
/// # Safety
/// 1. As for `realloc`.
#[inline(always)]
unsafe fn resize(start: *mut c_void, bytes: usize) -> *mut c_void {
    if let (Some(old), Some(heap)) = (NonNull::new(start.cast::<u8>()), PLAIN.get()) {
        if bytes > 0 && !is_outside(old.addr().get()) {
            // SAFETY: clauses 1 and 2: `old` came from this heap, and the caller gives it up unless
            // null is returned.
            return or_errno(unsafe { heap.krealloc(Some(old), bytes) });
        }
    }
    // SAFETY: clause 1.
    unsafe { resize_otherwise(start, bytes) }
}

/// The path of `realloc` for null, for no bytes, for memory that is not ours, and without a plain
/// allocator.
///
/// # Safety
/// 1. As for `realloc`.
#[cold]
#[inline(never)]
unsafe fn resize_otherwise(start: *mut c_void, bytes: usize) -> *mut c_void {
    let Some(old) = NonNull::new(start.cast::<u8>()) else { return allocate(bytes) };
    if bytes == 0 {
        // SAFETY: clause 1: `start` is ours, and the caller does not use it after a resize to zero
        // bytes.
        unsafe { release(start) };
        return null_mut();
    }
    if is_outside(old.addr().get()) {
        // SAFETY: clause 1 is clause 1 of `foreign::resize`.
        if let Some(moved) = unsafe { foreign::resize(old, bytes, allocate) } {
            return moved;
        }
    }
    // SAFETY: clauses 1 and 2: `old` came from the heap that exists, the plain or the checked one,
    // and the caller gives it up unless null is returned.
    with_heap!(|heap| or_errno(unsafe { heap.krealloc(Some(old), bytes) }))
        .unwrap_or_else(no_memory)
}

/// Resizes an allocation to `count` elements of `bytes` bytes, as `realloc`.
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
        // SAFETY: clause 1. `all` is the size that the caller asked for.
        Some(all) => unsafe { resize(start, all) },
        None => no_memory(),
    }
}

/// Frees an allocation of `bytes` bytes of `malloc`, `calloc` or `realloc` (C23). The plain
/// allocator then reads no page map.
///
/// # Safety
/// 1. As for `free`, with that size.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn free_sized(start: *mut c_void, bytes: usize) {
    // SAFETY: clause 1. Those functions align to 16 bytes.
    unsafe { release_sized(start, 16, bytes) };
}

/// Frees an allocation of `bytes` bytes of `aligned_alloc` with this alignment (C23).
///
/// # Safety
/// 1. As for `free`, with that size and alignment.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn free_aligned_sized(
    start: *mut c_void,
    alignment: usize,
    bytes: usize,
) {
    // SAFETY: clause 1 is clause 1 of `release_sized`.
    unsafe { release_sized(start, alignment, bytes) };
}

/// The body of `free_aligned_sized`, for the same reason as `allocate`.
///
/// # Safety
/// 1. As for `free_aligned_sized`.
#[inline]
unsafe fn release_sized(start: *mut c_void, alignment: usize, bytes: usize) {
    let layout = core::alloc::Layout::from_size_align(bytes, alignment.max(16));
    let own = NonNull::new(start.cast::<u8>());
    let own = own.filter(|start| !is_outside(start.addr().get()));
    match (own, PLAIN.get(), layout) {
        // SAFETY: clause 1: this is the layout of the request.
        (Some(start), Some(heap), Ok(layout)) => unsafe { heap.free_sized(start, layout) },
        // SAFETY: clause 1. Without a valid layout the page map gives the size; other allocators
        // need none.
        _ => unsafe { release(start) },
    }
}

/// Returns the usable size of an allocation in bytes; zero for null.
///
/// # Safety
/// 1. As for `free`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn malloc_usable_size(start: *mut c_void) -> usize {
    let Some(start) = NonNull::new(start.cast::<u8>()) else { return 0 };
    let heap = existing();
    if is_outside(start.addr().get())
        && !(matches!(heap, Some(Heap::Checked(_))) && foreign::is_impossible(start.addr().get()))
    {
        // SAFETY: clause 1: an allocation, though of another allocator.
        return unsafe { foreign::usable_size(start) };
    }
    match heap {
        Some(Heap::Plain(heap)) => heap.ksize(start),
        // SAFETY: clauses 1 and 2: clause 1: an allocation that the caller owns.
        Some(Heap::Checked(heap)) => match unsafe { heap.check_owned(start) } {
            Ok(bytes) => bytes,
            Err(fault) => {
                stop(&fault);
                0
            }
        },
        None => 0,
    }
}
