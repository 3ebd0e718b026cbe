//! Many blocks in one call, and blocks in pieces: frames that are allocated together and freed one
//! by one.
//!
//! # Concepts
//! A block that is split becomes several smaller blocks of its owner, each with a tag of its own.
//! [`allocate_each`](FramePool::allocate_each) and [`withhold`](FramePool::withhold) allocate
//! consecutive frames as blocks of one frame, so that their owner frees them in any order.
//!
//! An area that is allocated whole has clear bits. Its pieces need set bits, so the call splits it
//! first. A stray bit of another taker may prevent that for a moment.

use core::fmt;

use page_frame::{Cpu, Fault, FaultKind, FrameNumber, FrameRange, Order, OutOfMemory, Tag};

use crate::allocator::frame_allocator::FrameAllocator;
use crate::allocator::frame_pool::FramePool;
use crate::bitmap::bits::AREA_ORDER;
use crate::bitmap::block_range;
use crate::frames::misuse::misuse;
use crate::trace::Trace;

/// Number of blocks whose tags are prefetched in a bulk free: about as many as there are loads on
/// their way at a time.
const PREFETCHED: usize = 16;

/// The reason why a block was not split.
///
/// ```
/// use buddy::{FrameAllocator, Mode, SplitError, ZeroedMemory};
/// use page_frame::{FaultKind, FrameNumber, FrameRange, Order, SingleCpu};
/// # use std::mem::MaybeUninit;
/// # let mut memory = vec![MaybeUninit::uninit(); 1 << 17];
/// # let memory = ZeroedMemory::zero(&mut memory);
/// # let range = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(64))];
/// # let frames = FrameAllocator::new_in(memory, &range, SingleCpu::new(), Mode::Cached)?;
/// let order = |order| Order::new(order).unwrap();
/// frames.allocate_at(FrameNumber::new(8), order(3))?;
/// match frames.split_block(FrameNumber::new(8), order(2), Order::ZERO) {
///     Err(SplitError::Fault(fault)) => {
///         let (allocated, given) = (order(3), order(2));
///         assert_eq!(fault.kind, FaultKind::WrongOrder { allocated, given });
///     }
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub enum SplitError {
    /// No such block is allocated, or it is smaller than its pieces would be.
    Fault(Fault),
    /// Another CPU is looking for frames in one of the block's areas at this moment. The block is
    /// as before; the next call probably succeeds.
    Busy,
}

impl fmt::Display for SplitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => fault.fmt(f),
            Self::Busy => f.write_str("another CPU is searching the block's areas"),
        }
    }
}

impl core::error::Error for SplitError {}

