//! Runs: exact page counts on top of a page source, found again by address through its page map.

use core::ptr::NonNull;

use crate::block::PageBlock;
use crate::error::OutOfMemory;
use crate::order::Order;
use crate::page_map::map::PageMap;
use crate::source::page_source::PageSource;

/// A number of pages that need not be a power of two, with an owner.
///
/// Unlike a [`PageBlock`] it is only a description: the ownership lies with whoever allocated it.
///
/// ```
/// use page_frame::{Arena, Order, PageMap, PageResize};
/// # let mut memory = vec![core::mem::MaybeUninit::uninit(); 64 * 1024];
/// let arena = Arena::new(&mut memory)?;
/// let run = arena.allocate_run(3, Order::ZERO)?;
/// assert_eq!(run.pages(), 4); // an arena has whole blocks only
/// assert_eq!(arena.run_pages(run.start().addr().get()), Some(4));
/// // SAFETY: the run is ours, and nothing refers into it.
/// unsafe { arena.free_run(run.start(), run.pages()) };
/// assert_eq!(arena.run_pages(run.start().addr().get()), None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRun {
    start: NonNull<u8>,
    pages: usize,
    is_zero: bool,
}

impl PageRun {
    /// Describes the run of `pages` pages at `start`. A value of this type proves nothing about the memory.
    #[inline]
    pub const fn new(start: NonNull<u8>, pages: usize, is_zero: bool) -> Self {
        Self { start, pages, is_zero }
    }

    /// Returns the address of the first byte.
    #[inline]
    pub const fn start(self) -> NonNull<u8> {
        self.start
    }

    /// Returns the size in pages.
    #[inline]
    pub const fn pages(self) -> usize {
        self.pages
    }

    /// Whether the source knows that every byte reads as zero.
    #[inline]
    pub const fn is_zero(self) -> bool {
        self.is_zero
    }
}

/// A page source that knows exact page counts.
///
/// The head of each run carries [`Tag::RUN`](crate::Tag::RUN) in the page map, and its page count as the word, so that
/// an address alone is enough to free it. The provided methods serve a source that has blocks only: a run is then a
/// whole block, and never changes its size in place.
///
/// # Safety
/// 1. As for [`PageSource`], for runs.
/// 2. While a run is allocated its head is tagged and counted as said above.
pub unsafe trait PageResize: PageSource + PageMap {
    /// Returns a run of at least `pages` pages, its start aligned to `alignment` (an order).
    ///
    /// # Errors
    /// [`OutOfMemory`] when no such run can be had, `pages` is zero, or it exceeds the largest block.
    fn allocate_run(&self, pages: usize, alignment: Order) -> Result<PageRun, OutOfMemory> {
        if pages == 0 {
            return Err(OutOfMemory);
        }
        let order = Order::for_pages(pages).ok_or(OutOfMemory)?.max(alignment);
        let block = self.allocate(order)?;
        let is_zero = block.is_zero();
        let (start, order) = block.into_raw();
        // SAFETY: the block is ours and its head page is mapped by this page map.
        unsafe { self.set_run(start, order.pages()) };
        Ok(PageRun::new(start, order.pages(), is_zero))
    }

    /// Returns a run as [`allocate_run`](Self::allocate_run) does, and asks no shrinker, as [`PageSource::try_allocate`].
    ///
    /// # Errors
    /// [`OutOfMemory`] when no such run is free.
    fn try_allocate_run(&self, pages: usize, alignment: Order) -> Result<PageRun, OutOfMemory> {
        self.allocate_run(pages, alignment)
    }

    /// Takes a run back.
    ///
    /// # Safety
    /// 1. `start` is the start of a run that came from `allocate_run` of this source, now `pages` pages long.
    /// 2. No reference or pointer into it is used from now on.
    unsafe fn free_run(&self, start: NonNull<u8>, pages: usize) {
        let order = Order::for_pages(pages).expect("clause 1: the run came from a block");
        // SAFETY: clause 1: the head is a run's; `free` expects to find the tag that `allocate` left.
        unsafe { self.clear_run(start, order) };
        // SAFETY: clause 1: the provided `allocate_run` took exactly this block.
        let block = unsafe { PageBlock::from_raw(start, order, false) };
        // SAFETY: clauses 1 and 2.
        unsafe { self.free(block) };
    }

    /// Changes the length of a run to `new_pages` without moving it; whether that worked.
    ///
    /// Growing takes free pages behind the run; shrinking gives its tail back.
    ///
    /// # Safety
    /// 1. `start` is the start of a run that came from `allocate_run` of this source, now `pages` pages long.
    /// 2. When shrinking, no reference or pointer into the tail is used from now on.
    unsafe fn resize_run(&self, start: NonNull<u8>, pages: usize, new_pages: usize) -> bool {
        let _ = start;
        pages == new_pages
    }

    /// Moves the content of `pages` pages from one run to another without copying it, where the machine can map pages
    /// elsewhere; whether it did. What the pages left behind contain is arbitrary.
    ///
    /// # Safety
    /// 1. Both are the starts of runs of this source, of at least so many pages, that are the caller's.
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
        // SAFETY: the caller's clauses are those of the source behind the reference.
        unsafe { (**self).free_run(start, pages) }
    }

    unsafe fn resize_run(&self, start: NonNull<u8>, pages: usize, new_pages: usize) -> bool {
        // SAFETY: the caller's clauses are those of the source behind the reference.
        unsafe { (**self).resize_run(start, pages, new_pages) }
    }

    unsafe fn move_content(&self, from: NonNull<u8>, to: NonNull<u8>, pages: usize) -> bool {
        // SAFETY: the caller's clause is that of the source behind the reference.
        unsafe { (**self).move_content(from, to, pages) }
    }
}
