//! What memory a machine has: boot regions in, usable page-aligned runs out, and a report of every byte lost.
//!
//! # Concepts
//! - A **region** is what firmware or a boot loader says about a range of physical addresses. Regions come unsorted,
//!   overlapping, unaligned and empty; the map takes them as they are and needs no heap.
//! - Where regions overlap the most restrictive kind holds ([`RegionKind`] is in that order): a reservation inside usable
//!   memory is a reservation.
//! - A **run** is a maximal range of whole frames that are usable.
//! - A **loss** is a range that some region calls usable and that is in no run, with the reason.
//!
//! # Invariants
//! - I1: runs are disjoint, ascending, not empty, not adjacent, and touch no byte of another kind.
//! - I2: the bytes of all usable regions are the bytes of the runs plus the bytes of the losses (a byte that n regions
//!   call usable is lost n - 1 times as [`LossReason::Repeated`]).
//!
//! # Costs
//! Nothing is sorted. Each step looks at all n regions for the next boundary, so walking all runs is O(n²) with no
//! memory beside the regions; n is a few dozen, once per boot.

use core::fmt;

use crate::{FrameNumber, FrameRange, Order, PAGE_SHIFT, PAGE_SIZE};

/// What a region of physical memory is, from least to most restrictive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RegionKind {
    /// Free for use.
    Usable,
    /// In use until the boot is over (boot loader data, ACPI tables); add it as usable later.
    Reclaimable,
    /// Keeps its content without power, or is used by firmware at run time.
    Persistent,
    /// Not for use: devices, firmware, the kernel's own image.
    Reserved,
    /// Reported as defective.
    Bad,
}

/// A range of physical addresses with its kind, `end` excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// The first byte's physical address.
    pub start: u64,
    /// The address after the last byte.
    pub end: u64,
    /// What it is.
    pub kind: RegionKind,
}

/// Why bytes that a region calls usable are in no run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossReason {
    /// They share a frame with bytes that are not usable.
    Unaligned,
    /// Another region says that they are of this kind.
    Covered(RegionKind),
    /// Another region has called them usable already: nothing is really lost.
    Repeated,
    /// They lie outside the limits set by [`MemoryMap::clip`], or beyond what a frame number can name.
    Clipped,
}

/// Bytes that a region calls usable and that are in no run, `end` excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The first byte's physical address.
    pub start: u64,
    /// The address after the last byte.
    pub end: u64,
    /// How often they are lost: once, or for [`LossReason::Repeated`] once per repetition.
    pub times: u64,
    /// Why.
    pub why: LossReason,
}

impl Loss {
    /// Returns the bytes lost, all repetitions counted; `u64::MAX` where they are more than that.
    pub const fn bytes(self) -> u64 {
        (self.end - self.start).saturating_mul(self.times)
    }
}

/// Why a region was not taken into a map, or nothing could be carved from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// The map holds as many regions as it has room for.
    Full {
        /// The number of regions there is room for.
        capacity: usize,
    },
    /// The region ends before it starts.
    Reversed {
        /// The first byte's physical address.
        start: u64,
        /// The address after the last byte.
        end: u64,
    },
    /// The region goes beyond the last physical address.
    WrapsAround {
        /// The first byte's physical address.
        start: u64,
        /// The size in bytes.
        bytes: u64,
    },
    /// No usable run is long enough.
    NoRoom {
        /// The pages asked for.
        pages: usize,
        /// The pages of the longest run.
        longest: usize,
    },
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Full { capacity } => write!(f, "the map has room for {capacity} regions"),
            Self::Reversed { start, end } => {
                write!(f, "the region {start:#x} to {end:#x} ends before it starts")
            }
            Self::WrapsAround { start, bytes } => {
                write!(f, "{bytes:#x} bytes from {start:#x} go beyond the last address")
            }
            Self::NoRoom { pages, longest } => {
                write!(f, "no usable run has {pages} pages, the longest has {longest}")
            }
        }
    }
}

impl core::error::Error for MapError {}

/// The regions of a machine, up to `N` of them.
///
/// ```
/// use page_frame::{MemoryMap, RegionKind};
/// let mut map = MemoryMap::<8>::new();
/// map.add(0x0, 0x9_fc00, RegionKind::Usable)?;
/// map.add(0x10_0000, 0x100_0000, RegionKind::Usable)?;
/// map.add(0x10_0000, 0x5_0000, RegionKind::Reserved)?; // the kernel's image
/// let frames: Vec<_> = map.runs().map(|run| (run.start.get(), run.frames())).collect();
/// assert_eq!(frames, [(0, 0x9f), (0x150, 0x1000 - 0x50)]);
/// assert_eq!(map.lost_bytes(), 0xc00 + 0x5_0000);
/// # Ok::<(), page_frame::MapError>(())
/// ```
#[derive(Clone, Debug)]
pub struct MemoryMap<const N: usize> {
    regions: [Region; N],
    count: usize,
    limits: (u64, u64),
}

