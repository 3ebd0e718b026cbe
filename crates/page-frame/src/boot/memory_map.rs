//! The memory map: collects boot regions, returns usable page-aligned runs, and reports every byte
//! that is lost.
//!
//! # Concepts
//! - A **region** is a range of physical addresses with a kind, as firmware or a boot loader
//!   reports it. Regions may be unsorted, overlapping, unaligned or empty. The map stores them
//!   unchanged and needs no heap.
//! - Where regions overlap, the most restrictive kind wins ([`RegionKind`] is in that order): a
//!   reservation inside usable memory is a reservation.
//! - A **run** is a maximal range of whole frames that are usable.
//! - A **loss** is a range that some region calls usable and that is in no run, with the reason.
//!
//! # Invariants
//! - I1: runs are disjoint, ascending, not empty, not adjacent, and touch no byte of another kind.
//! - I2: the bytes of all usable regions are the bytes of the runs plus the bytes of the losses (a
//!   byte that n regions call usable is lost n - 1 times as
//!   [`LossReason::Repeated`](crate::LossReason::Repeated)).

use core::fmt;

use crate::boot::region::{Region, RegionKind};
use crate::boot::usable::{Clipped, Loss, first_byte};
use crate::frame::FrameRange;
use crate::order::{Order, PAGE_SIZE};

/// Why a region was not added to a map, or why nothing could be carved from the map.
///
/// ```
/// use page_frame::{MapError, MemoryMap, Order, RegionKind::Usable};
/// let mut map = MemoryMap::<1>::new();
/// assert!(matches!(map.add(u64::MAX, 2, Usable), Err(MapError::WrapsAround { bytes: 2, .. })));
/// assert!(matches!(map.add_range(9, 7, Usable), Err(MapError::Reversed { start: 9, end: 7 })));
/// map.add(0, 8192, Usable)?;
/// assert_eq!(map.add(8192, 8192, Usable), Err(MapError::Full { capacity: 1 }));
/// assert_eq!(map.carve(3, Order::ZERO), Err(MapError::NoRoom { pages: 3, longest: 2 }));
/// # Ok::<(), MapError>(())
/// ```
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
/// use page_frame::{MemoryMap, Order, RegionKind};
/// let mut map = MemoryMap::<8>::new();
/// map.add(0x0, 0x9_fc00, RegionKind::Usable)?; // start and bytes
/// map.add_range(0x10_0000, 0x110_0000, RegionKind::Usable)?; // start and end
/// map.add(0x10_0000, 0x5_0000, RegionKind::Reserved)?; // the kernel's image
/// assert_eq!(map.regions().len(), 3);
/// let frames: Vec<_> = map.runs().map(|run| (run.start.get(), run.frames())).collect();
/// assert_eq!(frames, [(0, 0x9f), (0x150, 0x1000 - 0x50)]);
/// assert_eq!((map.usable_bytes(), map.lost_bytes()), (0x104_f000, 0x5_0c00));
/// assert!(map.losses().any(|loss| loss.start == 0x9_f000 && loss.bytes() == 0xc00));
///
/// map.clip(0x1000, u64::MAX); // leave frame 0 alone
/// let tables = map.carve(3, Order::new(2).unwrap())?; // before there is an allocator
/// assert_eq!((tables.start.get(), tables.frames()), (4, 3));
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
    /// Makes a map of no regions. Example: see [`MemoryMap`].
    pub const fn new() -> Self {
        let nothing = Region { start: 0, end: 0, kind: RegionKind::Reserved };
        Self { regions: [nothing; N], count: 0, limits: (0, FRAME_LIMIT) }
    }

    /// Adds the region of `bytes` bytes from `start`. An empty region changes nothing. A region up
    /// to the last address of 64 bits loses its last frame, whose end is no address.
    /// Example: see [`MemoryMap`].
    ///
    /// # Errors
    /// [`MapError::WrapsAround`] and [`MapError::Full`]; the map is then unchanged.
    pub fn add(&mut self, start: u64, bytes: u64, kind: RegionKind) -> Result<(), MapError> {
        let end = match start.checked_add(bytes) {
            Some(end) => end,
            // The last byte is the last address. Its frame has no end, so it is never usable.
            None if start.wrapping_add(bytes) == 0 => u64::MAX,
            None => return Err(MapError::WrapsAround { start, bytes }),
        };
        self.add_range(start, end, kind)
    }

    /// Adds the region from `start` up to but without `end`. Example: see [`MemoryMap`].
    ///
    /// # Errors
    /// [`MapError::Reversed`] and [`MapError::Full`]; the map is then unchanged.
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

    /// Excludes all addresses outside `start` to `end` (excluded). A second call narrows the limits
    /// of the first. Example: see [`MemoryMap`].
    pub fn clip(&mut self, start: u64, end: u64) {
        self.limits = (self.limits.0.max(start), self.limits.1.min(end));
    }

    /// Reserves `pages` pages, aligned to `alignment`, in the lowest run that has room for them:
    /// memory for use before there is an allocator. O(n²) for n regions.
    /// Example: see [`MemoryMap`].
    ///
    /// # Errors
    /// [`MapError::NoRoom`] and [`MapError::Full`]; the map is then unchanged.
    pub fn carve(&mut self, pages: usize, alignment: Order) -> Result<FrameRange, MapError> {
        let mut longest = 0;
        let place = self.runs().find_map(|run| {
            longest = longest.max(run.frames());
            let start = run.start.checked_add(alignment.pages() - 1)?.align_down(alignment);
            let end = start.checked_add(pages)?;
            (end <= run.end).then_some(FrameRange::new(start, end))
        });
        let carved = place.ok_or(MapError::NoRoom { pages, longest })?;
        self.add_range(first_byte(carved.start), first_byte(carved.end), RegionKind::Reserved)?;
        Ok(carved)
    }

    /// Returns the regions as they were added, without empty ones. Example: see [`MemoryMap`].
    pub fn regions(&self) -> &[Region] {
        &self.regions[..self.count]
    }

    /// Iterates over the runs, lowest first. O(n²) for n regions, as they are not sorted.
    /// Example: see [`MemoryMap`].
    pub fn runs(&self) -> impl Iterator<Item = FrameRange> {
        self.clipped().runs()
    }

    /// Iterates over the losses: first those at the edges of runs, then those inside regions.
    /// O(n²) for n regions. Example: see [`MemoryMap`].
    pub fn losses(&self) -> impl Iterator<Item = Loss> {
        self.clipped().losses()
    }

    /// Returns the bytes of all runs. O(n²) for n regions. Example: see [`MemoryMap`].
    pub fn usable_bytes(&self) -> u64 {
        self.runs().map(|run| first_byte(run.end) - first_byte(run.start)).sum()
    }

    /// Returns the bytes of all losses; `u64::MAX` where repetitions make them more than that.
    /// O(n²) for n regions. Example: see [`MemoryMap`].
    pub fn lost_bytes(&self) -> u64 {
        self.losses().map(Loss::bytes).fold(0, u64::saturating_add)
    }

    fn clipped(&self) -> Clipped<'_> {
        Clipped { regions: self.regions(), limits: self.limits }
    }
}

