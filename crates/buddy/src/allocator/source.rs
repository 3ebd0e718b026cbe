//! The buddy as a page source: blocks and runs by address, over frames by number.

use core::ptr::NonNull;

use page_frame::{
    Cpu, Fault, FaultKind, ForwardPageMap, FrameNumber, FrameRange, Order, OutOfMemory, PageBlock,
    PageMap, PageResize, PageRun, PageSource, PhysMap, Tag,
};

use crate::allocator::buddy::Buddy;
use crate::allocator::pieces::SplitError;
use crate::bitmap::placement::Mobility;
use crate::frames::Frames;
use crate::frames::unwind::AbortOnUnwind;
use crate::trace::Pressure;
use crate::trace::Trace;
use crate::zones::zone::Zone;
use crate::zones::zone::sealed::Sealed;

// SAFETY: clause 1: by clause 1 of `new_in` no other code uses the frames. This buddy lends a frame
// only after it changed its bit from clear to set, or its area from open to whole. `phys` maps
// aligned frames to aligned addresses. Clause 2: a free calls the fault hook only when it took
// nothing back.
unsafe impl<M: PhysMap, C: Cpu, T: Trace, const CHECKED: bool> PageSource
    for Buddy<'_, M, C, T, CHECKED>
{
    #[inline(always)]
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        if let Some(frame) = self.allocate_hit(order) {
            // SAFETY: clause 1: the block was just allocated, and this is its only value.
            return Ok(unsafe { self.block(frame, order) });
        }
        // `allocate_miss` returns a frame, which fits in registers; a block would be returned in
        // memory.
        let frame = self.allocate_miss(order)?;
        // SAFETY: clause 1: the block was just allocated, and this is its only value.
        Ok(unsafe { self.block(frame, order) })
    }

    #[inline(always)]
    #[track_caller]
    unsafe fn free(&self, block: PageBlock) {
        let (start, order) = block.into_raw();
        let frame = self.phys.frame(start.addr().get());
        if !self.free_hit(frame, order) {
            self.free_miss_by_address(start, frame, order);
        }
    }
}

// SAFETY: clause 1: the accessors return a field, which is always the same map and lives as long as
// this value.
unsafe impl<M, C, T, const CHECKED: bool> ForwardPageMap for Buddy<'_, M, C, T, CHECKED> {
    #[inline(always)]
    fn page_map(&self) -> &impl PageMap {
        self.frames.pool.frames.tags()
    }
}

impl<'m, M: PhysMap, C: Cpu, T: Trace, const CHECKED: bool> Buddy<'m, M, C, T, CHECKED> {
    /// Returns the block of `order` at `frame` as a value.
    ///
    /// # Safety
    /// 1. The block has just been allocated from this buddy, and the caller has no other value for
    ///    it.
    #[inline]
    pub(crate) unsafe fn block(&self, frame: FrameNumber, order: Order) -> PageBlock {
        // SAFETY: clause 1: `phys` covers the frames (clause 2 of `new_in`) and maps aligned blocks
        // to aligned memory. Clause 2: clause 1 of this function. Clause 3: it does not claim to be
        // zero.
        unsafe { PageBlock::from_raw(self.phys.pointer(frame), order, false) }
    }

    /// Frees a block that `free_hit` did not free, and reports a fault by address.
    #[cold]
    #[inline(never)]
    #[track_caller]
    fn free_miss_by_address(&self, start: NonNull<u8>, frame: FrameNumber, order: Order) {
        if let Err(fault) = self.free_miss(frame, order) {
            self.shared().report(&fault.with_address(start.addr().get()));
        }
    }

    #[inline(always)]
    fn shared(&self) -> &Frames<'m, T> {
        &self.frames.pool.frames
    }

    fn range(&self, start: NonNull<u8>, from: usize, to: usize) -> FrameRange {
        let first = self.phys.frame(start.addr().get()).get();
        FrameRange::new(FrameNumber::new(first + from), FrameNumber::new(first + to))
    }
}

/// Blocks in pieces, and runs at a named place.
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
    #[allow(clippy::result_large_err, reason = "the caller gets its block back, and the fault")]
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
    #[inline]
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

