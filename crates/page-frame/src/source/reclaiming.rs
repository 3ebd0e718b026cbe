//! A page source that asks a shrinker when memory is short: the only place of the stack that
//! reclaims and retries.

use core::ptr::NonNull;

use crate::block::PageBlock;
use crate::error::OutOfMemory;
use crate::order::Order;
use crate::page_map::forward::ForwardPageMap;
use crate::page_map::map::PageMap;
use crate::source::page_source::PageSource;
use crate::source::run::{PageResize, PageRun};
use crate::source::shrink::Shrink;

/// A page source that, when the source below has no memory, calls a shrinker and then tries once
/// more.
///
/// It holds no lock while it calls the shrinker.
///
/// ```
/// use page_frame::{Arena, Order, PageSource, Reclaiming, Shrink};
/// struct Nothing;
/// impl Shrink for Nothing {
///     fn reclaimable(&self) -> usize { 0 }
///     fn shrink(&self, _: usize) -> usize { 0 }
/// }
/// # let mut memory = vec![core::mem::MaybeUninit::uninit(); 64 * 1024];
/// let source = Reclaiming::new(Arena::new(&mut memory)?, Nothing);
/// assert!(source.allocate(Order::MAX).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Reclaiming<P, S> {
    source: P,
    shrinker: S,
}

impl<P, S> Reclaiming<P, S> {
    /// Puts `shrinker` between the callers and `source`.
    pub const fn new(source: P, shrinker: S) -> Self {
        Self { source, shrinker }
    }

    /// Returns the source below.
    pub const fn source(&self) -> &P {
        &self.source
    }

    /// Returns the shrinker.
    pub const fn shrinker(&self) -> &S {
        &self.shrinker
    }
}

// SAFETY: clauses 1 and 2 are those of the source below, which allocates and frees every block.
unsafe impl<P: PageSource, S: Shrink> PageSource for Reclaiming<P, S> {
    #[inline]
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        self.source.allocate(order).or_else(|_| {
            self.shrinker.shrink(order.pages());
            self.source.allocate(order)
        })
    }

    #[inline]
    fn try_allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        self.source.try_allocate(order)
    }

    #[inline]
    unsafe fn free(&self, block: PageBlock) {
        // SAFETY: the caller's clauses: the block came from the source below, unchanged.
        unsafe { self.source.free(block) }
    }
}

// SAFETY: clause 1: always the map of the field, which lives in this value.
unsafe impl<P: PageMap, S> ForwardPageMap for Reclaiming<P, S> {
    #[inline(always)]
    fn page_map(&self) -> &impl PageMap {
        &self.source
    }
}

// SAFETY: clauses 1 and 2 are those of the source below, which allocates, resizes and frees every
// run.
unsafe impl<P: PageResize, S: Shrink> PageResize for Reclaiming<P, S> {
    fn allocate_run(&self, pages: usize, alignment: Order) -> Result<PageRun, OutOfMemory> {
        self.source.allocate_run(pages, alignment).or_else(|_| {
            self.shrinker.shrink(pages);
            self.source.allocate_run(pages, alignment)
        })
    }

    fn try_allocate_run(&self, pages: usize, alignment: Order) -> Result<PageRun, OutOfMemory> {
        self.source.try_allocate_run(pages, alignment)
    }

    unsafe fn free_run(&self, start: NonNull<u8>, pages: usize) {
        // SAFETY: the caller's clauses: the run came from the source below, unchanged.
        unsafe { self.source.free_run(start, pages) }
    }

    unsafe fn move_content(&self, from: NonNull<u8>, to: NonNull<u8>, pages: usize) -> bool {
        // SAFETY: the caller's clause: both runs came from the source below, unchanged.
        unsafe { self.source.move_content(from, to, pages) }
    }

    unsafe fn resize_run(&self, start: NonNull<u8>, pages: usize, new_pages: usize) -> bool {
        // SAFETY: the caller's clauses: the run came from the source below, unchanged.
        unsafe { self.source.resize_run(start, pages, new_pages) }
    }
}