/// The first address that no frame number can name, on targets where that is within 64 bits.
const FRAME_LIMIT: u64 = match (usize::MAX as u64).checked_mul(PAGE_SIZE as u64) {
    Some(limit) => limit,
    None => u64::MAX,
};

impl<const N: usize> MemoryMap<N> {
    /// Makes a map of no regions.
    pub const fn new() -> Self {
        let nothing = Region { start: 0, end: 0, kind: RegionKind::Reserved };
        Self { regions: [nothing; N], count: 0, limits: (0, FRAME_LIMIT) }
    }

    /// Adds the region of `bytes` bytes from `start`. An empty region is taken and says nothing.
    ///
    /// # Errors
    /// [`MapError::WrapsAround`] and [`MapError::Full`]; the map is then as it was.
    pub fn add(&mut self, start: u64, bytes: u64, kind: RegionKind) -> Result<(), MapError> {
        let end = start.checked_add(bytes).ok_or(MapError::WrapsAround { start, bytes })?;
        self.add_range(start, end, kind)
    }

    /// Adds the region from `start` up to but without `end`.
    ///
    /// # Errors
    /// [`MapError::Reversed`] and [`MapError::Full`]; the map is then as it was.
    pub fn add_range(&mut self, start: u64, end: u64, kind: RegionKind) -> Result<(), MapError> {
        if end < start {
            return Err(MapError::Reversed { start, end });
        }
        if start == end {
            return Ok(());
        }
        let place = self.regions.get_mut(self.count).ok_or(MapError::Full { capacity: N })?;
        *place = Region { start, end, kind };
        self.count += 1;
        Ok(())
    }

    /// Gives up everything outside `start` to `end` (excluded); called again, what both calls leave remains.
    pub fn clip(&mut self, start: u64, end: u64) {
        self.limits = (self.limits.0.max(start), self.limits.1.min(end));
    }

    /// Takes `pages` pages aligned to `alignment` from the lowest run that has them, for use before there is an
    /// allocator: they become a reserved region.
    ///
    /// # Errors
    /// [`MapError::NoRoom`] and [`MapError::Full`]; the map is then as it was.
    pub fn carve(&mut self, pages: usize, alignment: Order) -> Result<FrameRange, MapError> {
        let mut longest = 0;
        let place = self.runs().find_map(|run| {
            longest = longest.max(run.frames());
            let start = run.start.checked_add(alignment.pages() - 1)?.align_down(alignment);
            let end = start.checked_add(pages)?;
            (end <= run.end).then_some(FrameRange::new(start, end))
        });
        let carved = place.ok_or(MapError::NoRoom { pages, longest })?;
        self.add_range(byte(carved.start), byte(carved.end), RegionKind::Reserved)?;
        Ok(carved)
    }

    /// Returns the regions as they were added, without empty ones.
    pub fn regions(&self) -> &[Region] {
        &self.regions[..self.count]
    }

    /// Iterates over the runs, lowest first.
    pub fn runs(&self) -> impl Iterator<Item = FrameRange> {
        self.stretches().map(|(start, end)| whole_frames(start, end)).filter(|run| !run.is_empty())
    }

    /// Iterates over the losses: first those at the edges of runs, then those inside regions.
    pub fn losses(&self) -> impl Iterator<Item = Loss> {
        let unaligned = |start, end| Loss { start, end, times: 1, why: LossReason::Unaligned };
        let edges = self.stretches().flat_map(move |(start, end)| {
            let run = whole_frames(start, end);
            let (first, last) = match run.is_empty() {
                true => (end, end),
                false => (byte(run.start), byte(run.end)),
            };
            [unaligned(start, first), unaligned(last, end)]
        });
        edges.chain(self.pieces().flat_map(Piece::losses)).filter(|loss| loss.bytes() > 0)
    }

    /// Returns the bytes of all runs.
    pub fn usable_bytes(&self) -> u64 {
        self.runs().map(|run| byte(run.end) - byte(run.start)).sum()
    }

    /// Returns the bytes of all losses; `u64::MAX` where repetitions make them more than that.
    pub fn lost_bytes(&self) -> u64 {
        self.losses().map(Loss::bytes).fold(0, u64::saturating_add)
    }

