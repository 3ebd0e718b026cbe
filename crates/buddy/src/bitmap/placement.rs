//! Placement: which blocks an area is used for, so that similar blocks stay together.
//!
//! # Concepts
//! A **placement** is an order group and a mobility. Small blocks beside blocks of their own size
//! leave holes of exactly that size, which the next request of that size fills. Blocks that cannot
//! move do not block the merging of blocks that can (Gorman and Whitcroft 2006, "The What, The Why
//! and the Where To of Anti-Fragmentation"). Linux groups blocks only by mobility, which it calls
//! the migrate type. An area with all frames free has no placement.
//!
//! A request searches areas of its own placement, then empty areas, then the other placements:
//! first those of the same mobility, then the rest, each from the smallest order group up.

use core::ops::Range;

use page_frame::sync;

/// Whether the content of a block can be moved or dropped when its area is wanted whole.
///
/// ```
/// use buddy::{FrameAllocator, Mobility, Mode, ZeroedMemory};
/// use page_frame::{FrameNumber, FrameRange, Order, SingleCpu};
/// # use std::mem::MaybeUninit;
/// # let mut memory = vec![MaybeUninit::uninit(); 1 << 19];
/// # let memory = ZeroedMemory::zero(&mut memory);
/// # let range = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(32768))];
/// # let frames = FrameAllocator::new_in(memory, &range, SingleCpu::new(), Mode::Cached)?;
/// let inode = frames.allocate_frames(Order::ZERO)?; // unmovable: others point to it
/// let buffer = frames.allocate_as(Order::ZERO, Mobility::Movable)?;
/// assert_eq!(frames.mobility_at(inode), Mobility::Unmovable);
/// assert_eq!(frames.mobility_at(buffer), Mobility::Movable); // in another area
/// let counts = frames.free_counts_by_mobility();
/// for mobility in Mobility::ALL {
///     println!("{mobility:?}: {:?}", counts[mobility as usize]);
/// }
/// assert!(counts[Mobility::Movable as usize].iter().sum::<usize>() > 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mobility {
    /// The content stays at its address until it is freed, like a kernel object that is reached by
    /// pointer.
    #[default]
    Unmovable,
    /// The content can be dropped on demand, like a cache of data that can be read again.
    Reclaimable,
    /// The content can be copied elsewhere, like memory that is reached through page tables.
    Movable,
}

impl Mobility {
    /// All mobilities. Example: see [`Mobility`].
    pub const ALL: [Self; 3] = [Self::Unmovable, Self::Reclaimable, Self::Movable];
}

/// Number of order groups: orders 0, 1, 2, 3, and all above.
pub(crate) const ORDER_GROUPS: usize = if sync::MODELLED { 1 } else { 5 };
/// Number of mobilities that are distinguished.
const MOBILITIES: usize = if sync::MODELLED { 1 } else { 3 };
/// Number of placements. One under loom.
pub(crate) const PLACEMENTS: usize = ORDER_GROUPS * MOBILITIES;
/// Which blocks an area is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placement(u8);

impl Placement {
    /// Returns the placement of blocks of `order`, below the area's.
    #[inline]
    pub(crate) fn of(order: u32, mobility: Mobility) -> Self {
        let group = (order as usize).min(ORDER_GROUPS - 1);
        Self(((mobility as usize).min(MOBILITIES - 1) * ORDER_GROUPS + group) as u8)
    }

    /// Returns the placement with this index.
    #[inline]
    pub(crate) fn from_index(index: usize) -> Self {
        debug_assert!(index < PLACEMENTS);
        Self(index as u8)
    }

    #[inline]
    pub(crate) fn index(self) -> usize {
        self.0.into()
    }

    /// Returns the mobility.
    #[inline]
    pub(crate) fn mobility(self) -> Mobility {
        Mobility::ALL[self.index() / ORDER_GROUPS]
    }

    /// Returns the indices of the placements of `mobility`.
    #[inline(always)]
    pub(super) const fn all_of(mobility: Mobility) -> Range<usize> {
        let told_apart = if MOBILITIES == 1 { 0 } else { mobility as usize };
        told_apart * ORDER_GROUPS..(told_apart + 1) * ORDER_GROUPS
    }

    /// Iterates over the other placements in the order in which a request falls back on them.
    pub(super) fn others(self) -> impl Iterator<Item = Self> {
        let mobility = self.index() / ORDER_GROUPS;
        let of = move |is_same: bool| {
            (0..PLACEMENTS).filter(move |index| (index / ORDER_GROUPS == mobility) == is_same)
        };
        of(true).chain(of(false)).map(Self::from_index).filter(move |other| *other != self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_falls_back_on_every_other_placement_once_and_on_its_own_mobility_first() {
        for index in 0..PLACEMENTS {
            let placement = Placement::from_index(index);
            let others: Vec<_> = placement.others().collect();
            assert_eq!(others.len(), PLACEMENTS - 1);
            let same = others
                .iter()
                .take_while(|other| other.index() / ORDER_GROUPS == index / ORDER_GROUPS);
            assert_eq!(same.count(), ORDER_GROUPS - 1);
        }
    }

    extern crate std;
    use std::vec::Vec;
}
