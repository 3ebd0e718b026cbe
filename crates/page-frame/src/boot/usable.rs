//! The usable part of a set of regions: runs of whole usable frames, and the usable bytes that are
//! in no run.
//!
//! # Costs
//! The regions are not sorted. Each step searches all n regions for the next boundary, so iterating
//! over all runs is O(n²) and needs no further memory. n is a few dozen, and this runs once per
//! boot.

use crate::boot::region::{Region, RegionKind};
use crate::frame::{FrameNumber, FrameRange};
use crate::order::{PAGE_SHIFT, PAGE_SIZE};

/// Why bytes that a region calls usable are in no run.
///
/// ```
/// use page_frame::{LossReason, MemoryMap, RegionKind};
/// let mut map = MemoryMap::<3>::new();
/// map.add(0, 0x4000, RegionKind::Usable)?;
/// map.add(0x1000, 0x1000, RegionKind::Usable)?; // once more
/// map.add(0x2000, 0x1000, RegionKind::Reserved)?;
/// map.clip(0x1000, u64::MAX);
/// let reasons: Vec<_> = map.losses().map(|loss| (loss.start, loss.reason)).collect();
/// assert_eq!(reasons, [
///     (0x0, LossReason::Clipped),
///     (0x1000, LossReason::Repeated),
///     (0x2000, LossReason::Covered(RegionKind::Reserved)),
/// ]);
/// # Ok::<(), page_frame::MapError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossReason {
    /// They share a frame with bytes that are not usable.
    Unaligned,
    /// Another region says that they are of this kind.
    Covered(RegionKind),
    /// Another region has called them usable already: nothing is really lost.
    Repeated,
    /// They lie outside the limits set by [`MemoryMap::clip`](crate::MemoryMap::clip), or beyond
    /// what a frame number can name.
    Clipped,
}

/// Bytes that a region calls usable and that are in no run, `end` excluded.
///
/// ```
/// use page_frame::{LossReason, MemoryMap, RegionKind};
/// let mut map = MemoryMap::<1>::new();
/// map.add(0, 4096 + 7, RegionKind::Usable)?;
/// let loss = map.losses().next().unwrap();
/// assert_eq!((loss.start, loss.bytes(), loss.reason), (4096, 7, LossReason::Unaligned));
/// # Ok::<(), page_frame::MapError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The first byte's physical address.
    pub start: u64,
    /// The address after the last byte.
    pub end: u64,
    /// How often they are lost: once, or for [`LossReason::Repeated`] once per repetition.
    pub times: u64,
    /// Why they are in no run.
    pub reason: LossReason,
}

impl Loss {
    /// Returns the bytes lost, all repetitions counted; `u64::MAX` where they are more than that.
    /// Example: see [`Loss`].
    pub const fn bytes(self) -> u64 {
        (self.end - self.start).saturating_mul(self.times)
    }
}

/// Regions, and the addresses that they are clipped to.
#[derive(Clone, Copy)]
pub(super) struct Clipped<'r> {
    pub(super) regions: &'r [Region],
    /// The first address inside, and the first one above.
    pub(super) limits: (u64, u64),
}

impl<'r> Clipped<'r> {
    /// Iterates over the runs, lowest first.
    pub(super) fn runs(self) -> impl Iterator<Item = FrameRange> + use<'r> {
        self.usable_bytes()
            .map(|(start, end)| whole_frames(start, end))
            .filter(|run| !run.is_empty())
    }

    /// Iterates over the losses: first those at the edges of runs, then those inside regions.
    pub(super) fn losses(self) -> impl Iterator<Item = Loss> + use<'r> {
        let unaligned = |start, end| Loss { start, end, times: 1, reason: LossReason::Unaligned };
        let edges = self.usable_bytes().flat_map(move |(start, end)| {
            let run = whole_frames(start, end);
            let (first, last) = match run.is_empty() {
                true => (end, end),
                false => (first_byte(run.start), first_byte(run.end)),
            };
            [unaligned(start, first), unaligned(last, end)]
        });
        edges.chain(self.intervals().flat_map(Interval::losses)).filter(|loss| loss.bytes() > 0)
    }

    /// Iterates over the maximal ranges of usable bytes, lowest first.
    fn usable_bytes(self) -> impl Iterator<Item = (u64, u64)> + use<'r> {
        let mut intervals = self.intervals().filter(Interval::is_usable).peekable();
        core::iter::from_fn(move || {
            let first = intervals.next()?;
            let mut end = first.end;
            while let Some(next) = intervals.next_if(|next| next.start == end) {
                end = next.end;
            }
            Some((first.start, end))
        })
    }

    /// Iterates over the ranges between neighbouring boundaries of regions and limits, lowest
    /// first.
    fn intervals(self) -> impl Iterator<Item = Interval> + use<'r> {
        let mut next = Some(0);
        core::iter::from_fn(move || {
            let start = next?;
            let (low, high) = self.limits;
            let edges = self.regions.iter().flat_map(|region| [region.start, region.end]);
            let end = edges.chain([low, high]).filter(|edge| *edge > start).min();
            next = end;
            let end = end?;
            let here = self.regions.iter().filter(|r| r.start <= start && start < r.end);
            let usable = here.clone().filter(|region| region.kind == RegionKind::Usable).count();
            let kind = here.map(|region| region.kind).max();
            let clipped = start < low || start >= high;
            Some(Interval { start, end, kind, usable: usable as u64, clipped })
        })
    }
}

/// A range of bytes that all lie in the same regions.
#[derive(Clone, Copy)]
struct Interval {
    start: u64,
    end: u64,
    /// The most restrictive kind of its regions; `None` where it lies in no region.
    kind: Option<RegionKind>,
    /// How many regions call it usable.
    usable: u64,
    clipped: bool,
}

impl Interval {
    fn is_usable(&self) -> bool {
        self.kind == Some(RegionKind::Usable) && !self.clipped
    }

    fn losses(self) -> [Loss; 2] {
        let loss = |times, reason| Loss { start: self.start, end: self.end, times, reason };
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

/// Returns the frames that lie wholly inside the bytes from `start` to `end`.
fn whole_frames(start: u64, end: u64) -> FrameRange {
    let first = start.div_ceil(PAGE_SIZE as u64);
    let last = (end >> PAGE_SHIFT).max(first);
    let frame = |number: u64| FrameNumber::new(usize::try_from(number).unwrap_or(usize::MAX));
    FrameRange::new(frame(first), frame(last))
}

/// Returns the physical address of the first byte of `frame`.
pub(super) fn first_byte(frame: FrameNumber) -> u64 {
    (frame.get() as u64) << PAGE_SHIFT
}
