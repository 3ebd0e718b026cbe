//! Kinds of areas: what an area is used for, so that blocks of one sort stay together.
//!
//! # Concepts
//! A **kind** is an order group and a mobility. Small blocks that live side by side with blocks of their own size leave
//! holes of exactly that size, which the next request of that size fills; and what cannot be moved does not stand in the
//! way of what can (Gorman and Whitcroft 2006, "The What, The Why and the Where To of Anti-Fragmentation"). An area with
//! no frame taken has no kind.
//!
//! A request looks at areas of its own kind, then at empty areas, then at the other kinds: first those of the same
//! mobility, then the rest, each from the smallest order group up.

use page_frame::sync;

use crate::bitmap::area::AREA_FRAMES;

/// Whether the content of a block can be moved elsewhere, or given up, when its area is wanted whole.
///
/// ```
/// assert_eq!(buddy::Mobility::default(), buddy::Mobility::Unmovable);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mobility {
    /// The content stays where it is until it is freed: what a kernel holds by pointer.
    #[default]
    Unmovable,
    /// The content can be given up on demand: caches of what can be had again.
    Reclaimable,
    /// The content can be copied elsewhere: memory reached through page tables.
    Movable,
}

impl Mobility {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Unmovable, Self::Reclaimable, Self::Movable];
}

/// Order groups: 0, 1, 2, 3, and all above.
pub(crate) const GROUPS: usize = if sync::MODELLED { 1 } else { 5 };
/// Mobilities that are told apart.
const MOBILITIES: usize = if sync::MODELLED { 1 } else { 3 };
/// How many kinds there are. One under loom.
pub(crate) const KINDS: usize = GROUPS * MOBILITIES;
/// Degrees of fullness of areas with a kind, fullest first.
const BUCKETS: usize = 3;
/// How many hint bitmaps a section has: one for each kind and degree of fullness, and one for empty areas.
pub(crate) const MAPS: usize = KINDS * BUCKETS + 1;
/// The bitmap of areas with no frame taken.
pub(crate) const UNTOUCHED: usize = MAPS - 1;

/// What an area is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind(u8);

impl Kind {
    /// Returns the kind of areas for blocks of `order`, below the area's.
    #[inline]
    pub(crate) fn of(order: u32, mobility: Mobility) -> Self {
        let group = (order as usize).min(GROUPS - 1);
        Self(((mobility as usize).min(MOBILITIES - 1) * GROUPS + group) as u8)
    }

    /// Returns the kind with this number.
    #[inline]
    pub(crate) fn from_index(index: usize) -> Self {
        debug_assert!(index < KINDS);
        Self(index as u8)
    }

    /// Returns the kind whose bitmap `map` is; [`UNTOUCHED`] is none's.
    #[inline]
    pub(crate) fn of_map(map: usize) -> Self {
        Self::from_index(map / BUCKETS)
    }

    #[inline]
    pub(crate) fn index(self) -> usize {
        self.0.into()
    }

    /// Returns the mobility.
    #[inline]
    pub(crate) fn mobility(self) -> Mobility {
        Mobility::ALL[self.index() / GROUPS]
    }

    /// Returns the indices of the kinds of `mobility`.
    #[inline(always)]
    pub(crate) const fn all_of(mobility: Mobility) -> core::ops::Range<usize> {
        let told_apart = if MOBILITIES == 1 { 0 } else { mobility as usize };
        told_apart * GROUPS..(told_apart + 1) * GROUPS
    }

    /// Iterates over the other kinds in the order in which a request falls back on them.
    pub(crate) fn others(self) -> impl Iterator<Item = Self> {
        let mobility = self.index() / GROUPS;
        let of = move |wanted: bool| {
            (0..KINDS).filter(move |kind| (kind / GROUPS == mobility) == wanted)
        };
        of(true).chain(of(false)).map(Self::from_index).filter(move |kind| *kind != self)
    }

    /// Returns this kind's bitmaps in which an area with room for `order` may be, fullest first.
    #[inline]
    pub(crate) fn maps(self, order: u32) -> core::ops::Range<usize> {
        let first = self.index() * BUCKETS;
        first + bucket_with_room(order)..first + BUCKETS
    }
}

/// Returns the bitmap for an area of `kind` with `free` free frames, or `None` when it is full.
#[inline]
pub(crate) fn map_for(kind: Kind, free: usize) -> Option<usize> {
    let bucket = match free {
        0 => return None,
        AREA_FRAMES => return Some(UNTOUCHED),
        free if free >= AREA_FRAMES / 2 => 2,
        free if free >= AREA_FRAMES / 8 => 1,
        _ => 0,
    };
    Some(kind.index() * BUCKETS + bucket)
}

/// Whether a search from `map` on sees all bitmaps of its kind.
pub(crate) fn begins_kind(map: usize) -> bool {
    map == UNTOUCHED || map % BUCKETS == 0
}

/// Returns the fullest degree at which `2^order` frames can still be free.
fn bucket_with_room(order: u32) -> usize {
    match 1 << order {
        frames if frames >= AREA_FRAMES / 2 => 2,
        frames if frames >= AREA_FRAMES / 8 => 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_falls_back_on_every_other_kind_once_and_on_its_mobility_first() {
        for index in 0..KINDS {
            let kind = Kind::from_index(index);
            let others: Vec<_> = kind.others().collect();
            assert_eq!(others.len(), KINDS - 1);
            let same = others.iter().take_while(|other| other.index() / GROUPS == index / GROUPS);
            assert_eq!(same.count(), GROUPS - 1);
        }
    }

    #[test]
    fn an_area_with_room_for_an_order_is_in_a_map_that_is_searched_for_it() {
        for order in 0..crate::bitmap::area::AREA_ORDER {
            let kind = Kind::of(order, Mobility::Movable);
            for free in 1 << order..AREA_FRAMES {
                let map = map_for(kind, free).expect("not full");
                assert!(kind.maps(order).contains(&map), "{free} free for order {order}");
            }
        }
    }

    extern crate std;
    use std::vec::Vec;
}
