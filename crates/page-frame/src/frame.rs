//! Frame numbers and ranges of frames.

use core::fmt;

use crate::order::{Order, PAGE_SHIFT, PAGE_SIZE};

/// The number of a page frame: its physical address divided by the page size.
///
/// ```
/// use page_frame::{FrameNumber, Order};
/// let frame = FrameNumber::containing(0xc123); // a physical address in bytes
/// assert_eq!((frame, frame.address()), (FrameNumber::new(12), Some(0xc000)));
/// assert_eq!(frame.checked_add(3).map(FrameNumber::get), Some(15));
/// assert_eq!(FrameNumber::new(usize::MAX).checked_add(1), None);
/// let order = Order::new(2).unwrap();
/// assert!(frame.is_aligned_to(order));
/// assert_eq!(FrameNumber::new(14).align_down(order), frame);
/// assert_eq!(frame.buddy(order), FrameNumber::new(8));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameNumber(usize);

impl FrameNumber {
    /// Returns frame number `number`. Example: see [`FrameNumber`].
    #[inline]
    pub const fn new(number: usize) -> Self {
        Self(number)
    }

    /// Returns the frame that the physical address `address` (bytes) lies in.
    /// Example: see [`FrameNumber`].
    #[inline]
    pub const fn containing(address: usize) -> Self {
        Self(address >> PAGE_SHIFT)
    }

    /// Returns the number. Example: see [`FrameNumber`].
    #[inline]
    pub const fn get(self) -> usize {
        self.0
    }

    /// Returns the physical address of the frame's first byte, or `None` where that does not fit
    /// `usize`. Example: see [`FrameNumber`].
    pub const fn address(self) -> Option<usize> {
        self.0.checked_mul(PAGE_SIZE)
    }

    /// Returns the frame `frames` above, or `None` where the number would overflow.
    /// Example: see [`FrameNumber`].
    pub const fn checked_add(self, frames: usize) -> Option<Self> {
        match self.0.checked_add(frames) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// Whether a block of `order` may start here. Example: see [`FrameNumber`].
    #[inline]
    pub const fn is_aligned_to(self, order: Order) -> bool {
        self.0 & (order.pages() - 1) == 0
    }

    /// Returns the start of the block of `order` that this frame lies in.
    /// Example: see [`FrameNumber`].
    #[inline]
    pub const fn align_down(self, order: Order) -> Self {
        Self(self.0 & !(order.pages() - 1))
    }

    /// Returns the start of the buddy of the block of `order` that starts here: the other half of
    /// the block of the next larger order (Knuth, TAOCP 1, section 2.5).
    /// Example: see [`FrameNumber`].
    #[inline]
    pub const fn buddy(self, order: Order) -> Self {
        Self(self.0 ^ order.pages())
    }
}

impl fmt::Display for FrameNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frame {:#x}", self.0)
    }
}

/// Consecutive frames, from `start` up to but without `end`.
///
/// ```
/// use page_frame::{FrameNumber, FrameRange};
/// let range = FrameRange::new(FrameNumber::new(3), FrameNumber::new(9));
/// assert_eq!((range.frames(), range.is_empty()), (6, false));
/// assert!(range.contains(range.start) && !range.contains(range.end));
/// let upper = range.intersection(FrameRange::new(FrameNumber::new(7), FrameNumber::new(20)));
/// assert_eq!((upper.start.get(), upper.end.get()), (7, 9));
/// let blocks = range.blocks().map(|(start, order)| (start.get(), order.pages()));
/// assert_eq!(blocks.collect::<Vec<_>>(), [(3, 1), (4, 4), (8, 1)]);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FrameRange {
    /// The first frame.
    pub start: FrameNumber,
    /// The frame after the last.
    pub end: FrameNumber,
}

impl FrameRange {
    /// Returns the frames from `start` up to but without `end`; empty when `end` is not above
    /// `start`. Example: see [`FrameRange`].
    pub const fn new(start: FrameNumber, end: FrameNumber) -> Self {
        Self { start, end }
    }

