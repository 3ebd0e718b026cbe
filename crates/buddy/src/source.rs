//! The buddy as a page source: blocks and runs by address, over the frames by number.

use core::ptr::NonNull;

use page_frame::{
    Cpu, Fault, FaultKind, FrameNumber, FrameRange, Order, OutOfMemory, PageBlock, PageMap,
    PageResize, PageRun, PageSource, PhysMap, Tag,
};

use crate::unwind::{AbortOnUnwind, FreeOnUnwind};
use crate::{Buddy, Observe};

// SAFETY: clause 1: `new_in` was promised the frames for us alone, a frame is handed out only after its bit was changed
// from clear to set (or its area from open to whole) by us, and `phys` maps aligned frames to aligned addresses.
// Clause 2: the fault hook is called only when nothing was taken back.
unsafe impl<M: PhysMap, C: Cpu, O: Observe> PageSource for Buddy<'_, M, C, O> {
    #[inline(always)]
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        if let Some(frame) = self.allocate_hit(order) {
            // SAFETY: just allocated.
            return Ok(unsafe { self.block(frame, order) });
        }
        // A frame comes back in registers, a block would in memory; and who knows the order still knows it of the block.
        let frame = self.allocate_slowly(order)?;
        // SAFETY: just allocated.
        Ok(unsafe { self.block(frame, order) })
    }

    #[inline(always)]
    #[track_caller]
    unsafe fn free(&self, block: PageBlock) {
        let (start, order) = block.into_raw();
        let frame = self.phys.frame(start.addr().get());
        if !self.free_to_slot(frame, order) {
            self.free_by_address(start, frame, order);
        }
    }
}

// SAFETY: clause 1: always the map of the field, which lives as long as this value.
unsafe impl<'m, M: PhysMap, C: Cpu, O: Observe> page_frame::ForwardPageMap for Buddy<'m, M, C, O> {
    #[inline(always)]
    fn page_map(&self) -> &impl page_frame::PageMap {
        &self.frames.pool.map
    }
}

impl<M: PhysMap, C: Cpu, O: Observe> Buddy<'_, M, C, O> {
    /// Makes the block of `order` at `frame` a value.
    ///
    /// # Safety
    /// 1. The block has just been allocated from this buddy, and the caller has no other value for it.
    #[inline]
    pub(crate) unsafe fn block(&self, frame: FrameNumber, order: Order) -> PageBlock {
        // SAFETY: clause 1; the content is whatever it was.
        unsafe { PageBlock::from_raw(self.phys.pointer(frame), order, false) }
    }

    /// Frees a block that is not one for the slot.
    #[cold]
    #[inline(never)]
    #[track_caller]
    fn free_by_address(&self, start: NonNull<u8>, frame: FrameNumber, order: Order) {
        if let Err(fault) = self.free_slowly(frame, order) {
            (self.fault_hook)(&fault.with_address(start.addr().get()));
        }
    }

    fn range(&self, start: NonNull<u8>, from: usize, to: usize) -> FrameRange {
        let first = self.phys.frame(start.addr().get()).get();
        FrameRange::new(FrameNumber::new(first + from), FrameNumber::new(first + to))
    }
}

// SAFETY: clause 1 as above, for the frames of runs. Clause 2: the head is tagged by `allocate_run`, its count kept by
// `resize_run`.
unsafe impl<M: PhysMap, C: Cpu, O: Observe> PageResize for Buddy<'_, M, C, O> {
    fn allocate_run(&self, pages: usize, alignment: Order) -> Result<PageRun, OutOfMemory> {
        if pages == 0 {
            return Err(OutOfMemory);
        }
        let order = Order::for_pages(pages).ok_or(OutOfMemory)?.max(alignment);
        let frame = self.allocate_frames(order)?;
        let start = self.phys.pointer(frame);
        // Without a tag, the frames are nobody's for the guard, should an observer panic that hears of the tail.
        self.set_tag(frame, Tag::NONE);
        let undo = FreeOnUnwind::new(&self.zone, self.range(start, 0, pages));
        // The tail goes back, unless a stray keeps the area from being split: then the run has it.
        let tail = self.range(start, pages, order.pages());
        let kept = match tail.is_empty() || self.release(tail).is_none() {
            true => order.pages(),
            false => pages,
        };
        undo.forget();
        // SAFETY: the run is ours and its head in the map.
        unsafe { self.map.set_run(start, kept) };
        Ok(PageRun::new(start, kept, false))
    }

    #[track_caller]
    unsafe fn free_run(&self, start: NonNull<u8>, pages: usize) {
        let address = start.addr().get();
        let found = self.map.run_pages(address);
        if found != Some(pages) || !self.take_tag(self.phys.frame(address), Tag::RUN) {
            let kind = match self.map.tag(address) {
                Tag::NONE => FaultKind::DoubleFree,
                _ => FaultKind::WrongPageCount { allocated: found, given: pages },
            };
            (self.fault_hook)(&Fault::at_address(kind, address));
            return;
        }
        let released = self.release(self.range(start, 0, pages));
        if released != Some(true) {
            (self.fault_hook)(&Fault::at_address(FaultKind::DoubleFree, address));
        }
    }

    unsafe fn resize_run(&self, start: NonNull<u8>, pages: usize, new_pages: usize) -> bool {
        if new_pages == 0 || new_pages > Order::MAX.pages() {
            return false;
        }
        let resized = match new_pages > pages {
            true => {
                let growth = self.range(start, pages, new_pages);
                self.zone.has(growth) && self.zone.take_range(&self.observer, growth)
            }
            false => {
                let tail = self.range(start, new_pages, pages);
                let abort = AbortOnUnwind::new("an observer panicked while a run was being shrunk");
                let is_released = tail.is_empty() || self.release(tail).is_some();
                abort.forget();
                is_released
            }
        };
        if resized {
            // SAFETY: the run is the caller's and its head in the map.
            unsafe { self.map.set_run(start, new_pages) };
        }
        resized
    }
}
