//! The errors of building an allocator.

use core::fmt;

/// The reason why no allocator was built.
///
/// ```
/// use buddy::{BuildError, FrameAllocator, Mode, ZeroedMemory};
/// use page_frame::{FrameNumber, FrameRange, SingleCpu};
/// let range = |start, end| FrameRange::new(FrameNumber::new(start), FrameNumber::new(end));
/// let layout = |ranges: &[_]| FrameAllocator::<SingleCpu>::metadata_layout(ranges, 1);
/// assert_eq!(layout(&[]), Err(BuildError::NoFrames));
/// let overlapping = [range(0, 100), range(50, 200)];
/// assert_eq!(layout(&overlapping), Err(BuildError::Unordered { index: 1 }));
/// let none = ZeroedMemory::zero(&mut []);
/// match FrameAllocator::new_in(none, &[range(0, 100)], SingleCpu::new(), Mode::Cached) {
///     Err(BuildError::MetadataTooSmall { needed, given: 0 }) => assert!(needed > 9 * 100),
///     other => panic!("{other:?}"),
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// The list of ranges is empty.
    NoFrames,
    /// The range at this index is empty, or begins below the end of the range before it.
    Unordered {
        /// The range's index.
        index: usize,
    },
    /// The metadata would not fit the address space.
    TooLarge,
    /// The memory given for the metadata is too small.
    MetadataTooSmall {
        /// Size of the layout in bytes.
        needed: usize,
        /// Bytes from the first cache line on.
        given: usize,
    },
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFrames => f.write_str("there are no frames"),
            Self::Unordered { index } => {
                write!(f, "range {index} is empty or begins inside or below the one before")
            }
            Self::TooLarge => f.write_str("the metadata is larger than the address space"),
            Self::MetadataTooSmall { needed, given } => {
                write!(f, "the metadata needs {needed} bytes, and {given} are given")
            }
        }
    }
}

impl core::error::Error for BuildError {}

impl From<BuildError> for page_frame::OutOfMemory {
    fn from(_: BuildError) -> Self {
        Self
    }
}
