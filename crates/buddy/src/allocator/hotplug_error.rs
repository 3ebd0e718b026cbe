//! The errors of hotplug.

use core::fmt;

use page_frame::FrameNumber;

/// The reason why memory was not added, removed, taken offline or brought online. The failed call
/// has changed nothing.
///
/// ```
/// use buddy::{FrameAllocator, HotplugError, Mode, ZeroedMemory};
/// use page_frame::{FrameNumber, FrameRange, Order, SingleCpu};
/// # use std::mem::MaybeUninit;
/// # let mut memory = vec![MaybeUninit::uninit(); 1 << 17];
/// # let memory = ZeroedMemory::zero(&mut memory);
/// # let range = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(1024))];
/// # let frames = FrameAllocator::new_in(memory, &range, SingleCpu::new(), Mode::Cached)?;
/// let range = |start, end| FrameRange::new(FrameNumber::new(start), FrameNumber::new(end));
/// assert_eq!(frames.offline(range(5, 512)), Err(HotplugError::PartOfArea));
/// assert_eq!(frames.offline(range(2048, 2560)), Err(HotplugError::Absent));
/// frames.allocate_at(FrameNumber::new(7), Order::ZERO)?;
/// match frames.offline(range(0, 512)) {
///     Err(HotplugError::InUse { frame }) => assert_eq!(frame.get(), 7), // its owner must move it
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HotplugError {
    /// The range is empty, or crosses into another section.
    NotOneSection,
    /// The allocator was built without room for these frames.
    NoRoom,
    /// The section has frames already, or another call is adding a section at this moment.
    Occupied,
    /// Some of the frames do not belong to the allocator.
    Absent,
    /// The section exists from the start, and shares its metadata with others.
    FromStart,
    /// The range begins or ends inside an area, and not at the border of memory.
    PartOfArea,
    /// The memory given for the section's metadata is too small.
    MetadataTooSmall {
        /// Size of the layout in bytes.
        needed: usize,
        /// Bytes from the first cache line on.
        given: usize,
    },
    /// The frame is in use, or a call that brings memory online found that it is not offline.
    InUse {
        /// The first such frame.
        frame: FrameNumber,
    },
}

impl fmt::Display for HotplugError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOneSection => f.write_str("the range is not inside one section of 1 GiB"),
            Self::NoRoom => f.write_str("the allocator was built without room for these frames"),
            Self::Occupied => f.write_str("the section has frames already"),
            Self::Absent => f.write_str("some of the frames do not exist"),
            Self::FromStart => f.write_str("the section exists from the start"),
            Self::PartOfArea => f.write_str("the range begins or ends inside an area"),
            Self::MetadataTooSmall { needed, given } => {
                write!(f, "the metadata needs {needed} bytes, and {given} are given")
            }
            Self::InUse { frame } => write!(f, "{frame} is in use"),
        }
    }
}

impl core::error::Error for HotplugError {}
