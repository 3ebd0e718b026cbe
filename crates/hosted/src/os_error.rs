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
