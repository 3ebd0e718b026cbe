//! Runs: allocations of any number of pages, whose length the page map stores.

use core::ptr::NonNull;

use crate::block::PageBlock;
use crate::error::OutOfMemory;
use crate::order::Order;
use crate::page_map::map::PageMap;
use crate::source::page_source::PageSource;

/// A run of pages: any number of them, not only a power of two.
///
/// Unlike a [`PageBlock`] the value owns nothing; it describes a run that the caller of
/// `allocate_run` owns.
///
/// ```
/// use page_frame::{Arena, Order, PageMap, PageResize, PageRun};
/// # let mut memory = vec![core::mem::MaybeUninit::uninit(); 64 * 1024];
/// let arena = Arena::new(&mut memory)?;
/// let run = arena.allocate_run(3, Order::ZERO)?;
/// assert_eq!(run.pages(), 3); // exactly, where the source can
/// assert!(!run.is_zero()); // an arena knows nothing of the content
/// // Whoever has kept the start only finds the length in the page map:
/// let start = run.start();
/// let pages = arena.run_pages(start.addr().get()).unwrap();
/// assert_eq!(PageRun::new(start, pages, false), run);
/// // SAFETY: the run came from this arena, and nothing refers into it.
/// unsafe { arena.free_run(start, pages) };
/// assert_eq!(arena.run_pages(start.addr().get()), None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRun {
    start: NonNull<u8>,
    pages: usize,
    is_zero: bool,
}

impl PageRun {
    /// Describes the run of `pages` pages at `start`. A value of this type proves nothing about the
    /// memory. Example: see [`PageRun`].
    #[inline]
    pub const fn new(start: NonNull<u8>, pages: usize, is_zero: bool) -> Self {
        Self { start, pages, is_zero }
    }

    /// Returns the address of the first byte. Example: see [`PageRun`].
    #[inline]
    pub const fn start(self) -> NonNull<u8> {
        self.start
    }

    /// Returns the size in pages. Example: see [`PageRun`].
    #[inline]
    pub const fn pages(self) -> usize {
        self.pages
    }

    /// Returns whether the source guarantees that every byte reads as zero.
    /// Example: see [`PageRun`].
    #[inline]
    pub const fn is_zero(self) -> bool {
        self.is_zero
    }
}

/// A page source that also allocates runs.
///
/// In the page map the head of each run has the tag [`Tag::RUN`](crate::Tag::RUN), and its owner
/// word is the page count. So the address of a run is enough to free it. The provided methods suit
/// a source that allocates only blocks: a run is then a whole block, and is never resized in place.
///
/// ```
/// use page_frame::{Arena, Order, OutOfMemory, PAGE_SIZE, PageResize, PageRun};
/// /// Makes `run` longer: in place, else by moving its content.
/// ///
/// /// # Safety
/// /// 1. `run` came from `source`, and is not used afterwards.
/// unsafe fn grow(
///     source: &impl PageResize, run: PageRun, pages: usize,
/// ) -> Result<PageRun, OutOfMemory> {
///     // SAFETY: clause 1.
///     if unsafe { source.resize_run(run.start(), run.pages(), pages) } {
///         return Ok(PageRun::new(run.start(), pages, false));
///     }
///     let new = source.allocate_run(pages, Order::ZERO)?;
///     // SAFETY: clause 1; the new run is as long.
///     if !unsafe { source.move_content(run.start(), new.start(), run.pages()) } {
///         // SAFETY: two runs that the caller owns do not overlap.
///         unsafe { new.start().copy_from_nonoverlapping(run.start(), run.pages() * PAGE_SIZE) };
///     }
///     // SAFETY: clause 1.
///     unsafe { source.free_run(run.start(), run.pages()) };
///     Ok(new)
/// }
/// # let mut memory = vec![core::mem::MaybeUninit::uninit(); 64 * 1024];
/// let arena = Arena::new(&mut memory)?;
/// let run = arena.try_allocate_run(1, Order::ZERO)?; // calls no shrinker
/// // SAFETY: the run is ours.
/// unsafe { run.start().write(7) };
/// // SAFETY: the run came from the arena; only the result is used below.
/// let run = unsafe { grow(&arena, run, 2) }?;
/// // SAFETY: the run is ours, and its first byte is initialised.
/// assert_eq!((unsafe { run.start().read() }, run.pages()), (7, 2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Safety
/// 1. As for [`PageSource`], for runs.
/// 2. While a run is allocated, the tag and the owner word of its head are as described above.
pub unsafe trait PageResize: PageSource + PageMap {
    /// Returns a run of at least `pages` pages, its start aligned to `alignment` (an order).
    /// Example: see [`PageResize`].
    ///
    /// # Errors
    /// [`OutOfMemory`] when there is no such run, when `pages` is zero, or when it exceeds the
    /// largest block.
    fn allocate_run(&self, pages: usize, alignment: Order) -> Result<PageRun, OutOfMemory> {
        if pages == 0 {
            return Err(OutOfMemory);
        }
        let order = Order::for_pages(pages).ok_or(OutOfMemory)?.max(alignment);
        let block = self.allocate(order)?;
        let is_zero = block.is_zero();
        let (start, order) = block.into_raw();
        // SAFETY: clause 1 of `set_run`: this call has just allocated the block from this source.
        unsafe { self.set_run(start, order.pages()) };
        Ok(PageRun::new(start, order.pages(), is_zero))
    }

