//! The errors of making a zone list.

use core::fmt;

/// The reason why no zone list was made.
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
