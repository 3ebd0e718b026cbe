//! Allocations of another allocator that reach this library: those of the C library, and those of
//! `early.rs`.
//!
//! # Concepts
//! A library that was opened with `RTLD_DEEPBIND` calls the C library's `malloc`, and the program
//! may free what it returns. Addresses outside the space of this library go to the C library, which
//! ends the program if it does not know them. An address inside the space that is no allocation is
//! a fault of the program.

use core::ffi::c_void;
use core::ptr::NonNull;

use crate::early;
use crate::next::Next;
use crate::space::is_outside;

static FREE: Next = Next::new(c"__libc_free");
static REALLOC: Next = Next::new(c"__libc_realloc");
static USABLE_SIZE: Next = Next::new(c"malloc_usable_size");

/// Returns whether no allocator of this process returned `address`: all align to 16 bytes, and no
/// memory is mapped at the lowest addresses.
pub(crate) fn is_impossible(address: usize) -> bool {
    const LOWEST: usize = 64 << 10;
    address % 16 != 0 || address < LOWEST
}

/// Frees an allocation outside the space. Returns false, and does nothing, where it lies inside, or
/// no allocation can begin there, or the C library has no such function.
///
/// # Safety
/// 1. Its caller may free `start`, and does not use it any more.
#[cold]
pub(crate) unsafe fn free(start: NonNull<u8>) -> bool {
    let address = start.addr().get();
    if early::contains(address) {
        return true;
    }
    let function = FREE.address();
    if is_impossible(address) || !is_outside(address) || function.is_null() {
        return false;
    }
    type Free = unsafe extern "C" fn(*mut c_void);
    // SAFETY: the function of this name has this type.
    let function = unsafe { core::mem::transmute::<*mut c_void, Free>(function) };
    // SAFETY: clause 1; the C library checks addresses that are not its own, as far as it can.
    unsafe { function(start.as_ptr().cast()) };
    true
}

/// Changes the size of an allocation outside the space to `bytes`, at least one byte. Returns
/// `None` where [`free`] returns false. Calls `allocate` for memory of this library's own.
///
/// # Safety
/// 1. As for `realloc`.
#[cold]
pub(crate) unsafe fn resize(
    start: NonNull<u8>,
    bytes: usize,
    allocate: fn(usize) -> *mut c_void,
) -> Option<*mut c_void> {
    let address = start.addr().get();
    if early::contains(address) {
        let moved = allocate(bytes);
        if !moved.is_null() {
            // SAFETY: clause 1: an allocation of `early`.
            let kept = unsafe { early::size(start) }.min(bytes);
            // SAFETY: both have `kept` bytes, and the new one was just allocated.
            unsafe { moved.cast::<u8>().copy_from_nonoverlapping(start.as_ptr(), kept) };
        }
        return Some(moved);
    }
    let function = REALLOC.address();
    if is_impossible(address) || !is_outside(address) || function.is_null() {
        return None;
    }
    type Realloc = unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void;
    // SAFETY: the function of this name has this type.
    let function = unsafe { core::mem::transmute::<*mut c_void, Realloc>(function) };
    // SAFETY: clause 1.
    Some(unsafe { function(start.as_ptr().cast(), bytes) })
}

/// Returns the usable size of an allocation outside the space; zero where [`free`] returns false.
///
/// # Safety
/// 1. `start` is an allocation.
#[cold]
pub(crate) unsafe fn usable_size(start: NonNull<u8>) -> usize {
    let address = start.addr().get();
    if early::contains(address) {
        // SAFETY: clause 1: an allocation of `early`.
        return unsafe { early::size(start) };
    }
    let function = USABLE_SIZE.address();
    if is_impossible(address) || !is_outside(address) || function.is_null() {
        return 0;
    }
    type Size = unsafe extern "C" fn(*mut c_void) -> usize;
    // SAFETY: the function of this name has this type.
    let function = unsafe { core::mem::transmute::<*mut c_void, Size>(function) };
    // SAFETY: clause 1.
    unsafe { function(start.as_ptr().cast()) }
}
