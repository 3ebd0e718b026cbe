//! The order of this library's fork handlers among those of other libraries.
//!
//! # Concepts
//! Before a fork this library freezes its allocator. The handlers of other libraries may allocate,
//! take locks, and wait for threads that allocate, so the handler of this library must run after
//! them. The C library calls these handlers in the reverse order of their registration. Therefore
//! this library must register its own first. Programs register handlers through
//! `__register_atfork`, which this library replaces: the first call registers the handlers of this
//! library before those of the caller.

use core::ffi::{c_int, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::next::Next;
use crate::process::fork::{before_fork, in_child, in_parent};

type Handler = Option<unsafe extern "C" fn()>;
type Register = unsafe extern "C" fn(Handler, Handler, Handler, *mut c_void) -> c_int;

static REGISTER: Next = Next::new(c"__register_atfork");

/// Registers fork handlers, and those of this library before them. `pthread_atfork` calls it.
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
    // Relaxed: the exchange alone decides which call registers. The C library registers under a
    // lock of its own.
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
