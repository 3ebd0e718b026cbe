//! Functions of the C library behind those that this library replaces.

use core::ffi::{CStr, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

/// A function of another library, looked up when it is first needed.
pub(crate) struct Next {
    name: &'static CStr,
    /// Whether the program may have replaced it.
    is_replaceable: bool,
    /// Null until the function was found.
    found: AtomicPtr<c_void>,
}

impl Next {
    /// Names a function of a library after this one.
    pub(crate) const fn new(name: &'static CStr) -> Self {
        Self { name, is_replaceable: false, found: AtomicPtr::new(null_mut()) }
    }

    /// Names a function that the program may have replaced: the first of that name is meant.
    pub(crate) const fn replaceable(name: &'static CStr) -> Self {
        Self { name, is_replaceable: true, found: AtomicPtr::new(null_mut()) }
    }

    /// Returns the address of the function; null where no library after this one has it.
    pub(crate) fn address(&self) -> *mut c_void {
        // Relaxed: each thread that looks it up finds the same.
        let found = self.found.load(Ordering::Relaxed);
        if !found.is_null() {
            return found;
        }
        let from = if self.is_replaceable { libc::RTLD_DEFAULT } else { libc::RTLD_NEXT };
        // SAFETY: the name ends with zero.
        let found = unsafe { libc::dlsym(from, self.name.as_ptr()) };
        self.found.store(found, Ordering::Relaxed);
        found
    }
}
