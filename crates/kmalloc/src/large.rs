//! Large allocations: whole pages, exactly as many as needed where the page source can.
//!
//! The page map says where a run starts and how many pages it has, so nothing is kept here but a count.

use core::alloc::Layout;
use core::ptr::NonNull;

use page_frame::sync::Ordering;
use page_frame::{
    Cpu, Fault, FaultKind, Order, OutOfMemory, PAGE_SHIFT, PAGE_SIZE, PageResize, PageRun, Tag,
};
use slab::Checks;

use crate::Kmalloc;

impl<P: PageResize, C: Cpu + Clone, K: Checks> Kmalloc<P, C, K> {
    #[cold]
    #[inline(never)]
    pub(crate) fn allocate_large(&self, layout: Layout) -> Result<PageRun, OutOfMemory> {
        self.take_run(layout, P::allocate_run)
    }

    pub(crate) fn try_allocate_large(&self, layout: Layout) -> Result<PageRun, OutOfMemory> {
        self.take_run(layout, P::try_allocate_run)
    }

    fn take_run(
        &self,
        layout: Layout,
        take: fn(&P, usize, Order) -> Result<PageRun, OutOfMemory>,
    ) -> Result<PageRun, OutOfMemory> {
        let alignment = Order::for_bytes(layout.align()).ok_or(OutOfMemory)?.order;
        let run = take(self.registry().source(), pages_for(layout.size()), alignment)?;
        // Relaxed, here and below: a statistic.
        self.large_pages.fetch_add(run.pages, Ordering::Relaxed);
        Ok(run)
    }

    /// # Safety
    /// 1. As for [`free`](Self::free).
    #[cold]
    #[inline(never)]
    #[track_caller]
    pub(crate) unsafe fn free_large(&self, start: NonNull<u8>) {
        let source = self.registry().source();
        let address = start.addr().get();
        let Some(pages) = self.large_pages_at(address) else { return self.foreign(start) };
        self.large_pages.fetch_sub(pages, Ordering::Relaxed);
        // SAFETY: a run of the source starts here, and clause 1 gives it to us. Its address only names it.
        unsafe { source.free_run(source.pointer(address), pages) };
    }

    /// Changes the length of the run at `start` without moving it; whether that worked.
    ///
    /// # Safety
    /// 1. `start` is a large allocation of the caller's, and nobody uses the tail that is given back.
    pub(crate) unsafe fn resize_large(&self, start: NonNull<u8>, bytes: usize) -> bool {
        let source = self.registry().source();
        let address = start.addr().get();
        let Some(pages) = self.large_pages_at(address) else { return false };
        let new_pages = pages_for(bytes);
        if new_pages == pages {
            return true;
        }
        // SAFETY: clause 1: a run of so many pages, and what lies behind the new end is not used.
        if unsafe { source.resize_run(source.pointer(address), pages, new_pages) } {
            // Wrapping addition of the difference: a run that became shorter is subtracted.
            self.large_pages.fetch_add(new_pages.wrapping_sub(pages), Ordering::Relaxed);
            return true;
        }
        // A source of whole blocks cannot give the tail back: staying costs less than moving while half is used.
        new_pages < pages && new_pages * 2 > pages
    }

    /// Moves the first `bytes` bytes from one large allocation to another by mapping pages, if the source can; whether it did.
    ///
    /// # Safety
    /// 1. Both are large allocations of the caller's, of at least so many bytes.
    pub(crate) unsafe fn remap_large(
        &self,
        from: NonNull<u8>,
        to: NonNull<u8>,
        bytes: usize,
    ) -> bool {
        let source = self.registry().source();
        if self.large_pages_at(to.addr().get()).is_none() {
            return false;
        }
        let from = source.pointer(from.addr().get());
        // SAFETY: clause 1; runs are whole pages.
        unsafe { source.move_content(from, to, pages_for(bytes)) }
    }

    /// Returns the pages of the large allocation that starts exactly at `address`.
    pub(crate) fn large_pages_at(&self, address: usize) -> Option<usize> {
        self.registry().source().run_pages(address).filter(|_| address % PAGE_SIZE == 0)
    }

    /// Reports that no allocation starts at `start`.
    #[cold]
    #[track_caller]
    pub(crate) fn foreign(&self, start: NonNull<u8>) {
        let address = start.addr().get();
        let found = self.registry().source().tag(address);
        let kind = match found {
            Tag::RUN => FaultKind::InteriorPointer,
            tag if tag.is_slab() => FaultKind::WrongCache,
            _ => FaultKind::ForeignPointer,
        };
        let (expected, found) = (Tag::RUN.get().into(), found.get().into());
        self.registry().report(&Fault::new(kind, address, expected, found));
    }
}

const fn pages_for(bytes: usize) -> usize {
    let pages = bytes.div_ceil(PAGE_SIZE);
    if pages == 0 { 1 } else { pages }
}

const _: () = assert!(pages_for(0) == 1 && pages_for((1 << PAGE_SHIFT) + 1) == 2);