impl<C: Cpu, T: Trace, const CHECKED: bool> FramePool<'_, C, T, CHECKED> {
    /// Fills `blocks` with the first frames of allocated blocks of `order`; returns the number of
    /// blocks. If it is below `blocks.len()`, memory ran out.
    ///
    /// The call enters the CPU's slot once for all blocks that the slot can serve. One atomic
    /// operation takes up to 64 single frames. Longest path counted: 226 instructions a block, with
    /// 64 blocks of order 0 (`page-many-allocate`). Example: see [`FramePool`].
    pub fn allocate_many(&self, order: Order, blocks: &mut [FrameNumber]) -> usize {
        let count = self.caches.allocate_bulk(&self.frames, order, blocks);
        let mut allocated = self.frames.bulk_guard(order, blocks, count);
        while !allocated.is_full() {
            let Ok(block) = self.allocate_frames(order) else { break };
            allocated.push(block);
        }
        allocated.forget()
    }

    /// Frees blocks of `order`, see
    /// [`FrameAllocator::free_many`](crate::FrameAllocator::free_many).
    #[track_caller]
    pub(crate) fn free_many(&self, order: Order, blocks: &[FrameNumber]) -> Result<(), Fault> {
        let mut outcome = Ok(());
        let prefetch = |block: &FrameNumber| self.frames.tags().prefetch_block(*block, order);
        blocks.iter().take(PREFETCHED).for_each(prefetch);
        for (index, block) in blocks.iter().enumerate() {
            blocks.get(index + PREFETCHED).into_iter().for_each(prefetch);
            let freed = self.free_frames(*block, order);
            outcome = outcome.and(freed);
        }
        outcome
    }

    /// Allocates `frames` consecutive frames, exactly as many, each as a block of its own that its
    /// owner frees alone; returns the first one, which is aligned to `alignment`.
    ///
    /// Takes a block that is large enough, and frees its tail. Where no such block is free, it
    /// searches all free blocks for enough neighbours. O(frames), and O(free blocks) then.
    /// Longest path counted: 195 instructions a frame of 100 (`page-each-allocate`).
    /// Example: see [`FrameAllocator::free_each`].
    ///
    /// # Errors
    /// [`OutOfMemory`] when there are no such free frames, and when `frames` is zero.
    #[inline]
    pub fn allocate_each(
        &self,
        frames: usize,
        alignment: Order,
    ) -> Result<FrameNumber, OutOfMemory> {
        match (frames, alignment) {
            (1, Order::ZERO) => self.allocate_frames(Order::ZERO),
            _ => self.allocate_segment(frames, alignment),
        }
    }

    #[cold]
    #[inline(never)]
    fn allocate_segment(
        &self,
        frames: usize,
        alignment: Order,
    ) -> Result<FrameNumber, OutOfMemory> {
        if frames == 0 {
            return Err(OutOfMemory);
        }
        let Some(order) = Order::for_pages(frames) else {
            self.drain();
            return self.withhold_neighbours(frames, alignment);
        };
        let order = order.max(alignment);
        let Ok(first) = self.allocate_frames(order) else {
            return self.withhold_neighbours(frames, alignment);
        };
        // Without a tag, the guard can free the frames if the trace panics on the free of the tail.
        self.frames.tags().clear_block(first, order);
        let end = FrameNumber::new(first.get() + frames);
        if !self.frames.bitmap().split_areas(block_range(first, order)) {
            self.frames.free_range(block_range(first, order));
            return Err(OutOfMemory);
        }
        let kept = FrameRange::new(first, end);
        let mut guard = self.frames.guard(block_range(first, order));
        let tail = FrameRange::new(end, block_range(first, order).end);
        if !tail.is_empty() {
            if T::IS_ENABLED && T::HAS_BLOCK_EVENTS {
                self.trace().split(kept.blocks().count() + tail.blocks().count() - 1);
            }
            // The tail is free before `free_range` calls the trace.
            guard.extend_to(end);
            let freed = self.frames.free_range(tail);
            debug_assert!(freed == Some(true), "no area of the block is whole");
        }
        self.trace_pieces(kept, Order::ZERO);
        self.tag_each(guard.forget(), Order::ZERO);
        Ok(first)
    }

    /// Allocates the lowest `frames` consecutive free frames as [`withhold`](Self::withhold) does.
    /// The slots have been drained.
    #[cold]
    fn withhold_neighbours(
        &self,
        frames: usize,
        alignment: Order,
    ) -> Result<FrameNumber, OutOfMemory> {
        let mut free = FrameRange::default();
        for (start, order) in self.free_blocks() {
            let end = block_range(start, order).end;
            free = if start == free.end {
                FrameRange::new(free.start, end)
            } else {
                block_range(start, order)
            };
            let first = free.start.get().next_multiple_of(alignment.pages());
            let wanted_end = first.checked_add(frames).ok_or(OutOfMemory)?;
            let wanted = FrameRange::new(FrameNumber::new(first), FrameNumber::new(wanted_end));
            // Another CPU may take some of them first; then the search goes on.
            if wanted.end <= end && self.withhold(wanted).is_ok() {
                return Ok(wanted.start);
            }
        }
        Err(OutOfMemory)
    }

    /// Allocates exactly the frames of `range`, each as a block of its own, for an owner that frees
    /// them later, in any order: the kernel's image, a boot module, a frame buffer.
    ///
    /// Drains the slots of idle CPUs when some frame is not free. O(frames).
    /// Example: see [`FrameAllocator::free_each`].
    ///
    /// # Errors
    /// [`OutOfMemory`] when some frame is taken or absent. Then nothing has changed.
    pub fn withhold(&self, range: FrameRange) -> Result<(), OutOfMemory> {
        let take = || self.frames.take_range(range);
        let is_taken = range.is_empty() || take() || {
            self.drain();
            take()
        };
        if !is_taken {
            return Err(OutOfMemory);
        }
        if !self.frames.bitmap().split_areas(range) {
            self.frames.free_range(range);
            return Err(OutOfMemory);
        }
        let guard = self.frames.guard(range);
        self.trace_pieces(range, Order::ZERO);
        self.tag_each(guard.forget(), Order::ZERO);
        Ok(())
    }

    /// Tags the frames of `range`, which are taken and belong to the caller, as blocks of `into`.
    fn tag_each(&self, range: FrameRange, into: Order) {
        for start in (range.start.get()..range.end.get()).step_by(into.pages()).rev() {
            self.frames.tags().set_block(FrameNumber::new(start), into);
        }
    }

    /// Calls the trace for the splits of `range` into blocks of `into`.
    fn trace_pieces(&self, range: FrameRange, into: Order) {
        if T::IS_ENABLED && T::HAS_BLOCK_EVENTS {
            self.trace().split(inner_splits(range, into));
        }
    }

    /// Splits a block, see [`FrameAllocator::split_block`].
    #[track_caller]
    pub(crate) fn split_block(
        &self,
        frame: FrameNumber,
        order: Order,
        into: Order,
    ) -> Result<(), SplitError> {
        if into > order {
            let kind = FaultKind::WrongOrder { allocated: order, given: into };
            return Err(SplitError::Fault(Fault::at_frame(kind, frame)));
        }
        if self.frames.tags().get(frame) != Tag::block(order) {
            return Err(SplitError::Fault(misuse(&self.frames, frame, order)));
        }
        let is_below_area = u32::from(into.get()) < AREA_ORDER;
        let range = block_range(frame, order);
        if is_below_area && !self.frames.bitmap().split_areas(range) {
            return Err(SplitError::Busy);
        }
        self.frames.tags().clear_block(frame, order);
        self.tag_each(range, into);
        // Last: if the trace panics, the block is split, and its pieces are the caller's.
        self.trace_pieces(range, into);
        Ok(())
    }

    /// Frees each frame of a range, see [`FrameAllocator::free_each`]. A single frame goes to the
    /// CPU's slot.
    #[inline]
    #[track_caller]
    pub(crate) fn free_each(&self, range: FrameRange) -> Result<(), Fault> {
        match range.frames() {
            1 => self.free_frames(range.start, Order::ZERO),
            _ => self.free_segment(range),
        }
    }

    #[cold]
    #[inline(never)]
    #[track_caller]
    fn free_segment(&self, range: FrameRange) -> Result<(), Fault> {
        // Beyond the span are no frames, however many numbers there are.
        let own = range.intersection(self.frames.bitmap().table().span());
        let foreign = |frame| Err(Fault::at_frame(FaultKind::ForeignPointer, frame));
        let begins_outside = own.is_empty() || range.start < own.start;
        let mut outcome = match begins_outside && !range.is_empty() {
            true => foreign(range.start),
            false => Ok(()),
        };
        let free = |start: usize, end: usize| {
            let range = FrameRange::new(FrameNumber::new(start), FrameNumber::new(end));
            if range.is_empty() {
                return Ok(());
            }
            if self.frames.free_range(range) != Some(true) {
                return Err(Fault::at_frame(FaultKind::DoubleFree, range.start));
            }
            // `free_range` counts the merges of the fewest blocks; their pieces merge too.
            if T::IS_ENABLED && T::HAS_BLOCK_EVENTS {
                self.trace().merge(inner_splits(range, Order::ZERO));
            }
            Ok(())
        };
        let mut start = own.start.get();
        for number in own.start.get()..own.end.get() {
            let frame = FrameNumber::new(number);
            if !self.frames.tags().take_block::<CHECKED>(frame, Order::ZERO) {
                let fault = misuse(&self.frames, frame, Order::ZERO);
                outcome = outcome.and(free(start, number)).and(Err(fault));
                start = number + 1;
            }
        }
        let outcome = outcome.and(free(start, own.end.get()));
        if own.end < range.end { outcome.and(foreign(own.end)) } else { outcome }
    }
}

