//! The error of `validate`: an invariant that does not hold.

use core::fmt;

use crate::frame::FrameNumber;

/// An invariant that does not hold, and where.
///
/// ```
/// use page_frame::{FrameNumber, Violation};
/// let violation = Violation::at("I2: free frames have no tag", FrameNumber::new(7));
/// assert_eq!(violation.to_string(), "I2: free frames have no tag: does not hold at frame 0x7");
/// let violation = Violation::of("I1: the counts agree");
/// assert_eq!((violation.invariant, violation.frame), ("I1: the counts agree", None));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// The invariant, as the documentation of the crate that checks it numbers it.
    pub invariant: &'static str,
    /// The first frame concerned, where there is one.
    pub frame: Option<FrameNumber>,
}

impl Violation {
    /// Says that `invariant` does not hold. Example: see [`Violation`].
    pub const fn of(invariant: &'static str) -> Self {
        Self { invariant, frame: None }
    }

    /// Says that `invariant` does not hold at `frame`. Example: see [`Violation`].
    pub const fn at(invariant: &'static str, frame: FrameNumber) -> Self {
        Self { invariant, frame: Some(frame) }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: does not hold", self.invariant)?;
        self.frame.map_or(Ok(()), |frame| write!(f, " at {frame}"))
    }
}

impl core::error::Error for Violation {}
