//! The sized `operator delete` of C++: with checks, its size must fit the allocation.
//!
//! The C++ library's own calls `operator delete(void *)`, which a program may have replaced. So do
//! these, after the check.

use core::alloc::Layout;
use core::ffi::c_void;
use core::ptr::NonNull;

use crate::calls::release;
use crate::heap::{Heap, existing, stop};
use crate::next::Next;
use crate::space::is_outside;

type Delete = unsafe extern "C" fn(*mut c_void);
type DeleteAligned = unsafe extern "C" fn(*mut c_void, usize);

static DELETE: Next = Next::replaceable(c"_ZdlPv");
static DELETE_ARRAY: Next = Next::replaceable(c"_ZdaPv");
static DELETE_ALIGNED: Next = Next::replaceable(c"_ZdlPvSt11align_val_t");
static DELETE_ARRAY_ALIGNED: Next = Next::replaceable(c"_ZdaPvSt11align_val_t");

/// `operator delete(void *, size_t)`.
///
/// # Safety
/// 1. `start` is null, or came from `operator new` for `bytes` bytes and has not been freed since.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn _ZdlPvm(start: *mut c_void, bytes: usize) {
    // SAFETY: clause 1.
    unsafe { check(start, bytes, 16) };
    // SAFETY: clause 1.
    unsafe { delete(&DELETE, start) };
}

/// `operator delete[](void *, size_t)`.
///
/// # Safety
/// 1. As for [`_ZdlPvm`], with `operator new[]`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn _ZdaPvm(start: *mut c_void, bytes: usize) {
    // SAFETY: clause 1.
    unsafe { check(start, bytes, 16) };
    // SAFETY: clause 1.
    unsafe { delete(&DELETE_ARRAY, start) };
}

/// `operator delete(void *, size_t, align_val_t)`.
///
/// # Safety
/// 1. As for [`_ZdlPvm`], with this alignment.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn _ZdlPvmSt11align_val_t(
    start: *mut c_void,
    bytes: usize,
    alignment: usize,
) {
    // SAFETY: clause 1.
    unsafe { check(start, bytes, alignment) };
    // SAFETY: clause 1.
    unsafe { delete_aligned(&DELETE_ALIGNED, start, alignment) };
}

/// `operator delete[](void *, size_t, align_val_t)`.
///
/// # Safety
/// 1. As for [`_ZdlPvm`], with `operator new[]` and this alignment.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn _ZdaPvmSt11align_val_t(
    start: *mut c_void,
    bytes: usize,
    alignment: usize,
) {
    // SAFETY: clause 1.
    unsafe { check(start, bytes, alignment) };
    // SAFETY: clause 1.
    unsafe { delete_aligned(&DELETE_ARRAY_ALIGNED, start, alignment) };
}

/// Calls the `operator delete` without a size.
///
/// # Safety
/// 1. `start` may be freed by it.
unsafe fn delete(operator: &Next, start: *mut c_void) {
    let function = operator.address();
    if function.is_null() {
        // SAFETY: clause 1: without a C++ library, `operator new` is none but `malloc`.
        return unsafe { release(start) };
    }
    // SAFETY: the function of this name has this type.
    let function = unsafe { core::mem::transmute::<*mut c_void, Delete>(function) };
    // SAFETY: clause 1.
    unsafe { function(start) };
}

/// Calls the `operator delete` with an alignment and without a size.
///
/// # Safety
/// 1. As for [`delete`].
unsafe fn delete_aligned(operator: &Next, start: *mut c_void, alignment: usize) {
    let function = operator.address();
    if function.is_null() {
        // SAFETY: clause 1, as in `delete`.
        return unsafe { release(start) };
    }
    // SAFETY: the function of this name has this type.
    let function = unsafe { core::mem::transmute::<*mut c_void, DeleteAligned>(function) };
    // SAFETY: clause 1.
    unsafe { function(start, alignment) };
}

/// Ends the program if the checked allocator serves and `start` is an allocation of another size,
/// or none. Memory of others passes: a program may replace `operator new`.
///
/// # Safety
/// 1. As for [`_ZdlPvm`], with any `operator new`.
unsafe fn check(start: *mut c_void, bytes: usize, alignment: usize) {
    let Some(Heap::Checked(heap)) = existing() else { return };
    let Some(start) = NonNull::new(start.cast::<u8>()) else { return };
    if is_outside(start.addr().get()) {
        return;
    }
    // `operator new` returns an address of its own for no bytes. For large alignments the C++
    // library asks for a multiple of the alignment.
    let (bytes, alignment) = (bytes.max(1), alignment.max(16));
    let fits = |bytes: usize| {
        let layout = Layout::from_size_align(bytes, alignment);
        // SAFETY: clauses 1 and 2: clause 1; the caller alone frees it.
        layout.map_or(Ok(()), |layout| unsafe { heap.check_layout_owned(start, layout) })
    };
    if let Err(fault) = fits(bytes) {
        if bytes.checked_next_multiple_of(alignment).is_none_or(|padded| fits(padded).is_err()) {
            stop(&fault);
        }
    }
}