/// Returns how many splits make blocks of `into` of the fewest blocks that cover `range`.
fn inner_splits(range: FrameRange, into: Order) -> usize {
    range.frames() / into.pages() - range.blocks().count()
}

impl<C: Cpu, T: Trace, const CHECKED: bool> FrameAllocator<'_, C, T, CHECKED> {
    /// Splits the allocated block of `order` at `frame` into blocks of `into`, which its owner
    /// frees one by one. O(pieces).
    ///
    /// ```
    /// # use buddy::{FrameAllocator, Mode, ZeroedMemory};
    /// # use page_frame::{FrameNumber, FrameRange, Order, SingleCpu};
    /// # use std::mem::MaybeUninit;
    /// # let mut memory = vec![MaybeUninit::uninit(); 1 << 17];
    /// # let memory = ZeroedMemory::zero(&mut memory);
    /// # let range = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(64))];
    /// # let frames = FrameAllocator::new_in(memory, &range, SingleCpu::new(), Mode::Cached)?;
    /// let [eight, two] = [3, 1].map(|order| Order::new(order).unwrap());
    /// let block = frames.allocate_frames(eight)?;
    /// frames.split_block(block, eight, two)?;
    /// for piece in 0..4 {
    ///     frames.free_frames(FrameNumber::new(block.get() + 2 * piece), two)?;
    /// }
    /// frames.drain();
    /// assert_eq!(frames.free_frames_count(), 64);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`SplitError::Fault`] when no such block is allocated or `into` is larger than `order`,
    /// [`SplitError::Busy`] when another CPU searches one of its areas. Then nothing has changed.
    #[track_caller]
    pub fn split_block(
        &self,
        frame: FrameNumber,
        order: Order,
        into: Order,
    ) -> Result<(), SplitError> {
        self.pool.split_block(frame, order, into)
    }

    /// Frees the frames of `range`, each of which is a block of order 0, whatever calls allocated
    /// them. After a fault it frees the rest too. One atomic operation a word of frames; O(frames).
    /// Longest path counted: 24 instructions a frame of 100 (`page-each-free`).
    ///
    /// ```
    /// # use buddy::{FrameAllocator, Mode, ZeroedMemory};
    /// # use page_frame::{FrameNumber, FrameRange, Order, SingleCpu};
    /// # use std::mem::MaybeUninit;
    /// # let mut memory = vec![MaybeUninit::uninit(); 1 << 18];
    /// # let memory = ZeroedMemory::zero(&mut memory);
    /// let range = |start, end| FrameRange::new(FrameNumber::new(start), FrameNumber::new(end));
    /// let machine = [range(0, 1024), range(1024, 2000)]; // ranges may touch
    /// let frames = FrameAllocator::new_in(memory, &machine, SingleCpu::new(), Mode::Cached)?;
    /// let image = range(256, 300); // frames that begin allocated
    /// frames.withhold(image)?;
    /// let segment = frames.allocate_each(700, Order::ZERO)?.get(); // exactly 700
    /// assert_eq!(frames.free_frames_count(), 2000 - 44 - 700);
    /// frames.free_frames(FrameNumber::new(segment + 5), Order::ZERO)?; // frame by frame,
    /// frames.free_each(range(segment, segment + 5))?; // or many at once
    /// frames.free_each(range(segment + 6, segment + 700))?;
    /// frames.free_each(image)?; // the kernel has moved
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The first [`Fault`]. Every frame of the range that was a block of its own is free then, and
    /// nothing else has changed.
    #[inline]
    #[track_caller]
    pub fn free_each(&self, range: FrameRange) -> Result<(), Fault> {
        self.pool.free_each(range)
    }
}
