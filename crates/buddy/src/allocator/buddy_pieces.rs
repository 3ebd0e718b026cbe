//! Blocks in pieces, by address, and runs at a named place.

use page_frame::{
    Cpu, Fault, FrameNumber, FrameRange, Order, OutOfMemory, PageBlock, PageMap, PageRun, PhysMap,
};

use crate::allocator::buddy::Buddy;
use crate::allocator::pieces::SplitError;
use crate::trace::Trace;

impl<M: PhysMap, C: Cpu, T: Trace, const CHECKED: bool> Buddy<'_, M, C, T, CHECKED> {
    /// Splits `block` into blocks of `into`, lowest first, which are freed one by one. O(pieces).
    /// Dropping the iterator leaks the rest, as dropping a block does.
    ///
    /// ```
    /// # use buddy::{Buddy, Mode, ZeroedMemory};
    /// # use page_frame::{DirectMap, FrameNumber, FrameRange, Order, SingleCpu};
    /// # let mut memory = vec![std::mem::MaybeUninit::uninit(); 1 << 17];
    /// # let frames = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(64))];
    /// # let (memory, cpu) = (ZeroedMemory::zero(&mut memory), SingleCpu::new());
    /// # // SAFETY: the example accesses no frame.
    /// # let map = unsafe { DirectMap::at_offset(1 << 40) };
    /// # // SAFETY: no other code uses the frames.
    /// # let buddy = unsafe { Buddy::new_in(memory, &frames, map, cpu, Mode::Cached) }?;
    /// use page_frame::PageSource;
    /// let block = buddy.allocate(Order::new(3).unwrap())?;
    /// let pieces = buddy.split_block(block, Order::new(1).unwrap()).map_err(|(_, error)| error)?;
    /// for piece in pieces {
    ///     assert_eq!(piece.pages(), 2);
    ///     // SAFETY: the piece is this buddy's, and not used.
    ///     unsafe { buddy.free(piece) };
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The block as it was, and [`SplitError`] as for
    /// [`FrameAllocator::split_block`](crate::FrameAllocator::split_block).
    #[track_caller]
    pub fn split_block(
        &self,
        block: PageBlock,
        into: Order,
    ) -> Result<impl Iterator<Item = PageBlock>, (PageBlock, SplitError)> {
        let order = block.order();
        let first = self.phys.frame(block.start().addr().get());
        if let Err(error) = self.frames.pool.split_block(first, order, into) {
            return Err((block, error));
        }
        _ = block.into_raw();
        let starts = (first.get()..first.get() + order.pages()).step_by(into.pages());
        // SAFETY: clause 1: `block` was the only value for these frames and ends above; each piece
        // has a tag of its own, and the iterator returns it once.
        Ok(starts.map(move |start| unsafe { self.block(FrameNumber::new(start), into) }))
    }

    /// Frees the frames of `range`, see
    /// [`FrameAllocator::free_each`](crate::FrameAllocator::free_each).
    ///
    /// ```
    /// # use buddy::{Buddy, Mode, ZeroedMemory};
    /// # use page_frame::{DirectMap, FrameNumber, FrameRange, Order, SingleCpu};
    /// # let mut memory = vec![std::mem::MaybeUninit::uninit(); 1 << 17];
    /// # let frames = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(64))];
    /// # let (memory, cpu) = (ZeroedMemory::zero(&mut memory), SingleCpu::new());
    /// # // SAFETY: the example accesses no frame.
    /// # let map = unsafe { DirectMap::at_offset(1 << 40) };
    /// # // SAFETY: no other code uses the frames.
    /// # let buddy = unsafe { Buddy::new_in(memory, &frames, map, cpu, Mode::Cached) }?;
    /// let first = buddy.allocate_each(10, Order::ZERO)?;
    /// let segment = FrameRange::new(first, FrameNumber::new(first.get() + 10));
    /// // SAFETY: clause 1: allocated by number above, and not used any more.
    /// unsafe { buddy.free_each(segment) }?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The first [`Fault`]. Every frame of the range that was a block of its own is free then, and
    /// nothing else has changed.
    ///
    /// # Safety
    /// 1. As for [`free_frames`](Self::free_frames), for each frame of the range.
    #[track_caller]
    pub unsafe fn free_each(&self, range: FrameRange) -> Result<(), Fault> {
        self.frames.free_each(range)
    }

    /// Allocates the run of `pages` pages that begins at `first`, for memory that firmware or a
    /// device names. It is freed by [`free_run`](page_frame::PageResize::free_run).
    ///
    /// Drains the slots of idle CPUs when some frame is not free. O(areas of the run).
    ///
    /// ```
    /// # use buddy::{Buddy, Mode, ZeroedMemory};
    /// # use page_frame::{DirectMap, FrameNumber, FrameRange, Order, SingleCpu};
    /// # let mut memory = vec![std::mem::MaybeUninit::uninit(); 1 << 17];
    /// # let frames = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(64))];
    /// # let (memory, cpu) = (ZeroedMemory::zero(&mut memory), SingleCpu::new());
    /// # // SAFETY: the example accesses no frame.
    /// # let map = unsafe { DirectMap::at_offset(1 << 40) };
    /// # // SAFETY: no other code uses the frames.
    /// # let buddy = unsafe { Buddy::new_in(memory, &frames, map, cpu, Mode::Cached) }?;
    /// use page_frame::PageResize;
    /// let run = buddy.allocate_run_at(FrameNumber::new(5), 11)?;
    /// assert_eq!((run.pages(), buddy.free_frames_count()), (11, 64 - 11));
    /// // SAFETY: the run came from this buddy, and nothing refers into it.
    /// unsafe { buddy.free_run(run.start(), run.pages()) };
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`OutOfMemory`] when some frame is taken or absent, when `pages` is zero, or when it exceeds
    /// the largest block.
    pub fn allocate_run_at(
        &self,
        first: FrameNumber,
        pages: usize,
    ) -> Result<PageRun, OutOfMemory> {
        let end = first.checked_add(pages).ok_or(OutOfMemory)?;
        if pages == 0 || pages > Order::MAX.pages() {
            return Err(OutOfMemory);
        }
        let frames = &self.frames.pool.frames;
        let take = || frames.take_range(FrameRange::new(first, end));
        let is_taken = take() || {
            self.drain();
            take()
        };
        if !is_taken {
            return Err(OutOfMemory);
        }
        let start = self.phys.pointer(first);
        // SAFETY: clause 1: this call has just taken the frames, so the run lies in the map.
        unsafe { self.set_run(start, pages) };
        Ok(PageRun::new(start, pages, false))
    }
}