    /// Maximal ranges of bytes that are usable.
    fn stretches(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut pieces = self.pieces().filter(|piece| piece.is_usable()).peekable();
        core::iter::from_fn(move || {
            let first = pieces.next()?;
            let mut end = first.end;
            while let Some(next) = pieces.next_if(|next| next.start == end) {
                end = next.end;
            }
            Some((first.start, end))
        })
    }

    /// Ranges between neighbouring boundaries, ascending: inside one all bytes have the same regions.
    fn pieces(&self) -> impl Iterator<Item = Piece> {
        let mut next = Some(0);
        core::iter::from_fn(move || {
            let start = next?;
            let (low, high) = self.limits;
            let edges = self.regions().iter().flat_map(|region| [region.start, region.end]);
            let end = edges.chain([low, high]).filter(|edge| *edge > start).min();
            next = end;
            let end = end?;
            let here = self.regions().iter().filter(|r| r.start <= start && start < r.end);
            let usable = here.clone().filter(|region| region.kind == RegionKind::Usable).count();
            let kind = here.map(|region| region.kind).max();
            let clipped = start < low || start >= high;
            Some(Piece { start, end, kind, usable: usable as u64, clipped })
        })
    }
}

impl<const N: usize> Default for MemoryMap<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// A range whose bytes all have the same regions.
#[derive(Clone, Copy)]
struct Piece {
    start: u64,
    end: u64,
    /// The most restrictive kind, if any region is here.
    kind: Option<RegionKind>,
    /// How many regions call it usable.
    usable: u64,
    clipped: bool,
}

impl Piece {
    fn is_usable(&self) -> bool {
        self.kind == Some(RegionKind::Usable) && !self.clipped
    }

    fn losses(self) -> [Loss; 2] {
        let loss = |times, why| Loss { start: self.start, end: self.end, times, why };
        let repeated = loss(self.usable.saturating_sub(1), LossReason::Repeated);
        let claimed = self.usable.min(1);
        match self.kind {
            _ if self.clipped => [loss(claimed, LossReason::Clipped), repeated],
            Some(kind) if kind != RegionKind::Usable => {
                [loss(claimed, LossReason::Covered(kind)), repeated]
            }
            _ => [loss(0, LossReason::Repeated), repeated],
        }
    }
}

/// The frames that lie wholly inside the bytes from `start` to `end`.
fn whole_frames(start: u64, end: u64) -> FrameRange {
    let first = start.div_ceil(PAGE_SIZE as u64);
    let last = (end >> PAGE_SHIFT).max(first);
    let frame = |number: u64| FrameNumber::new(usize::try_from(number).unwrap_or(usize::MAX));
    FrameRange::new(frame(first), frame(last))
}

