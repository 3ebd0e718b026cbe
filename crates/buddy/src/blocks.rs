//! Looking inside: blocks in address order, for pictures, statistics and checks.
//!
//! Everything is derived from the bits; nothing is kept for it. While others allocate, each area is seen at some moment
//! of its own.

use page_frame::{FrameNumber, FrameRange, Order, Tag};

use crate::bitmap::Zone;

/// What the frames of a [`Block`] are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockState {
    /// A maximal free block.
    Free,
    /// Allocated as one block, or as one run of pages.
    Allocated,
    /// Taken without a head of its own: kept by a CPU slot, freed but not home yet, a part of a slab, or without owner in a
    /// simulation.
    Kept,
}

/// Consecutive frames with one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The first frame.
    pub start: FrameNumber,
    /// How many frames.
    pub frames: usize,
    /// What they are.
    pub state: BlockState,
}

/// Iterates over the free canonical blocks, lowest first.
pub(crate) fn free_blocks(zone: &Zone<'_>) -> impl Iterator<Item = (FrameNumber, Order)> {
    zone.ranges().flat_map(move |range| {
        let mut next = range;
        core::iter::from_fn(move || {
            while !next.is_empty() {
                let start = next.start;
                let Some(order) = free_order(zone, start, next.end) else {
                    next.start = FrameNumber::new(start.get() + 1);
                    continue;
                };
                next.start = FrameNumber::new(start.get() + order.pages());
                return Some((start, order));
            }
            None
        })
    })
}

/// Returns the order of the largest free block that starts at `start` and ends by `end`.
fn free_order(zone: &Zone<'_>, start: FrameNumber, end: FrameNumber) -> Option<Order> {
    let fits =
        |order: &Order| start.is_aligned_to(*order) && start.get() + order.pages() <= end.get();
    Order::all().take_while(|order| fits(order) && zone.is_free(start, *order)).last()
}

/// Iterates over all blocks, lowest first; `mapped` gives the tag of a frame, and the page count of the run that begins there.
pub(crate) fn blocks(
    zone: &Zone<'_>,
    mapped: impl Fn(FrameNumber) -> (Tag, usize) + Copy,
) -> impl Iterator<Item = Block> {
    zone.ranges().flat_map(move |range| {
        let mut next: FrameRange = range;
        core::iter::from_fn(move || {
            let (start, end) = (next.start, next.end);
            if next.is_empty() {
                return None;
            }
            let (frames, state) = match free_order(zone, start, end) {
                Some(order) => (order.pages(), BlockState::Free),
                None => match mapped(start) {
                    (tag, pages) if tag == Tag::RUN => (pages.max(1), BlockState::Allocated),
                    (tag, _) => match tag.as_block() {
                        Some(order) => (order.pages(), BlockState::Allocated),
                        None => (1, BlockState::Kept),
                    },
                },
            };
            next.start = FrameNumber::new(start.get() + frames);
            Some(Block { start, frames, state })
        })
    })
}
