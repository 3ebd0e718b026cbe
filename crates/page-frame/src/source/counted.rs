//! A page source that counts the requests that pass through it.

use core::ptr::NonNull;

use crate::atomic::{AtomicUsize, Ordering};
use crate::block::PageBlock;
use crate::error::OutOfMemory;
use crate::order::Order;
use crate::page_map::forward::ForwardPageMap;
use crate::page_map::map::PageMap;
use crate::source::page_source::PageSource;
use crate::source::run::{PageResize, PageRun};
use crate::sync::model::const_unless_loom;

/// Counts the requests that pass to a page source, the failed ones, the allocated pages and their
/// peak.
///
/// ```
/// use page_frame::{Arena, Counted, Order, PageSource};
/// # let mut memory = vec![core::mem::MaybeUninit::uninit(); 64 * 1024];
/// let source = Counted::new(Arena::new(&mut memory)?);
/// let block = source.allocate(Order::new(1).unwrap())?;
/// assert_eq!(source.held_pages(), source.source().pages() - source.source().free_pages());
/// assert!(source.allocate(Order::MAX).is_err());
/// // SAFETY: the block came from this source and nothing refers into it.
/// unsafe { source.free(block) };
/// assert_eq!((source.allocations(), source.refusals()), (1, 1));
/// assert_eq!((source.held_pages(), source.peak_pages()), (0, 2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Counted<P> {
    source: P,
    allocations: AtomicUsize,
    refusals: AtomicUsize,
    held_pages: AtomicUsize,
    peak_pages: AtomicUsize,
}

impl<P> Counted<P> {
    const_unless_loom! {
        /// Counts the requests to `source`, from zero. Example: see [`Counted`].
        pub fn new(source: P) -> Self {
            Self {
                source,
                allocations: AtomicUsize::new(0),
                refusals: AtomicUsize::new(0),
                held_pages: AtomicUsize::new(0),
                peak_pages: AtomicUsize::new(0),
            }
        }
    }

    /// Returns the wrapped source. Example: see [`Counted`].
    pub const fn source(&self) -> &P {
        &self.source
    }

    /// Returns the number of blocks and runs allocated so far. Example: see [`Counted`].
    pub fn allocations(&self) -> usize {
        self.allocations.load(Ordering::Relaxed)
    }

    /// Returns the number of requests that failed with [`OutOfMemory`]. Example: see [`Counted`].
    pub fn refusals(&self) -> usize {
        self.refusals.load(Ordering::Relaxed)
    }

    /// Returns the number of pages that are allocated. Example: see [`Counted`].
    pub fn held_pages(&self) -> usize {
        self.held_pages.load(Ordering::Relaxed)
    }

    /// Returns the maximum number of pages that were allocated at once. Example: see [`Counted`].
    pub fn peak_pages(&self) -> usize {
        self.peak_pages.load(Ordering::Relaxed)
    }

    fn count<T>(
        &self,
        outcome: Result<T, OutOfMemory>,
        pages: impl Fn(&T) -> usize,
    ) -> Result<T, OutOfMemory> {
        // Relaxed, here and below: statistics; nothing is published by them.
        match &outcome {
            Ok(got) => {
                self.allocations.fetch_add(1, Ordering::Relaxed);
                self.gained(pages(got));
            }
            Err(OutOfMemory) => {
                self.refusals.fetch_add(1, Ordering::Relaxed);
            }
        }
        outcome
    }

    fn gained(&self, pages: usize) {
        let held = self.held_pages.fetch_add(pages, Ordering::Relaxed) + pages;
        self.peak_pages.fetch_max(held, Ordering::Relaxed);
    }
}

// SAFETY: `PageSource` clauses 1 and 2: the wrapped source allocates and frees every block.
unsafe impl<P: PageSource> PageSource for Counted<P> {
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        self.count(self.source.allocate(order), PageBlock::pages)
    }

    fn try_allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        self.count(self.source.try_allocate(order), PageBlock::pages)
    }

    unsafe fn free(&self, block: PageBlock) {
        self.held_pages.fetch_sub(block.pages(), Ordering::Relaxed);
        // SAFETY: the caller keeps the clauses of `free`; the wrapped source returned this block.
        unsafe { self.source.free(block) }
    }
}

// SAFETY: clause 1: always the field `source`, which lives in this value.
unsafe impl<P: PageMap> ForwardPageMap for Counted<P> {
    #[inline(always)]
    fn page_map(&self) -> &impl PageMap {
        &self.source
    }
}

// SAFETY: `PageResize` clauses 1 and 2: the wrapped source allocates, resizes and frees every run.
unsafe impl<P: PageResize> PageResize for Counted<P> {
    fn allocate_run(&self, pages: usize, alignment: Order) -> Result<PageRun, OutOfMemory> {
        self.count(self.source.allocate_run(pages, alignment), |run| run.pages())
    }

    fn try_allocate_run(&self, pages: usize, alignment: Order) -> Result<PageRun, OutOfMemory> {
        self.count(self.source.try_allocate_run(pages, alignment), |run| run.pages())
    }

    unsafe fn free_run(&self, start: NonNull<u8>, pages: usize) {
        self.held_pages.fetch_sub(pages, Ordering::Relaxed);
        // SAFETY: the caller keeps the clauses of `free_run`; the wrapped source returned this run.
        unsafe { self.source.free_run(start, pages) }
    }

    unsafe fn move_content(&self, from: NonNull<u8>, to: NonNull<u8>, pages: usize) -> bool {
        // SAFETY: the caller keeps clause 1 of `move_content`; the wrapped source returned both
        // runs.
        unsafe { self.source.move_content(from, to, pages) }
    }

    unsafe fn resize_run(&self, start: NonNull<u8>, pages: usize, new_pages: usize) -> bool {
        // SAFETY: the caller keeps the clauses of `resize_run`; the wrapped source returned this
        // run.
        let resized = unsafe { self.source.resize_run(start, pages, new_pages) };
        if resized && new_pages > pages {
            self.gained(new_pages - pages);
        } else if resized {
            self.held_pages.fetch_sub(pages - new_pages, Ordering::Relaxed);
        }
        resized
    }
}
