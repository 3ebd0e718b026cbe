//! The library survives that a program closes it.

use std::ffi::{CStr, CString};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Barrier;

/// Builds the library: cargo builds none for tests, as nothing can be linked to it.
fn library() -> CString {
    let own = std::env::current_exe().expect("a path");
    let target: PathBuf = own.ancestors().nth(3).expect("target, profile, deps").into();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "-p", "plugin", "--target-dir"])
        .arg(&target)
        .status();
    assert!(status.is_ok_and(|status| status.success()), "the library cannot be built");
    let library = target.join("debug/libplugin.so").into_os_string();
    CString::new(library.into_encoded_bytes()).expect("no zero")
}

/// Returns the function of the library that takes no argument or one, as the caller says.
///
/// # Safety
/// 1. `handle` is an open library, whose function `name` has the type `F`.
unsafe fn function<F: Copy>(handle: *mut libc::c_void, name: &CStr) -> F {
    // SAFETY: clause 1; the name ends with a zero.
    let found = unsafe { libc::dlsym(handle, name.as_ptr()) };
    assert!(!found.is_null(), "{name:?} is not found");
    assert_eq!(size_of::<F>(), size_of_val(&found));
    // SAFETY: clause 1: it has this type, and functions have the size of an address.
    unsafe { std::mem::transmute_copy(&found) }
}

/// Opens and closes the library in turns. Threads use it, and end after it was closed or before.
/// Each time it is the same library with the same heap, which does not grow.
///
/// Mutation seen to fail: a library that is not pinned, as it crashes when the threads end.
#[test]
fn threads_outlive_the_last_reference() {
    const THREADS: usize = 4;
    let name = library();
    let mut first = None;
    for round in 0..40 {
        // SAFETY: its initialisers are sound wherever they run.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null());
        // SAFETY: clause 1: open, and the library's source says so.
        let work = unsafe { function::<extern "C" fn(usize) -> usize>(handle, c"work") };
        // SAFETY: clause 1: as above.
        let held_bytes = unsafe { function::<extern "C" fn() -> usize>(handle, c"held_bytes") };
        assert_eq!(*first.get_or_insert(work as usize), work as usize, "loaded a second time");
        let (has_worked, is_closed) = (Barrier::new(THREADS + 1), Barrier::new(THREADS + 1));
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    assert!(work(2000) > 0);
                    has_worked.wait();
                    is_closed.wait();
                });
            }
            has_worked.wait();
            // All threads together use at most 4 times the 3 MB of one of them.
            let held = held_bytes();
            assert!(0 < held && held < 32 << 20, "{held} bytes in round {round}");
            if round % 2 == 0 {
                // SAFETY: the handle of above, closed once.
                unsafe { libc::dlclose(handle) };
            }
            is_closed.wait();
        });
        if round % 2 == 1 {
            // SAFETY: the handle of above, closed once.
            unsafe { libc::dlclose(handle) };
        }
    }
}
