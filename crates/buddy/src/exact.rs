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

use page_frame::{Cpu, FrameNumber, PhysMap, Tag};

use crate::{Buddy, Gate, Observe, Pressure};

/// An observer that also makes frees exact.
///
/// ```
/// use buddy::{Buddy, Exact, Mode};
/// use page_frame::{DirectMap, FaultKind, FrameNumber, FrameRange, Order, SingleCpu};
/// # use std::ptr::NonNull;
/// # let frames = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(16))];
/// # let layout = Buddy::<DirectMap, SingleCpu>::metadata_layout(&frames, 1)?;
/// # // SAFETY: the layout is not empty.
/// # let metadata = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).unwrap();
/// # let root = NonNull::new(std::ptr::without_provenance_mut(4096)).unwrap();
/// # // SAFETY: frames are only numbers here.
/// # let map = unsafe { DirectMap::from_root(root, FrameNumber::new(0)) };
/// # // SAFETY: the metadata is zero, ours, and leaked.
/// # let buddy = unsafe { Buddy::new_in(metadata, &frames, map, SingleCpu::new(), Mode::Cached) }?;
/// let buddy = buddy.with_observer(Exact(())); // `()`: and nobody listens
/// let frame = buddy.allocate_frames(Order::ZERO)?;
/// buddy.free_frames(frame, Order::ZERO)?;
/// let twice = buddy.free_frames(frame, Order::ZERO).unwrap_err();
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

impl<M: PhysMap, C: Cpu, O: Observe> Buddy<'_, M, C, O> {
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