fn byte(frame: FrameNumber) -> u64 {
    (frame.get() as u64) << PAGE_SHIFT
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::RegionKind::{Bad, Reclaimable, Reserved, Usable};
    use super::*;
    use std::vec::Vec;

    const PAGE: u64 = PAGE_SIZE as u64;

    fn map(regions: &[(u64, u64, RegionKind)]) -> MemoryMap<16> {
        let mut map = MemoryMap::new();
        for &(start, end, kind) in regions {
            map.add_range(start, end, kind).expect("room for all");
        }
        map
    }

    fn runs(map: &MemoryMap<16>) -> Vec<(usize, usize)> {
        map.runs().map(|run| (run.start.get(), run.end.get())).collect()
    }

    fn assert_conserved(map: &MemoryMap<16>) {
        let usable = map.regions().iter().filter(|region| region.kind == Usable);
        let claimed: u64 = usable.map(|region| region.end - region.start).sum();
        assert_eq!(map.usable_bytes() + map.lost_bytes(), claimed, "I2 of {:?}", map.regions());
    }

    #[test]
    fn an_empty_map_has_nothing() {
        let map = MemoryMap::<0>::new();
        assert_eq!((map.runs().count(), map.losses().count()), (0, 0));
    }

    #[test]
    fn unsorted_touching_regions_become_one_run() {
        let map = map(&[(PAGE + 100, 3 * PAGE, Usable), (0, PAGE + 100, Usable)]);
        assert_eq!(runs(&map), [(0, 3)]);
        assert_eq!(map.losses().count(), 0);
    }

    #[test]
    fn the_most_restrictive_kind_holds_and_the_loss_names_it() {
        for kind in [Reclaimable, RegionKind::Persistent, Reserved, Bad] {
            let map = map(&[(2 * PAGE, 3 * PAGE, kind), (0, 8 * PAGE, Usable)]);
            assert_eq!(runs(&map), [(0, 2), (3, 8)]);
            let loss =
                Loss { start: 2 * PAGE, end: 3 * PAGE, times: 1, why: LossReason::Covered(kind) };
            assert_eq!(map.losses().collect::<Vec<_>>(), [loss]);
        }
    }

    #[test]
    fn a_reserved_byte_costs_its_whole_frame() {
        let map = map(&[(0, 8 * PAGE, Usable), (5 * PAGE + 7, 5 * PAGE + 8, Reserved)]);
        assert_eq!(runs(&map), [(0, 5), (6, 8)]);
        assert_eq!(map.lost_bytes(), PAGE);
        assert_conserved(&map);
    }

    #[test]
    fn a_region_smaller_than_a_frame_is_all_loss() {
        let map = map(&[(PAGE + 1, 2 * PAGE - 1, Usable)]);
        assert_eq!(runs(&map), []);
        assert_eq!(map.lost_bytes(), PAGE - 2);
    }

    #[test]
    fn bad_regions_are_typed_errors_and_change_nothing() {
        let mut map = MemoryMap::<1>::new();
        assert_eq!(map.add_range(5, 4, Usable), Err(MapError::Reversed { start: 5, end: 4 }));
        let wraps = MapError::WrapsAround { start: u64::MAX, bytes: 2 };
        assert_eq!(map.add(u64::MAX, 2, Usable), Err(wraps));
        assert_eq!(map.add(7, 0, Usable), Ok(()));
        assert!(map.regions().is_empty());
        map.add(0, PAGE, Usable).expect("room for one");
        assert_eq!(map.add(PAGE, PAGE, Usable), Err(MapError::Full { capacity: 1 }));
        assert_eq!(map.usable_bytes(), PAGE);
    }

    #[test]
    fn the_top_of_the_address_space_is_no_trap() {
        let map = map(&[(u64::MAX - 2 * PAGE, u64::MAX, Usable)]);
        assert_eq!(map.runs().map(FrameRange::frames).sum::<usize>(), 1);
        assert_conserved(&map);
    }

    #[test]
    fn repetitions_beyond_64_bits_are_counted_up_to_there() {
        let map = map(&[(0, u64::MAX, Usable); 3]);
        let repeated: Vec<_> =
            map.losses().filter(|loss| loss.why == LossReason::Repeated).collect();
        let loss = Loss { start: 0, end: u64::MAX, times: 2, why: LossReason::Repeated };
        assert_eq!(repeated, [loss]);
        assert_eq!((loss.bytes(), map.lost_bytes()), (u64::MAX, u64::MAX));
    }

    #[test]
    fn clipping_gives_up_both_ends() {
        let mut map = map(&[(0, 10 * PAGE, Usable)]);
        map.clip(2 * PAGE, 7 * PAGE);
        assert_eq!(runs(&map), [(2, 7)]);
        assert!(map.losses().all(|loss| loss.why == LossReason::Clipped));
        assert_conserved(&map);
    }

    #[test]
    fn carving_takes_the_lowest_place_that_is_aligned_and_long_enough() {
        let mut map = map(&[(PAGE, 3 * PAGE, Usable), (5 * PAGE, 20 * PAGE, Usable)]);
        let carved = map.carve(3, Order::new(2).expect("order 2 exists")).expect("there is room");
        assert_eq!((carved.start.get(), carved.end.get()), (8, 11));
        assert_eq!(runs(&map), [(1, 3), (5, 8), (11, 20)]);
        assert_eq!(map.carve(10, Order::ZERO), Err(MapError::NoRoom { pages: 10, longest: 9 }));
    }

    #[test]
    fn random_maps_lose_no_byte_and_hand_out_none_twice() {
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = move |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        let kinds = [Usable, Usable, Usable, Reclaimable, RegionKind::Persistent, Reserved, Bad];
        for _ in 0..2000 {
            let mut map = MemoryMap::<16>::new();
            for _ in 0..random(16) {
                let kind = kinds[random(kinds.len() as u64) as usize];
                map.add(random(40 * PAGE), random(12 * PAGE), kind).expect("room for 16");
            }
            assert_conserved(&map);
            let mut end = None;
            for run in map.runs() {
                assert!(!run.is_empty() && end.is_none_or(|end| end < run.start), "I1");
                end = Some(run.end);
                let (first, last) = (byte(run.start), byte(run.end));
                let is_restricted =
                    |r: &Region| r.kind != Usable && r.start < last && first < r.end;
                assert!(!map.regions().iter().any(is_restricted), "I1");
            }
        }
    }
}
