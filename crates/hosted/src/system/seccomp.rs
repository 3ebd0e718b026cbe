//! Whether a filter of system calls (seccomp) is in force in this process.
//!
//! # Concepts
//! Filters allow the calls that a C library's `malloc` makes, and may kill the process at any other
//! one. A call cannot be tried under such a filter. There are two kinds:
//! - A process **inherits** a filter, as in a container; `/proc/self/status` says so. Such filters
//!   allow most calls. This crate makes none of the calls that it can replace: no `membarrier`
//!   where there is another fence, no `mincore`, no `sched_yield`.
//! - A process **installs** a filter for its own work, which allows few calls. The code that
//!   installs it should report it by [`expect_seccomp_filter`]. Then this crate does not look for
//!   filters, and gives the system no advice about huge pages either.

use core::sync::atomic::{AtomicU8, Ordering};

use crate::system::proc_file::read_file;

/// Whether there is a filter.
static FILTER: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0;
const NONE: u8 = 1;
const INHERITED: u8 = 2;
const OWN: u8 = 3;

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
    FILTER.store(OWN, Ordering::Relaxed);
}

/// Returns whether a filter is in force, as far as this crate knows. Looks at the first call.
pub(crate) fn is_filtered() -> bool {
    match FILTER.load(Ordering::Relaxed) {
        NONE => false,
        INHERITED | OWN => true,
        _ => {
            let found = if has_filter() { INHERITED } else { NONE };
            // A report that came meanwhile stays.
            let now = FILTER.compare_exchange(UNKNOWN, found, Ordering::Relaxed, Ordering::Relaxed);
            now.is_err() || found == INHERITED
        }
    }
}

/// Returns whether the process has installed a filter of its own, or is about to.
pub(crate) fn has_own_filter() -> bool {
    FILTER.load(Ordering::Relaxed) == OWN
}

/// Returns whether `/proc/self/status` says that this thread has a filter.
fn has_filter() -> bool {
    if cfg!(miri) {
        return false;
    }
    let mut text = [0_u8; 4096];
    let length = read_file(c"/proc/self/status", 0, &mut text);
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
