//! Large allocations: runs of whole pages. A run has exactly the pages that the request needs, if
//! the page source can allocate that number.
//!
//! The page map knows where a run starts and how many pages it has, so [`LargeRuns`] keeps only a
//! count of pages.

use core::alloc::Layout;
use core::ptr::NonNull;

use page_frame::sync::{AtomicUsize, Ordering};
use page_frame::{
    FaultKind, Order, OutOfMemory, PAGE_SHIFT, PAGE_SIZE, PageMap, PageResize, PageRun, Tag,
};

/// A run that grows moves to the start of a free block that is this many orders larger than the
/// run. The rest of the block stays free for a while, so that the run can grow in place.
///
/// Measured with 64 vectors that grow in turn, each by half, up to 256 KiB. A step took 230 ns
/// without room, 260 ns with one order, 98 to 128 ns with two, and 142 to 164 ns with three.
const ROOM_ORDERS: u8 = 2;
/// The largest order of such a block: an area of a buddy. A larger one would break up areas that
/// requests for whole areas need.
const MAX_ROOM: u8 = 9;

/// Maximum number of pages below a wrong pointer that are searched for an allocation around it.
const SEARCHED: usize = 1 << 18;

/// The large allocations of an allocator: a count of their pages.
#[derive(Debug)]
pub(crate) struct LargeRuns {
    /// All accesses are Relaxed: the count is a statistic, and publishes nothing.
    pages: AtomicUsize,
}

impl LargeRuns {
    pub(crate) fn new() -> Self {
        Self { pages: AtomicUsize::new(0) }
    }

    /// Returns the pages of all large allocations.
    pub(crate) fn pages(&self) -> usize {
        self.pages.load(Ordering::Relaxed)
    }

    /// Allocates a run of pages for `layout`.
    #[cold]
    #[inline(never)]
    pub(crate) fn allocate<P: PageResize>(
        &self,
        source: &P,
        layout: Layout,
    ) -> Result<PageRun, OutOfMemory> {
        self.take_run(source, layout, P::allocate_run)
    }

    /// Allocates a run as [`allocate`](Self::allocate) does, without reclaiming.
    pub(crate) fn try_allocate<P: PageResize>(
        &self,
        source: &P,
        layout: Layout,
    ) -> Result<PageRun, OutOfMemory> {
        self.take_run(source, layout, P::try_allocate_run)
    }

    fn take_run<P: PageResize>(
        &self,
        source: &P,
        layout: Layout,
        take: fn(&P, usize, Order) -> Result<PageRun, OutOfMemory>,
    ) -> Result<PageRun, OutOfMemory> {
        let alignment = Order::for_bytes(layout.align()).ok_or(OutOfMemory)?.order;
        let run = take(source, pages_for(layout.size()), alignment)?;
        self.pages.fetch_add(run.pages(), Ordering::Relaxed);
        Ok(run)
    }

    /// Allocates a run that is expected to grow: with free pages after it, if the source has such a
    /// place without reclaiming.
    #[cold]
    pub(crate) fn allocate_with_room<P: PageResize>(
        &self,
        source: &P,
        layout: Layout,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let pages = pages_for(layout.size());
        let with_room = |tight: Order| Order::new((tight.get() + ROOM_ORDERS).min(MAX_ROOM));
        let block = Order::for_pages(pages).and_then(with_room).map_or(0, Order::bytes);
        // A run that is aligned to the block lies at the start of it.
        if let Ok(roomy) = Layout::from_size_align(layout.size(), block.max(layout.align())) {
            match self.try_allocate(source, roomy) {
                Ok(run) if run.pages() == pages => return Ok(run.start()),
                // A source of whole blocks has allocated the room too, which would be wasted.
                // SAFETY: clause 1: just allocated, and no other code has seen it.
                Ok(run) => _ = unsafe { self.free(source, run.start()) },
                Err(OutOfMemory) => {}
            }
        }
        self.allocate(source, layout).map(|run| run.start())
    }