impl<const N: usize> Default for MemoryMap<N> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::RegionKind::{Bad, Reclaimable, Reserved, Usable};
    use super::*;
    use crate::boot::usable::LossReason;
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
            let loss = Loss {
                start: 2 * PAGE,
                end: 3 * PAGE,
                times: 1,
                reason: LossReason::Covered(kind),
            };
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

    /// Firmware reports such a region as start and size.
    ///
    /// Mutation that it catches: `add` that refuses each sum beyond 64 bits (the region is lost).
    #[test]
    fn a_region_up_to_the_last_address_loses_its_last_frame_only() {
        let mut map = MemoryMap::<16>::new();
        let start = u64::MAX - 8 * PAGE + 1;
        map.add(start, 8 * PAGE, Usable).expect("no byte lies beyond the last address");
        map.add(u64::MAX - PAGE + 1, PAGE + 1, Usable).expect_err("one byte does");
        let last = (u64::MAX >> PAGE.ilog2()) as usize;
        assert_eq!(runs(&map), [(last - 7, last)]);
        let lost: Vec<_> = map.losses().map(|loss| (loss.bytes(), loss.reason)).collect();
        assert_eq!(lost, [(PAGE - 1, LossReason::Unaligned)]);
        assert_conserved(&map);
        let carved = map.carve(7, Order::ZERO).expect("all of them");
        assert_eq!((carved.start.get(), carved.end.get()), (last - 7, last));
        assert_eq!(map.carve(1, Order::MAX), Err(MapError::NoRoom { pages: 1, longest: 0 }));
    }

    /// Mutation that it catches: `carve` that adds the alignment without a test for overflow.
    #[test]
    fn absurd_requests_are_refused_at_once() {
        let mut map = map(&[(0, u64::MAX, Usable)]);
        let longest = map.runs().map(FrameRange::frames).max().expect("one run");
        for pages in [usize::MAX / 8 + 1, usize::MAX, longest + 1] {
            for alignment in [Order::ZERO, Order::MAX] {
                assert_eq!(map.carve(pages, alignment), Err(MapError::NoRoom { pages, longest }));
            }
        }
        assert!(map.carve(longest, Order::MAX).is_ok());
        assert_eq!(map.usable_bytes(), 0);
    }

    #[test]
    fn repetitions_beyond_64_bits_are_counted_up_to_there() {
        let map = map(&[(0, u64::MAX, Usable); 3]);
        let repeated: Vec<_> =
            map.losses().filter(|loss| loss.reason == LossReason::Repeated).collect();
        let loss = Loss { start: 0, end: u64::MAX, times: 2, reason: LossReason::Repeated };
        assert_eq!(repeated, [loss]);
        assert_eq!((loss.bytes(), map.lost_bytes()), (u64::MAX, u64::MAX));
    }

    #[test]
    fn clipping_gives_up_both_ends() {
        let mut map = map(&[(0, 10 * PAGE, Usable)]);
        map.clip(2 * PAGE, 7 * PAGE);
        assert_eq!(runs(&map), [(2, 7)]);
        assert!(map.losses().all(|loss| loss.reason == LossReason::Clipped));
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
                let (first, last) = (first_byte(run.start), first_byte(run.end));
                let is_restricted =
                    |r: &Region| r.kind != Usable && r.start < last && first < r.end;
                assert!(!map.regions().iter().any(is_restricted), "I1");
            }
        }
    }
}
