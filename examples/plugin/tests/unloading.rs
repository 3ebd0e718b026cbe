//! The library survives that a program closes it.

use std::ffi::CString;
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

/// Returns the bytes of address space that this process has mapped.
fn mapped_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = text.split(' ').next().and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("the first field") * 4096
}

/// Opens and closes the library in turns. Threads use it, and end after it was closed or before.
///
/// Mutation seen to fail: a library that is not pinned, as it crashes when the threads end.
#[test]
fn threads_outlive_the_last_reference() {
    const THREADS: usize = 4;
    let name = library();
    let mut mapped = 0;
    for round in 0..40 {
        // SAFETY: its initialisers are sound wherever they run.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null());
        // SAFETY: looks a name up.
        let found = unsafe { libc::dlsym(handle, c"work".as_ptr()) };
        assert!(!found.is_null());
        // SAFETY: the function of this name has this type.
        let work: extern "C" fn(usize) -> usize = unsafe { std::mem::transmute(found) };
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
        if round == 10 {
            mapped = mapped_bytes();
        }
    }
    let more = mapped_bytes().saturating_sub(mapped);
    assert!(more < 64 << 20, "{more} bytes more after 30 rounds: there is one heap");
}
