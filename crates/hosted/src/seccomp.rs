//! Whether a filter of system calls (seccomp) is in force in this process.
//!
//! # Concepts
//! Filters allow the calls that a C library's `malloc` makes, and may kill the process at any other
//! one. A call cannot be tried under such a filter. So in a process with a filter, this crate makes
//! no call that it can do without: no huge pages, no `mincore`, no `membarrier` where there is
//! another fence.
//!
//! A process has a filter from its start, which `/proc/self/status` says, or installs one, which
//! the code that installs it should report by [`expect_seccomp_filter`]: then this crate does not
//! even look.

use core::ffi::CStr;
use core::sync::atomic::{AtomicU8, Ordering};

use crate::os_error::preserving_errno;

/// Whether there is a filter.
static FILTER: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0;
const NONE: u8 = 1;
const FILTERED: u8 = 2;

/// Tells this crate that the process is about to install a filter of system calls.
///
/// From then on it makes no call but `mmap`, `munmap`, `mremap`, `madvise` with `MADV_DONTNEED`,
/// and `futex`, where it can. On machines without another fence it calls `membarrier` in processes
/// with several threads.
///
/// ```
/// hosted::expect_seccomp_filter();
/// let pages = hosted::Pages::new()?;
/// # Ok::<(), hosted::OsError>(())
/// ```
pub fn expect_seccomp_filter() {
    // Relaxed: the word publishes nothing.
    FILTER.store(FILTERED, Ordering::Relaxed);
}

/// Returns whether a filter is in force, as far as this crate knows. Looks at the first call.
pub(crate) fn is_filtered() -> bool {
    match FILTER.load(Ordering::Relaxed) {
        NONE => false,
        FILTERED => true,
        _ => {
            let found = if has_filter() { FILTERED } else { NONE };
            // A report that came meanwhile stays.
            let now = FILTER.compare_exchange(UNKNOWN, found, Ordering::Relaxed, Ordering::Relaxed);
            now.is_err() || found == FILTERED
        }
    }
}

/// Returns whether `/proc/self/status` says that this thread has a filter.
fn has_filter() -> bool {
    const PATH: &CStr = c"/proc/self/status";
    let mut text = [0_u8; 4096];
    let length = preserving_errno(|| {
        // Through `syscall`, as the functions of the C library are cancellation points.
        // SAFETY: the path ends with zero.
        let file = unsafe {
            let flags = libc::O_RDONLY | libc::O_CLOEXEC;
            libc::syscall(libc::SYS_openat, libc::AT_FDCWD, PATH.as_ptr(), flags)
        };
        if file < 0 {
            return 0;
        }
        // SAFETY: `text` has that many bytes, and is borrowed exclusively.
        let length = unsafe { libc::syscall(libc::SYS_read, file, text.as_mut_ptr(), text.len()) };
        // SAFETY: opened above, and closed once.
        unsafe { libc::syscall(libc::SYS_close, file) };
        usize::try_from(length).unwrap_or(0)
    });
    says_filtered(&text[..length])
}

/// Returns whether the text of a status file names a mode of seccomp other than 0.
fn says_filtered(text: &[u8]) -> bool {
    let mut lines = text.split(|byte| *byte == b'\n');
    let mode = lines.find_map(|line| line.strip_prefix(b"Seccomp:"));
    mode.is_some_and(|mode| mode.trim_ascii() != b"0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_is_read_from_its_line() {
        assert!(says_filtered(b"Name:\tx\nNoNewPrivs:\t0\nSeccomp:\t2\nSeccomp_filters:\t1\n"));
        assert!(!says_filtered(b"Name:\tSeccomp:\t2\nSeccomp:\t0\nSeccomp_filters:\t0\n"));
        assert!(!says_filtered(b"Name:\tx\n"));
    }
}
