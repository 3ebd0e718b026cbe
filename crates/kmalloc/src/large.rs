//! Large allocations: whole pages, exactly as many as needed where the page source can.
//!
//! The page map says where a run starts and how many pages it has, so nothing is kept here but a count.

use core::alloc::Layout;
use core::ptr::NonNull;

use page_frame::sync::Ordering;
use page_frame::{
    Fault, FaultKind, Order, OutOfMemory, PAGE_SHIFT, PAGE_SIZE, PageMap, PageResize, PageRun, Tag,
};
use slab::{Hardening, System};

use crate::Kmalloc;

/// A run that grows is put at the start of a free block of so many orders above its own: the rest of the block stays free.
///
/// Chosen by vectors that grow by half up to 256 KiB, 64 of them in turn, alone, in nanoseconds a step: 230 without, 260 with one
/// order, 98 to 128 with two, 142 to 164 with three.
const ROOM_ORDERS: u8 = 2;
/// The largest such block: an area of a buddy. Beyond, runs take areas that others may want whole.
const MOST_ROOM: u8 = 9;

impl<S: System<Pages: PageResize>, K: Hardening> Kmalloc<S, K> {
    #[cold]
    #[inline(never)]
    pub(crate) fn allocate_large(&self, layout: Layout) -> Result<PageRun, OutOfMemory> {
        self.take_run(layout, S::Pages::allocate_run)
    }

    pub(crate) fn try_allocate_large(&self, layout: Layout) -> Result<PageRun, OutOfMemory> {
        self.take_run(layout, S::Pages::try_allocate_run)
    }

    fn take_run(
        &self,
        layout: Layout,
        take: fn(&S::Pages, usize, Order) -> Result<PageRun, OutOfMemory>,
    ) -> Result<PageRun, OutOfMemory> {
        let alignment = Order::for_bytes(layout.align()).ok_or(OutOfMemory)?.order;
        let run = take(self.registry().source(), pages_for(layout.size()), alignment)?;
        // Relaxed, here and below: a statistic.
        self.large_pages.fetch_add(run.pages, Ordering::Relaxed);
        Ok(run)
    }

    /// Allocates as [`allocate_large`](Self::allocate_large) does what is to grow on: with free pages behind it, if such a place
    /// is free as it is.
    #[cold]
    pub(crate) fn allocate_with_room(&self, layout: Layout) -> Result<NonNull<u8>, OutOfMemory> {
        let pages = pages_for(layout.size());
        let with_room = |tight: Order| Order::new((tight.get() + ROOM_ORDERS).min(MOST_ROOM));
        let block = Order::for_pages(pages).and_then(with_room).map_or(0, Order::bytes);
        // Alignment to a whole block leads to its start.
        if let Ok(roomy) = Layout::from_size_align(layout.size(), block.max(layout.align())) {
            match self.try_allocate_large(roomy) {
                Ok(run) if run.pages == pages => return Ok(run.start),
                // A source of whole blocks would keep the room for nothing.
                // SAFETY: just allocated, and nobody has seen it.
                Ok(run) => unsafe { self.free_large(run.start) },
                Err(OutOfMemory) => {}
            }
        }
        self.allocate_large(layout).map(|run| run.start)
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
