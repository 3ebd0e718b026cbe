//! The place of this library's fork handlers among those of other libraries.
//!
//! # Concepts
//! The C library calls the handlers that run before a fork in the reverse order of their
//! registration. Those of other libraries may allocate, take locks, and wait for threads that
//! allocate. So this library's must run last, as the C library's own `malloc` is prepared: it must
//! be registered first. Programs register through `__register_atfork`, which this library replaces:
//! the first call registers its own handlers before it registers those of the caller.

use core::ffi::{c_int, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::fork::{before_fork, in_child, in_parent};
use crate::next::Next;

type Handler = Option<unsafe extern "C" fn()>;
type Register = unsafe extern "C" fn(Handler, Handler, Handler, *mut c_void) -> c_int;

static REGISTER: Next = Next::new(c"__register_atfork");

/// Registers fork handlers, for `pthread_atfork`, after those of this library.
///
/// # Safety
/// 1. The handlers stay callable until the C library unregisters those of `library`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn __register_atfork(
    prepare: Handler,
    parent: Handler,
    child: Handler,
    library: *mut c_void,
) -> c_int {
    register();
    // SAFETY: clause 1.
    unsafe { call(prepare, parent, child, library) }
}

/// Registers the handlers of this library, once.
pub(crate) fn register() {
    static IS_DONE: AtomicBool = AtomicBool::new(false);
    // Relaxed: one call wins, and the C library has a lock of its own.
    if !IS_DONE.swap(true, Ordering::Relaxed) {
        // SAFETY: clause 1: this library is never unloaded.
        unsafe { call(Some(before_fork), Some(in_parent), Some(in_child), null_mut()) };
    }
}

/// Calls the C library's `__register_atfork`.
///
/// # Safety
/// 1. As for [`__register_atfork`].
unsafe fn call(prepare: Handler, parent: Handler, child: Handler, library: *mut c_void) -> c_int {
    let function = REGISTER.address();
    if function.is_null() {
        return libc::ENOSYS;
    }
    // SAFETY: the function of this name has this type in all versions of glibc.
    let function = unsafe { core::mem::transmute::<*mut c_void, Register>(function) };
    // SAFETY: clause 1.
    unsafe { function(prepare, parent, child, library) }
}
