//! Functions of other libraries with the names of those that this library replaces: the C
//! library's, and a few of the C++ library's.
//!
//! `dlsym` may allocate, for the text of an error, and so call this library again. A look-up holds
//! no lock, so the nested call can be served.

use core::ffi::{CStr, c_void};
use core::ptr::{null_mut, without_provenance_mut};
use core::sync::atomic::{AtomicPtr, Ordering};

/// Stands for a function that no library has, so that it is not looked up again: that would be as
/// slow as the first time, and would change what `dlerror` says.
const ABSENT: *mut c_void = without_provenance_mut(1);

/// A function of another library, looked up when it is first needed.
pub(crate) struct Next {
    name: &'static CStr,
    /// Whether the program may have replaced it.
    is_replaceable: bool,
    /// Null before the first look; [`ABSENT`] if there was no such function.
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

    /// Returns the address of the function; null where no library had it at the first call.
    pub(crate) fn address(&self) -> *mut c_void {
        // Relaxed: each thread that looks it up finds the same.
        let found = self.found.load(Ordering::Relaxed);
        if found == ABSENT {
            return null_mut();
        }
        if !found.is_null() {
            return found;
        }
        let from = if self.is_replaceable { libc::RTLD_DEFAULT } else { libc::RTLD_NEXT };
        // SAFETY: the name ends with zero.
        let found = unsafe { libc::dlsym(from, self.name.as_ptr()) };
        self.found.store(if found.is_null() { ABSENT } else { found }, Ordering::Relaxed);
        found
    }
}