    /// Returns the number of frames. Example: see [`FrameRange`].
    pub const fn frames(self) -> usize {
        self.end.0.saturating_sub(self.start.0)
    }

    /// Whether the range is empty. Example: see [`FrameRange`].
    pub const fn is_empty(self) -> bool {
        self.frames() == 0
    }

    /// Whether `frame` lies in the range. Example: see [`FrameRange`].
    #[inline]
    pub const fn contains(self, frame: FrameNumber) -> bool {
        self.start.0 <= frame.0 && frame.0 < self.end.0
    }

    /// Returns the frames that lie in both ranges. Example: see [`FrameRange`].
    pub fn intersection(self, other: Self) -> Self {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// Iterates over the fewest aligned blocks that cover the range, lowest first.
    /// Example: see [`FrameRange`].
    pub fn blocks(self) -> impl Iterator<Item = (FrameNumber, Order)> {
        let mut rest = self;
        core::iter::from_fn(move || {
            let frames = rest.frames();
            if frames == 0 {
                return None;
            }
            let start = rest.start;
            let by_alignment = if start.0 == 0 { u32::MAX } else { start.0.trailing_zeros() };
            let order = by_alignment.min(frames.ilog2()).min(Order::MAX.get() as u32) as u8;
            let order = Order::new(order).expect("at most Order::MAX by the line above");
            rest.start = FrameNumber(start.0 + order.pages());
            Some((start, order))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: usize, end: usize) -> FrameRange {
        FrameRange::new(FrameNumber::new(start), FrameNumber::new(end))
    }

    #[test]
    fn blocks_cover_the_range_aligned_and_in_order() {
        for start in 0..40 {
            for end in start..70 {
                let mut next = start;
                for (frame, order) in range(start, end).blocks() {
                    assert_eq!(frame.get(), next);
                    assert!(frame.is_aligned_to(order));
                    next += order.pages();
                }
                assert_eq!(next, end);
            }
        }
    }

    /// Mutation that it catches: `<` and `<=` exchanged in `contains`, and `&&` replaced by `||`.
    #[test]
    fn a_range_has_its_first_frame_and_not_its_end() {
        for (start, end) in [(3, 9), (0, 1), (usize::MAX - 1, usize::MAX), (5, 5), (7, 2)] {
            let range = range(start, end);
            for frame in (0..12).chain(usize::MAX - 2..=usize::MAX) {
                let is_inside = (start..end).contains(&frame);
                assert_eq!(range.contains(FrameNumber::new(frame)), is_inside, "{frame} {range:?}");
            }
        }
    }

    #[test]
    fn a_frame_beyond_the_last_address_has_none() {
        let last = usize::MAX >> PAGE_SHIFT;
        assert_eq!(FrameNumber::new(last).address(), Some(last << PAGE_SHIFT));
        assert_eq!(FrameNumber::new(last + 1).address(), None);
        assert_eq!(FrameNumber::new(usize::MAX).checked_add(1), None);
        assert_eq!(FrameNumber::containing(usize::MAX).get(), last);
    }

    /// Blocks reach the last frame number, and no sum of frames wraps around.
    #[test]
    fn blocks_end_at_the_last_frame_number() {
        let range = range(usize::MAX - 5, usize::MAX);
        let blocks = range.blocks().map(|(start, order)| (usize::MAX - start.get(), order.pages()));
        let expected = [(5, 2), (3, 2), (1, 1)];
        assert!(blocks.eq(expected));
    }

    #[test]
    fn a_reversed_range_is_empty() {
        assert!(range(5, 3).is_empty());
        assert_eq!(range(5, 3).blocks().count(), 0);
    }

    #[test]
    fn a_buddy_is_its_buddys_buddy() {
        for order in Order::all() {
            let frame = FrameNumber::new(7 * order.pages());
            assert_eq!(frame.buddy(order).buddy(order), frame);
        }
    }
}
