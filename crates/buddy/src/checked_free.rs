//! Frees that are exact: of several at once of one block, one is served and the others are faults, before anything changes.
//!
//! # Concepts
//! A free looks at the tag of the block's head, and clears it. Two CPUs that free one block at the same moment may both look
//! before one of them clears. By default that is found out when the block goes home a second time, and nothing is credited
//! twice; but while it is in two slots, two users may get it. Where that must not be, one exchanges the tag instead of
//! looking: the exchange succeeds once for each allocation.
//!
//! # Costs
//! An atomic operation for each free, on the byte of the page map, and the longer way into the slot. Nothing for allocations,
//! and nothing at all where it is not asked for.

use page_frame::{Cpu, FrameNumber, Tag};

use crate::{FramePool, Gate, Observe, Pressure};

/// An observer that also makes frees exact.
///
/// ```
/// use buddy::{Exact, FrameAllocator, Mode, ZeroedMemory};
/// use page_frame::{FaultKind, FrameNumber, FrameRange, Order, SingleCpu};
/// # use std::mem::MaybeUninit;
/// # let frames = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(16))];
/// # let layout = FrameAllocator::<SingleCpu>::metadata_layout(&frames, 1)?;
/// # let mut metadata = vec![MaybeUninit::uninit(); layout.size() + layout.align()];
/// # let metadata = ZeroedMemory::zero(&mut metadata);
/// # let frames = FrameAllocator::new_in(metadata, &frames, SingleCpu::new(), Mode::Cached)?;
/// let frames = frames.with_observer(Exact(())); // `()`: and nobody listens
/// let frame = frames.allocate_frames(Order::ZERO)?;
/// frames.free_frames(frame, Order::ZERO)?;
/// let twice = frames.free_frames(frame, Order::ZERO).unwrap_err();
/// assert_eq!(twice.kind, FaultKind::DoubleFree);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Exact<O = ()>(pub O);

/// Listens as `O` does.
impl<O: Observe> Observe for Exact<O> {
    const IS_USED: bool = O::IS_USED;
    const HEARS_BLOCKS: bool = O::HEARS_BLOCKS;
    const EXACT_FREES: bool = true;
    const LARGEST: page_frame::Order = O::LARGEST;

    fn take(&self, start: FrameNumber, frames: usize) {
        self.0.take(start, frames);
    }

    fn free(&self, start: FrameNumber, frames: usize) {
        self.0.free(start, frames);
    }

    fn split(&self, count: usize) {
        self.0.split(count);
    }

    fn merge(&self, count: usize) {
        self.0.merge(count);
    }

    fn claim(&self, areas: usize) {
        self.0.claim(areas);
    }

    fn hand_over(&self, frames: usize) {
        self.0.hand_over(frames);
    }
}

/// Serves as `G` does.
impl<G: Gate> Gate for Exact<G> {
    #[inline]
    fn allows(&self, pages: usize) -> bool {
        self.0.allows(pages)
    }

    #[inline]
    fn pressure(&self) -> Pressure {
        self.0.pressure()
    }
}

impl<C: Cpu, O: Observe> FramePool<'_, C, O> {
    /// Takes the tag `tag` away from `frame`; whether it was there. With exact frees, of several callers at once one succeeds.
    #[inline]
    pub(crate) fn take_tag(&self, frame: FrameNumber, tag: Tag) -> bool {
        if O::EXACT_FREES {
            return self.map.exchange_tag_at(self.map_index(frame), tag, Tag::NONE);
        }
        let is_there = self.frame_tag(frame) == tag;
        if is_there {
            self.set_tag(frame, Tag::NONE);
        }
        is_there
    }
}