    /// As [`allocate_run`](Self::allocate_run), but calls no shrinker. Example: see [`PageResize`].
    ///
    /// # Errors
    /// [`OutOfMemory`] when no such run is free.
    fn try_allocate_run(&self, pages: usize, alignment: Order) -> Result<PageRun, OutOfMemory> {
        self.allocate_run(pages, alignment)
    }

    /// Frees a run. Example: see [`PageResize`].
    ///
    /// # Safety
    /// 1. `start` is the start of a run that came from `allocate_run` of this source, now `pages`
    ///    pages long.
    /// 2. No reference or pointer into it is used afterwards.
    unsafe fn free_run(&self, start: NonNull<u8>, pages: usize) {
        let order = Order::for_pages(pages).expect("clause 1: the run came from a block");
        // SAFETY: clause 1 of `clear_run`: by clause 1 the run is the caller's. `free` expects the
        // tag that `allocate` set.
        unsafe { self.clear_run(start, order) };
        // SAFETY: clauses 1 to 3 of `from_raw`: by clause 1 the provided `allocate_run` allocated
        // exactly this block.
        let block = unsafe { PageBlock::from_raw(start, order, false) };
        // SAFETY: clauses 1 and 2 of `free` are clauses 1 and 2 of this method.
        unsafe { self.free(block) };
    }

    /// Changes the length of a run to `new_pages` without moving it. Returns whether that
    /// succeeded.
    ///
    /// Growing allocates the free pages that follow the run; shrinking frees its tail.
    /// Example: see [`PageResize`].
    ///
    /// # Safety
    /// 1. `start` is the start of a run that came from `allocate_run` of this source, now `pages`
    ///    pages long.
    /// 2. When shrinking, no reference or pointer into the tail is used afterwards.
    unsafe fn resize_run(&self, start: NonNull<u8>, pages: usize, new_pages: usize) -> bool {
        let _ = start;
        pages == new_pages
    }

    /// Moves the content of `pages` pages from one run to another by remapping, without copying.
    /// Returns whether it did; the content of `from` is arbitrary afterwards.
    /// Example: see [`PageResize`].
    ///
    /// # Safety
    /// 1. `from` and `to` are the starts of different runs of this source, of at least `pages`
    ///    pages, owned by the caller.
    unsafe fn move_content(&self, from: NonNull<u8>, to: NonNull<u8>, pages: usize) -> bool {
        let _ = (from, to, pages);
        false
    }
}

// SAFETY: every method forwards to the same source.
unsafe impl<P: PageResize> PageResize for &P {
    fn allocate_run(&self, pages: usize, alignment: Order) -> Result<PageRun, OutOfMemory> {
        (**self).allocate_run(pages, alignment)
    }

    fn try_allocate_run(&self, pages: usize, alignment: Order) -> Result<PageRun, OutOfMemory> {
        (**self).try_allocate_run(pages, alignment)
    }

    unsafe fn free_run(&self, start: NonNull<u8>, pages: usize) {
        // SAFETY: the clauses of `free_run` are the same for the referenced source.
        unsafe { (**self).free_run(start, pages) }
    }

    unsafe fn resize_run(&self, start: NonNull<u8>, pages: usize, new_pages: usize) -> bool {
        // SAFETY: the clauses of `resize_run` are the same for the referenced source.
        unsafe { (**self).resize_run(start, pages, new_pages) }
    }

    unsafe fn move_content(&self, from: NonNull<u8>, to: NonNull<u8>, pages: usize) -> bool {
        // SAFETY: clause 1 of `move_content` is the same for the referenced source.
        unsafe { (**self).move_content(from, to, pages) }
    }
}
