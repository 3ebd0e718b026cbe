//! The error of a system call.

use core::fmt;

use page_frame::OutOfMemory;
use rustix::io::Errno;

/// A system call failed; holds its `errno`.
///
/// ```
/// # use hosted::Mapped;
/// let error = Mapped::reserve(0).expect_err("no mapping has zero bytes");
/// assert_eq!((error.number(), error.to_string()), (22, "system error 22".into()));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OsError(i32);

impl OsError {
    /// `EINVAL`, for sizes that no mapping has: zero, or an overflow.
    pub(crate) const INVALID: Self = Self(Errno::INVAL.raw_os_error());

    /// `EEXIST`: other code has a mapping there.
    pub(crate) const EXISTS: Self = Self(Errno::EXIST.raw_os_error());

    /// `ENOMEM`: a limit is reached, or the process has used up its mappings.
    pub(crate) const NO_MEMORY: Self = Self(Errno::NOMEM.raw_os_error());

    /// `EAGAIN`: the call interrupted one that it would wait for.
    pub(crate) const AGAIN: Self = Self(Errno::AGAIN.raw_os_error());

    pub(crate) const fn new(number: i32) -> Self {
        Self(number)
    }

    /// Returns the `errno` of the call. Example: see [`OsError`].
    pub const fn number(self) -> i32 {
        self.0
    }
}

impl From<Errno> for OsError {
    fn from(errno: Errno) -> Self {
        Self(errno.raw_os_error())
    }
}

impl fmt::Display for OsError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "system error {}", self.0)
    }
}

impl core::error::Error for OsError {}

/// For heaps whose constructor has one error: memory that the system does not map is memory that
/// there is not.
impl From<OsError> for OutOfMemory {
    fn from(_: OsError) -> Self {
        Self
    }
}

#[cfg(feature = "std")]
impl From<OsError> for std::io::Error {
    fn from(error: OsError) -> Self {
        Self::from_raw_os_error(error.0)
    }
}

/// Calls the C library and restores `errno`: a `malloc` that succeeds must not change it.
pub(crate) fn preserving_errno<R>(call: impl FnOnce() -> R) -> R {
    // SAFETY: has no arguments; returns the thread's own variable.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: the running thread's own variable.
    let before = unsafe { errno.read() };
    let outcome = call();
    // SAFETY: the running thread's own variable.
    unsafe { errno.write(before) };
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: an `errno` that stays as the call leaves it.
    #[test]
    fn errno_is_what_it_was_after_a_call_that_fails() {
        // SAFETY: no file has this number; nothing happens but an error.
        let fails = || unsafe { libc::close(-1) };
        let before = std::io::Error::last_os_error().raw_os_error();
        assert_eq!(preserving_errno(fails), -1);
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), before);
        assert_eq!(fails(), -1);
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EBADF));
    }
}
