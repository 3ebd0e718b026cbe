//! `errno`, and how a C function reports that memory ran out.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use page_frame::OutOfMemory;

/// The number of requests of this process that failed.
static FAILURES: AtomicUsize = AtomicUsize::new(0);

/// Returns how many requests of this process failed.
pub(crate) fn failures() -> usize {
    // Relaxed: a statistic.
    FAILURES.load(Ordering::Relaxed)
}

/// Sets the count of failed requests to zero, in a child after a fork.
pub(crate) fn reset_failures() {
    // Relaxed: a statistic.
    FAILURES.store(0, Ordering::Relaxed);
}

/// Converts the outcome of an allocation into what a C function returns: the address, or null with
/// `errno` set.
#[inline(always)]
pub(crate) fn or_errno(outcome: Result<NonNull<u8>, OutOfMemory>) -> *mut libc::c_void {
    match outcome {
        Ok(start) => start.as_ptr().cast(),
        Err(OutOfMemory) => no_memory(),
    }
}

/// Sets `errno` to `ENOMEM` and returns null.
#[cold]
#[inline(never)]
pub(crate) fn no_memory() -> *mut libc::c_void {
    set_errno(libc::ENOMEM);
    // Relaxed: a statistic.
    FAILURES.fetch_add(1, Ordering::Relaxed);
    core::ptr::null_mut()
}

/// Sets `errno`.
pub(crate) fn set_errno(number: i32) {
    // SAFETY: the function has no preconditions and returns the address of the thread's own
    // variable.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: the address stays valid while the thread runs, and no other thread uses it.
    unsafe { errno.write(number) };
}

/// Returns `errno`.
pub(crate) fn errno() -> i32 {
    // SAFETY: the function has no preconditions and returns the address of the thread's own
    // variable.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: the address stays valid while the thread runs, and no other thread uses it.
    unsafe { errno.read() }
}
