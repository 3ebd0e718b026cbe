//! Iteration over blocks in address order, for pictures, statistics and checks.
//!
//! The iterators derive everything from the bits and the tags. While other CPUs allocate, they read
//! each area at a different moment.

use page_frame::{FrameNumber, Order, Tag};

use crate::bitmap::Bitmap;
use crate::bitmap::bits::WORD_BITS;
use crate::frames::tags::Tags;

/// The state of the frames of a [`Block`].
///
/// ```
/// use buddy::{BlockState, FrameAllocator, Mode, ZeroedMemory};
/// use page_frame::{FrameNumber, FrameRange, Order, SingleCpu};
/// # let mut memory = vec![std::mem::MaybeUninit::uninit(); 1 << 16];
/// # let memory = ZeroedMemory::zero(&mut memory);
/// # let range = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(16))];
/// # let frames = FrameAllocator::new_in(memory, &range, SingleCpu::new(), Mode::Plain)?;
/// frames.allocate_frames(Order::new(2).unwrap())?;
/// let picture = frames.blocks().map(|block| match block.state {
///     BlockState::Free => ".".repeat(block.frames),
///     BlockState::Allocated => "#".repeat(block.frames),
///     BlockState::Cached => "c".repeat(block.frames),
/// });
/// assert_eq!(picture.collect::<String>(), "####............");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockState {
    /// A free block, as large as possible.
    Free,
    /// Allocated as one block, or as one run of pages.
    Allocated,
    /// Taken without the head of a block or run: cached by a CPU slot, deferred, a part of a slab,
    /// offline, or lost.
    Cached,
}

/// Consecutive frames with one state.
///
/// ```
/// use buddy::{BlockState, FrameAllocator, Mode, ZeroedMemory};
/// use page_frame::{FrameNumber, FrameRange, Order, SingleCpu};
/// # use std::mem::MaybeUninit;
/// # let frames = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(16))];
/// # let layout = FrameAllocator::<SingleCpu>::metadata_layout(&frames, 1)?;
/// # let mut metadata = vec![MaybeUninit::uninit(); layout.size() + layout.align()];
/// # let metadata = ZeroedMemory::zero(&mut metadata);
/// # let frames = FrameAllocator::new_in(metadata, &frames, SingleCpu::new(), Mode::Plain)?;
/// frames.allocate_frames(Order::new(2).unwrap())?;
/// let blocks: Vec<_> = frames.blocks().map(|block| (block.frames, block.state)).collect();
/// assert_eq!(blocks, [(4, BlockState::Allocated), (4, BlockState::Free), (8, BlockState::Free)]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The first frame.
    pub start: FrameNumber,
    /// Number of frames.
    pub frames: usize,
    /// Their state.
    pub state: BlockState,
}

/// Iterates over the free canonical blocks, lowest first.
pub(crate) fn free_blocks(bitmap: &Bitmap<'_>) -> impl Iterator<Item = (FrameNumber, Order)> {
    bitmap.table().ranges().flat_map(move |range| {
        let mut next = range;
        core::iter::from_fn(move || {
            while !next.is_empty() {
                let start = next.start;
                let Some(order) = free_order(bitmap, start, next.end) else {
                    next.start = next_free(bitmap, start).min(next.end);
                    continue;
                };
                next.start = FrameNumber::new(start.get() + order.pages());
                return Some((start, order));
            }
            None
        })
    })
}

/// Returns a frame after `start`: the next one in its word of the bitmap that is free, or else the
/// first one of the next word.
fn next_free(bitmap: &Bitmap<'_>, start: FrameNumber) -> FrameNumber {
    let offset = start.get() % WORD_BITS;
    let word = FrameNumber::new(start.get() - offset);
    // The shift leaves out `start` itself and all before it.
    let free = (!bitmap.taken_word(word) >> offset) & !1;
    let skipped = match free {
        0 => WORD_BITS - offset,
        free => free.trailing_zeros() as usize,
    };
    FrameNumber::new(start.get() + skipped)
}

/// Returns the order of the largest free block that starts at `start` and ends by `end`.
fn free_order(bitmap: &Bitmap<'_>, start: FrameNumber, end: FrameNumber) -> Option<Order> {
    let fits =
        |order: &Order| start.is_aligned_to(*order) && start.get() + order.pages() <= end.get();
    Order::all().take_while(|order| fits(order) && bitmap.is_free(start, *order)).last()
}

/// Iterates over all blocks, lowest first.
pub(crate) fn blocks(bitmap: &Bitmap<'_>, tags: &Tags<'_>) -> impl Iterator<Item = Block> {
    bitmap.table().ranges().flat_map(move |range| {
        let mut next = range;
        core::iter::from_fn(move || {
            let start = next.start;
            if next.is_empty() {
                return None;
            }
            let (frames, state) = match free_order(bitmap, start, next.end) {
                Some(order) => (order.pages(), BlockState::Free),
                None => match taken_frames(tags, start) {
                    Some(frames) => (frames, BlockState::Allocated),
                    None => (1, BlockState::Cached),
                },
            };
            next.start = FrameNumber::new(start.get() + frames);
            Some(Block { start, frames, state })
        })
    })
}

/// Returns the number of frames of the block or run whose head is `start`.
fn taken_frames(tags: &Tags<'_>, start: FrameNumber) -> Option<usize> {
    match tags.get(start) {
        Tag::RUN => Some(tags.run_pages(start).unwrap_or(0).max(1)),
        tag => tag.as_block().map(Order::pages),
    }
}
