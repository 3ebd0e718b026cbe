//! `PageSource`: the interface of everything that allocates blocks of pages.

use crate::block::PageBlock;
use crate::error::OutOfMemory;
use crate::order::Order;

/// Allocates and frees aligned blocks of pages.
///
/// Zones, quotas, counting, fault injection and reclaim are page sources that wrap another page
/// source. All methods take `&self`: a source that several CPUs use synchronises itself.
///
/// # Safety
/// 1. `allocate` and `try_allocate` return memory that keeps the clauses of
///    [`PageBlock::from_raw`], and that no other code uses until it is freed.
/// 2. `free` does not unwind after it has made the memory free.
///
/// # Examples
/// [`Arena`](crate::Arena) is the smallest source that has memory. `examples/own_page_source.rs`
/// implements one over a `Vec`.
pub unsafe trait PageSource {
    /// Returns a block of `order`, its content arbitrary unless [`PageBlock::is_zero`].
    ///
    /// # Errors
    /// [`OutOfMemory`] when there is no such block, even after calling shrinkers.
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory>;

    /// As [`allocate`](Self::allocate), but calls no shrinker. A source that wraps another one
    /// calls the inner `try_allocate`.
    ///
    /// # Errors
    /// [`OutOfMemory`] when no such block is free.
    fn try_allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        self.allocate(order)
    }

    /// Frees `block`.
    ///
    /// # Safety
    /// 1. `block` came from this source.
    /// 2. No reference or pointer into it is used afterwards.
    unsafe fn free(&self, block: PageBlock);
}

/// A page source without memory: every request fails with [`OutOfMemory`].
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPages;

// SAFETY: clause 1: it never returns a block. Clause 2: so no block can be freed here.
unsafe impl PageSource for NoPages {
    fn allocate(&self, _order: Order) -> Result<PageBlock, OutOfMemory> {
        Err(OutOfMemory)
    }

    unsafe fn free(&self, block: PageBlock) {
        unreachable!("NoPages never returned a block, but {:p} is freed", block.start());
    }
}

// SAFETY: every method forwards to the same source.
unsafe impl<P: PageSource + ?Sized> PageSource for &P {
    #[inline]
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        (**self).allocate(order)
    }

    #[inline]
    fn try_allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        (**self).try_allocate(order)
    }

    #[inline]
    unsafe fn free(&self, block: PageBlock) {
        // SAFETY: the clauses of `free` are the same for the referenced source.
        unsafe { (**self).free(block) }
    }
}