    /// Frees the run that starts at `start`. Returns whether one does.
    ///
    /// # Safety
    /// 1. If one does, the caller owns it, and no code uses it from now on.
    #[cold]
    #[inline(never)]
    pub(crate) unsafe fn free<P: PageResize>(&self, source: &P, start: NonNull<u8>) -> bool {
        let address = start.addr().get();
        let Some(pages) = Self::pages_at(source, address) else { return false };
        self.pages.fetch_sub(pages, Ordering::Relaxed);
        // SAFETY: a run of `pages` pages of the source starts at `address`, and by clause 1 the
        // caller gives it up. The source makes the pointer from the address.
        unsafe { source.free_run(source.pointer(address), pages) };
        true
    }

    /// Changes the length of the run at `start` without moving it. Returns whether it did.
    ///
    /// # Safety
    /// 1. `start` is a large allocation that the caller owns, and no code uses the tail that is
    ///    freed.
    pub(crate) unsafe fn resize<P: PageResize>(
        &self,
        source: &P,
        start: NonNull<u8>,
        bytes: usize,
    ) -> bool {
        let address = start.addr().get();
        let Some(pages) = Self::pages_at(source, address) else { return false };
        let new_pages = pages_for(bytes);
        if new_pages == pages {
            return true;
        }
        // SAFETY: clause 1: a run of `pages` pages that the caller owns, and no code uses the pages
        // after the new end.
        if unsafe { source.resize_run(source.pointer(address), pages, new_pages) } {
            // The atomic addition wraps, so this subtracts if the run became shorter.
            self.pages.fetch_add(new_pages.wrapping_sub(pages), Ordering::Relaxed);
            return true;
        }
        // A source of whole blocks cannot free the tail. The run stays while more than half of it
        // is used, as moving it would cost more than the tail.
        new_pages < pages && new_pages * 2 > pages
    }

    /// Moves the first `bytes` bytes from one large allocation to another by mapping pages, if the
    /// source can. Returns whether it did.
    ///
    /// # Safety
    /// 1. Both are allocations without a class that the caller owns, of at least that many bytes.
    pub(crate) unsafe fn remap<P: PageResize>(
        source: &P,
        from: NonNull<u8>,
        to: NonNull<u8>,
        bytes: usize,
    ) -> bool {
        let is_run = |start: NonNull<u8>| Self::pages_at(source, start.addr().get()).is_some();
        if !is_run(from) || !is_run(to) {
            return false;
        }
        let from = source.pointer(from.addr().get());
        // SAFETY: clause 1; runs are whole pages.
        unsafe { source.move_content(from, to, pages_for(bytes)) }
    }

    /// Returns which mistake a free of `address` is: no allocation starts there. `is_ours` returns
    /// whether an address lies in a page of the source. Reads the tags of the pages before
    /// `address`, at most [`SEARCHED`].
    pub(crate) fn misuse_at<P: PageMap>(
        source: &P,
        is_ours: impl Fn(usize) -> bool,
        address: usize,
    ) -> FaultKind {
        match source.tag(address) {
            Tag::RUN => return FaultKind::InteriorPointer,
            tag if tag.is_slab() => return FaultKind::WrongCache,
            tag if tag != Tag::NONE || !is_ours(address) => return FaultKind::ForeignPointer,
            _ => {}
        }
        // A page without a tag is free, or it belongs to the run or block whose first page is the
        // nearest tagged page before it.
        let mut page = address & !(PAGE_SIZE - 1);
        for distance in 1..SEARCHED {
            page = page.wrapping_sub(PAGE_SIZE);
            if !is_ours(page) {
                break;
            }
            match source.tag(page) {
                Tag::NONE => {}
                Tag::RUN if source.run_pages(page).is_some_and(|pages| pages > distance) => {
                    return FaultKind::InteriorPointer;
                }
                tag if tag.as_block().is_some_and(|order| order.pages() > distance) => {
                    return FaultKind::ForeignPointer;
                }
                _ => break,
            }
        }
        FaultKind::DoubleFree
    }

    /// Returns the pages of the large allocation that starts exactly at `address`.
    pub(crate) fn pages_at<P: PageResize>(source: &P, address: usize) -> Option<usize> {
        source.run_pages(address).filter(|_| address % PAGE_SIZE == 0)
    }
}

/// Returns how many pages `bytes` bytes take: at least one.
pub(crate) const fn pages_for(bytes: usize) -> usize {
    let pages = bytes.div_ceil(PAGE_SIZE);
    if pages == 0 { 1 } else { pages }
}

const _: () = assert!(pages_for(0) == 1 && pages_for((1 << PAGE_SHIFT) + 1) == 2);
