//! Keeps the shared library that this crate is linked into loaded.
//!
//! # Concepts
//! The C library calls functions of this crate at the end of threads and around `fork`, and the
//! heap stays until the process ends. A library that was unloaded meanwhile would leave addresses
//! without code, and one that is loaded again would begin another heap. So before the first thread
//! takes a number, the library is pinned: `dlclose` then unloads nothing. In a program itself there
//! is nothing to pin.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr::null;
use core::sync::atomic::{AtomicBool, Ordering};

/// Whether the library stays loaded, or a call is about to pin it.
static IS_KEPT: AtomicBool = AtomicBool::new(false);

/// Tells this crate that the library or program that it is in is never unloaded (the linker's
/// option `-z nodelete`), so that it need not ask the loader. For code that the loader itself
/// calls, as it calls `malloc`.
///
/// ```
/// hosted::assume_never_unloaded();
/// let pages = hosted::Pages::new()?;
/// # Ok::<(), hosted::OsError>(())
/// ```
pub fn assume_never_unloaded() {
    // Relaxed: the word publishes nothing.
    IS_KEPT.store(true, Ordering::Relaxed);
}

/// Pins the library that this code is in, once.
pub(crate) fn keep_loaded() {
    if IS_KEPT.swap(true, Ordering::Relaxed) {
        return;
    }
    let mut search = Search { address: (&raw const IS_KEPT).addr(), name: null() };
    // SAFETY: `visit` takes the `Search` that it is passed.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
    if !search.name.is_null() {
        let flags = libc::RTLD_NOW | libc::RTLD_NOLOAD | libc::RTLD_NODELETE;
        // The handle is not closed: it is one more reference.
        // SAFETY: the name of a library that is loaded, which this code is in; nothing is loaded.
        let _ = unsafe { libc::dlopen(search.name, flags) };
    }
}

/// A search for the object that has `address`.
struct Search {
    address: usize,
    /// Its name, if it is a library; null for the program.
    name: *const c_char,
}

/// Looks at one object; returns 1 when it is the one that is searched for.
unsafe extern "C" fn visit(
    object: *mut libc::dl_phdr_info,
    _: libc::size_t,
    search: *mut c_void,
) -> c_int {
    // SAFETY: `dl_iterate_phdr` passes a valid description.
    let object = unsafe { &*object };
    // SAFETY: what `keep_loaded` passed, and has borrowed exclusively.
    let search = unsafe { &mut *search.cast::<Search>() };
    let offset = search.address.wrapping_sub(object.dlpi_addr as usize);
    let has_it = (0..usize::from(object.dlpi_phnum)).any(|index| {
        // SAFETY: the object has that many headers.
        let header = unsafe { object.dlpi_phdr.add(index) };
        // SAFETY: one of the object's headers, which stay while it is loaded.
        let header = unsafe { &*header };
        let start = header.p_vaddr as usize;
        header.p_type == libc::PT_LOAD && offset.wrapping_sub(start) < header.p_memsz as usize
    });
    if has_it && !object.dlpi_name.is_null() {
        // SAFETY: the loader's names end with zero.
        let name = unsafe { CStr::from_ptr(object.dlpi_name) };
        if !name.is_empty() {
            search.name = object.dlpi_name;
        }
    }
    c_int::from(has_it)
}
