//! The errors of making a zone list.

use core::fmt;

/// The reason why no zone list was made.
///
/// ```
/// use buddy::{NodeZone, ZoneKind, ZoneList, ZoneListError};
/// # use buddy::{Buddy, BuildError, Mode, ZeroedMemory};
/// # use page_frame::{DirectMap, FrameNumber, FrameRange, SingleCpu};
/// # use std::mem::MaybeUninit;
/// # type ZoneBuddy<'m> = Buddy<'m, DirectMap, SingleCpu>;
/// # fn zone(memory: &mut [MaybeUninit<u8>], start: usize) -> Result<ZoneBuddy<'_>, BuildError> {
/// #     let frames = [FrameRange::new(FrameNumber::new(start), FrameNumber::new(start + 64))];
/// #     let memory = ZeroedMemory::zero(memory);
/// #     // SAFETY: this example accesses no frame, so none has to be mapped.
/// #     let map = unsafe { DirectMap::at_offset(1 << 40) };
/// #     // SAFETY: clauses 1 and 2: no other code uses the frames, and `map` covers them.
/// #     unsafe { Buddy::new_in(memory, &frames, map, SingleCpu::new(), Mode::Plain) }
/// # }
/// assert_eq!(ZoneList::<ZoneBuddy<'_>>::new(&[]).unwrap_err(), ZoneListError::Empty);
/// let (mut low, mut high) = ([MaybeUninit::uninit(); 1 << 16], [MaybeUninit::uninit(); 1 << 16]);
/// let (one, other) = (zone(&mut low, 0)?, zone(&mut high, 64)?);
/// let same_kind = [&one, &other].map(|buddy| NodeZone { node: 0, kind: ZoneKind::Normal, buddy });
/// let error = ZoneList::new(&same_kind).unwrap_err();
/// assert_eq!(error, ZoneListError::Unordered { index: 1 });
/// let error = ZoneList::new(&same_kind[..1])?.with_distances(&[10, 20]).unwrap_err();
/// assert_eq!(error, ZoneListError::NotSquare { distances: 2 });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneListError {
    /// The list is empty.
    Empty,
    /// The zone at this index is not above the zone before it, by node and then by kind.
    Unordered {
        /// The zone's index.
        index: usize,
    },
    /// The zone at this index maps frames to other addresses than the first zone does.
    OtherMap {
        /// The zone's index.
        index: usize,
    },
    /// The distances are not a square matrix, or have no row for the node of some zone.
    NotSquare {
        /// Number of distances.
        distances: usize,
    },
}

impl fmt::Display for ZoneListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("there are no zones"),
            Self::Unordered { index } => {
                write!(f, "zone {index} is not above the zone before it by node and kind")
            }
            Self::OtherMap { index } => {
                write!(f, "zone {index} maps frames to other addresses than the first zone")
            }
            Self::NotSquare { distances } => {
                write!(f, "{distances} distances are no square matrix with a row for each node")
            }
        }
    }
}

impl core::error::Error for ZoneListError {}