// SAFETY: clause 1: as clause 1 of the `PageSource` impl, for the frames of runs. Clause 2:
// `allocate_run` tags the head, and `resize_run` updates its page count.
unsafe impl<M: PhysMap, C: Cpu, T: Trace, const CHECKED: bool> PageResize
    for Buddy<'_, M, C, T, CHECKED>
{
    fn allocate_run(&self, pages: usize, alignment: Order) -> Result<PageRun, OutOfMemory> {
        if pages == 0 {
            return Err(OutOfMemory);
        }
        let order = Order::for_pages(pages).ok_or(OutOfMemory)?.max(alignment);
        let frame = self.allocate_frames(order)?;
        let start = self.phys.pointer(frame);
        // Without a tag, the guard can free the frames if the trace panics on the free of the tail.
        self.shared().tags().clear_block(frame, order);
        let guard = self.shared().guard(self.range(start, 0, pages));
        // The tail is freed, unless a stray bit keeps the area from being split. Then the run keeps
        // the tail.
        let tail = self.range(start, pages, order.pages());
        let kept = match tail.is_empty() || self.shared().free_range(tail).is_none() {
            true => order.pages(),
            false => pages,
        };
        _ = guard.forget();
        // SAFETY: clause 1: the run was allocated above, so its head lies in the map.
        unsafe { self.set_run(start, kept) };
        Ok(PageRun::new(start, kept, false))
    }

    #[track_caller]
    unsafe fn free_run(&self, start: NonNull<u8>, pages: usize) {
        let address = start.addr().get();
        let found = self.run_pages(address);
        if found != Some(pages)
            || !self.shared().tags().take_run::<CHECKED>(self.phys.frame(address))
        {
            let kind = match self.tag(address) {
                Tag::NONE => FaultKind::DoubleFree,
                _ => FaultKind::WrongPageCount { allocated: found, given: pages },
            };
            self.shared().report(&Fault::at_address(kind, address));
            return;
        }
        if self.shared().free_range(self.range(start, 0, pages)) != Some(true) {
            self.shared().report(&Fault::at_address(FaultKind::DoubleFree, address));
        }
        self.frames.pool.note_freed_run(pages);
    }

    unsafe fn resize_run(&self, start: NonNull<u8>, pages: usize, new_pages: usize) -> bool {
        if new_pages == 0 || new_pages > Order::MAX.pages() {
            return false;
        }
        let resized = match new_pages > pages {
            true => {
                let growth = self.range(start, pages, new_pages);
                self.shared().bitmap().table().has(growth) && self.shared().take_range(growth)
            }
            false => {
                let tail = self.range(start, new_pages, pages);
                let abort = AbortOnUnwind::new("a trace panicked while a run was being shrunk");
                let is_freed = tail.is_empty() || self.shared().free_range(tail).is_some();
                abort.forget();
                is_freed
            }
        };
        if resized {
            // SAFETY: clause 1: the run is the caller's and lies in this buddy, so its head lies in
            // the map.
            unsafe { self.set_run(start, new_pages) };
        }
        resized
    }
}

impl<M, C, T, const CHECKED: bool> Sealed for Buddy<'_, M, C, T, CHECKED> {}

impl<M: PhysMap, C: Cpu, T: Trace, const CHECKED: bool> Zone for Buddy<'_, M, C, T, CHECKED> {
    #[inline]
    fn covers(&self, address: usize) -> bool {
        let table = self.shared().bitmap().table();
        let frame = self.phys.frame(address);
        if !table.span().contains(frame) {
            return false;
        }
        let end = frame.checked_add(1).unwrap_or(frame);
        table.is_one_range() || table.has(FrameRange::new(frame, end))
    }

    fn maps_like(&self, other: &Self) -> bool {
        // By clause 1 of `PhysMap` consecutive frames have consecutive pages, so maps that agree on
        // one frame agree on all.
        let first = self.shared().bitmap().table().span().start;
        self.phys.pointer(first) == other.phys.pointer(first)
    }

    fn allocate_as(&self, order: Order, mobility: Mobility) -> Result<PageBlock, OutOfMemory> {
        let frame = self.frames.allocate_as(order, mobility)?;
        // SAFETY: clause 1: the block was just allocated, and this is its only value.
        Ok(unsafe { self.block(frame, order) })
    }

    #[inline]
    fn allows(&self, pages: usize) -> bool {
        self.trace().allows(pages)
    }

    #[inline]
    fn pressure(&self) -> Pressure {
        self.trace().pressure()
    }

    fn reconcile_next(&self) {
        self.shared().reconcile_next();
    }

    fn reconcile_all(&self) -> usize {
        self.shared().reconcile_until(usize::MAX)
    }
}
