//! What the system answers when it has not what is asked for.

use core::fmt;

use rustix::io::Errno;

/// The system refused: its number for the reason, `errno`'s.
///
/// ```
/// # use hosted::Mapped;
/// let refused = Mapped::reserve(0).expect_err("nothing of no bytes");
/// assert_eq!(refused.to_string(), "the system refused: error 22");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(i32);

impl Refused {
    /// For sizes that nothing has: zero, or an overflow.
    pub(crate) const INVALID: Self = Self(Errno::INVAL.raw_os_error());

    pub(crate) const fn new(number: i32) -> Self {
        Self(number)
    }

    /// Returns the system's number for the reason.
    pub const fn number(self) -> i32 {
        self.0
    }
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        Self(errno.raw_os_error())
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "the system refused: error {}", self.0)
    }
}

impl core::error::Error for Refused {}

#[cfg(feature = "std")]
impl From<Refused> for std::io::Error {
    fn from(refused: Refused) -> Self {
        Self::from_raw_os_error(refused.0)
    }
}
