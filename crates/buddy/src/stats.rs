//! Statistics: free blocks by order and mobility, and how fragmented memory is. All of it looks at every area.
//!
//! # Sources
//! The two indices are those of Linux's memory compaction (Gorman 2010, `/sys/kernel/debug/extfrag`).

use page_frame::{Cpu, FrameNumber, Order};

use crate::bitmap::placement::Mobility;
use crate::{FramePool, Observe, blocks};

/// Free memory as a request of one order sees it.
///
/// ```
/// let shattered = buddy::Fragmentation { free_frames: 100, free_blocks: 100, fitting_blocks: 0, pages: 8 };
/// assert_eq!((shattered.unusable(), shattered.index()), (1000, Some(865)));
/// let enough = buddy::Fragmentation { fitting_blocks: 5, free_blocks: 60, ..shattered };
/// assert_eq!((enough.unusable(), enough.index()), (600, None));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragmentation {
    /// Free frames in all.
    pub free_frames: usize,
    /// Free blocks of any order.
    pub free_blocks: usize,
    /// How many blocks of the request's order the free blocks hold.
    pub fitting_blocks: usize,
    /// The request's size in pages.
    pub pages: usize,
}

impl Fragmentation {
    /// Returns how much of free memory the request cannot use, in thousandths: 0 when all of it, 1000 when nothing fits.
    pub const fn unusable(self) -> usize {
        if self.free_frames == 0 {
            return 1000;
        }
        (self.free_frames - self.fitting_blocks * self.pages) * 1000 / self.free_frames
    }

    /// Returns why the request fails, in thousandths: towards 0 for want of memory, towards 1000 because memory is in
    /// pieces. `None` when it does not fail.
    pub const fn index(self) -> Option<usize> {
        if self.fitting_blocks > 0 {
            return None;
        }
        if self.free_blocks == 0 {
            return Some(0);
        }
        let if_joined = (1000 + self.free_frames * 1000 / self.pages) / self.free_blocks;
        Some(1000_usize.saturating_sub(if_joined))
    }
}

impl<C: Cpu, O: Observe> FramePool<'_, C, O> {
    /// Returns how many frames there are, free or not. O(ranges).
    pub fn frames(&self) -> usize {
        self.zone.frames()
    }

    /// Returns how many frames are free, not counting those in CPU slots, nor those freed that are not home yet:
    /// [`drain`](Self::drain) brings both home.
    pub fn free_frames_count(&self) -> usize {
        self.free_counts()
            .iter()
            .zip(Order::all())
            .map(|(count, order)| count * order.pages())
            .sum()
    }

    /// Returns the number of free blocks of each order, as `/proc/buddyinfo` does.
    pub fn free_counts(&self) -> [usize; Order::COUNT] {
        let mut counts = [0; Order::COUNT];
        blocks::free_blocks(&self.zone).for_each(|(_, order)| counts[order.index()] += 1);
        counts
    }

    /// Returns the number of free blocks of each mobility and order, as `/proc/pagetypeinfo` does. A block counts for the
    /// mobility that its first area was last used for; blocks in areas never used count as unmovable.
    pub fn free_counts_by_mobility(&self) -> [[usize; Order::COUNT]; 3] {
        let mut counts = [[0; Order::COUNT]; 3];
        for (start, order) in blocks::free_blocks(&self.zone) {
            counts[self.zone.mobility(start) as usize][order.index()] += 1;
        }
        counts
    }

    /// Returns how a request of `order` sees free memory.
    pub fn fragmentation(&self, order: Order) -> Fragmentation {
        let none = Fragmentation {
            free_frames: 0,
            free_blocks: 0,
            fitting_blocks: 0,
            pages: order.pages(),
        };
        blocks::free_blocks(&self.zone).fold(none, |sum, (_, found)| Fragmentation {
            free_frames: sum.free_frames + found.pages(),
            free_blocks: sum.free_blocks + 1,
            fitting_blocks: sum.fitting_blocks + found.pages() / order.pages(),
            ..sum
        })
    }

    /// Returns the order of the largest free block, if any is free.
    pub fn largest_free(&self) -> Option<Order> {
        blocks::free_blocks(&self.zone).map(|(_, order)| order).max()
    }

    /// Returns the mobility that the area of `frame` was last used for; unmovable where it never was, or is not ours.
    pub fn mobility_at(&self, frame: FrameNumber) -> Mobility {
        self.zone.mobility(frame)
    }

    /// Iterates over all blocks, free or not, lowest first.
    pub fn blocks(&self) -> impl Iterator<Item = blocks::Block> {
        let mapped = |frame| (self.frame_tag(frame), self.run_pages(frame).unwrap_or(0));
        blocks::blocks(&self.zone, mapped)
    }

    /// Iterates over the free blocks, lowest first.
    pub fn free_blocks(&self) -> impl Iterator<Item = (FrameNumber, Order)> {
        blocks::free_blocks(&self.zone)
    }
}

/// The mobility that the area of a frame was last used for.
impl crate::bitmap::Zone<'_> {
    fn mobility(&self, frame: FrameNumber) -> Mobility {
        self.place(frame)
            .map_or(Mobility::default(), |(at, section)| section.kind(at.area).mobility())
    }
}
