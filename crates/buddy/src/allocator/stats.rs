//! Statistics: free blocks by order and mobility, and fragmentation. All methods of [`FramePool`]
//! here look at every area, except for `frames` and `mobility_at`.
//!
//! # Sources
//! The two indices are those of Linux's memory compaction (Gorman 2010,
//! `/sys/kernel/debug/extfrag`).

use page_frame::{Cpu, FrameNumber, Order};

use crate::allocator::frame_pool::FramePool;
use crate::bitmap::placement::Mobility;
use crate::frames::blocks::{self, Block};
use crate::trace::Trace;

/// Free memory as a request of one order sees it.
///
/// ```
/// use buddy::Fragmentation;
/// let shattered =
///     Fragmentation { free_frames: 100, free_blocks: 100, fitting_blocks: 0, pages: 8 };
/// assert_eq!((shattered.unusable(), shattered.index()), (1000, Some(865)));
/// let enough = Fragmentation { fitting_blocks: 5, free_blocks: 60, ..shattered };
/// assert_eq!((enough.unusable(), enough.index()), (600, None));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragmentation {
    /// Number of free frames.
    pub free_frames: usize,
    /// Number of free blocks of any order.
    pub free_blocks: usize,
    /// Number of blocks of the request's order that the free blocks hold.
    pub fitting_blocks: usize,
    /// The request's size in pages.
    pub pages: usize,
}

impl Fragmentation {
    /// Returns the part of free memory that the request cannot use, in thousandths: 0 if it can use
    /// all, 1000 if no block fits. Example: see [`Fragmentation`].
    pub const fn unusable(self) -> usize {
        if self.free_frames == 0 {
            return 1000;
        }
        (self.free_frames - self.fitting_blocks * self.pages) * 1000 / self.free_frames
    }

    /// Returns the reason why the request fails, in thousandths: near 0 memory is short, near 1000
    /// memory is fragmented. `None` if it does not fail. Example: see [`Fragmentation`].
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

impl<C: Cpu, T: Trace, const CHECKED: bool> FramePool<'_, C, T, CHECKED> {
    /// Returns the number of frames, free or not. O(ranges). Example: see [`FramePool`].
    pub fn frames(&self) -> usize {
        self.frames.bitmap().table().frames()
    }

    /// Returns the number of free frames. Frames in CPU slots and deferred frees do not count;
    /// [`drain`](Self::drain) makes both of them free. O(frames), no lock.
    /// Example: see [`FramePool`].
    pub fn free_frames_count(&self) -> usize {
        self.free_counts()
            .iter()
            .zip(Order::all())
            .map(|(count, order)| count * order.pages())
            .sum()
    }

    /// Returns the number of free blocks of each order, as `/proc/buddyinfo` does. O(frames), no
    /// lock. Example: see [`FramePool`].
    pub fn free_counts(&self) -> [usize; Order::COUNT] {
        let mut counts = [0; Order::COUNT];
        self.free_blocks().for_each(|(_, order)| counts[order.index()] += 1);
        counts
    }

    /// Returns the number of free blocks of each mobility and order, as `/proc/pagetypeinfo` does.
    /// A block counts for the mobility that its first area was last used for. Blocks in unused
    /// areas count as unmovable. O(frames), no lock. Example: see [`Mobility`].
    pub fn free_counts_by_mobility(&self) -> [[usize; Order::COUNT]; 3] {
        let mut counts = [[0; Order::COUNT]; 3];
        for (start, order) in self.free_blocks() {
            counts[self.mobility_at(start) as usize][order.index()] += 1;
        }
        counts
    }

    /// Returns the free memory as a request of `order` sees it. O(frames), no lock.
    /// Example: see [`FramePool`].
    pub fn fragmentation(&self, order: Order) -> Fragmentation {
        let none = Fragmentation {
            free_frames: 0,
            free_blocks: 0,
            fitting_blocks: 0,
            pages: order.pages(),
        };
        self.free_blocks().fold(none, |sum, (_, found)| Fragmentation {
            free_frames: sum.free_frames + found.pages(),
            free_blocks: sum.free_blocks + 1,
            fitting_blocks: sum.fitting_blocks + found.pages() / order.pages(),
            ..sum
        })
    }

    /// Returns the order of the largest free block, if there is a free block. O(frames), no lock.
    /// Example: see [`FramePool`].
    pub fn largest_free(&self) -> Option<Order> {
        self.free_blocks().map(|(_, order)| order).max()
    }

    /// Returns the mobility that the area of `frame` was last used for; unmovable for an unused
    /// area, and for a frame outside the allocator. O(1), no lock. Example: see [`Mobility`].
    pub fn mobility_at(&self, frame: FrameNumber) -> Mobility {
        self.frames.bitmap().mobility(frame)
    }

    /// Iterates over all blocks, free or not, lowest first. O(frames) for all of them, no lock.
    /// Example: see [`Block`].
    pub fn blocks(&self) -> impl Iterator<Item = Block> {
        blocks::blocks(self.frames.bitmap(), self.frames.tags())
    }

    /// Iterates over the free blocks, lowest first. O(frames) for all of them, no lock.
    /// Example: see [`FramePool`].
    pub fn free_blocks(&self) -> impl Iterator<Item = (FrameNumber, Order)> {
        blocks::free_blocks(self.frames.bitmap())
    }
}
