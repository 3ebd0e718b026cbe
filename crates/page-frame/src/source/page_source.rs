//! `PageSource`: the interface of everything that allocates blocks of pages.

use crate::block::PageBlock;
use crate::error::OutOfMemory;
use crate::order::Order;
use crate::source::byte_source::ByteSource;

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
/// implements one over a `Vec`. An adapter that allocates single pages only:
///
/// ```
/// use page_frame::{Arena, Order, OutOfMemory, PageBlock, PageSource};
/// struct SinglePages<P>(P);
/// // SAFETY: clauses 1 and 2: the wrapped source allocates and frees every block.
/// unsafe impl<P: PageSource> PageSource for SinglePages<P> {
///     fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
///         if order > Order::ZERO { Err(OutOfMemory) } else { self.0.allocate(order) }
///     }
///     fn try_allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
///         if order > Order::ZERO { Err(OutOfMemory) } else { self.0.try_allocate(order) }
///     }
///     unsafe fn free(&self, block: PageBlock) {
///         // SAFETY: the caller keeps the clauses; the wrapped source returned this block.
///         unsafe { self.0.free(block) }
///     }
/// }
/// # let mut memory = vec![core::mem::MaybeUninit::uninit(); 64 * 1024];
/// let pages = SinglePages(Arena::new(&mut memory)?);
/// assert!(pages.allocate(Order::new(1).unwrap()).is_err());
/// let page = pages.allocate(Order::ZERO)?;
/// // SAFETY: the page came from this source and nothing refers into it.
/// unsafe { pages.free(page) };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub unsafe trait PageSource {
    /// Returns a block of `order`, its content arbitrary unless [`PageBlock::is_zero`].
    /// Example: see [`PageSource`].
    ///
    /// # Errors
    /// [`OutOfMemory`] when there is no such block, even after calling shrinkers.
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory>;

    /// As [`allocate`](Self::allocate), but calls no shrinker. A source that wraps another one
    /// calls the inner `try_allocate`. Example: see [`PageSource`].
    ///
    /// # Errors
    /// [`OutOfMemory`] when no such block is free.
    fn try_allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        self.allocate(order)
    }

    /// Frees `block`. Example: see [`PageSource`].
    ///
    /// # Safety
    /// 1. `block` came from this source.
    /// 2. No reference or pointer into it is used afterwards.
    unsafe fn free(&self, block: PageBlock);

    /// Returns the interface for memory of any size, if this source serves such requests.
    /// Example: see [`ByteSource`].
    #[inline]
    fn byte_source(&self) -> Option<&dyn ByteSource> {
        None
    }
}

/// A page source without memory: every request fails with [`OutOfMemory`].
///
/// ```
/// use page_frame::{NoPages, Order, OutOfMemory, PageSource};
/// assert_eq!(NoPages.allocate(Order::ZERO).unwrap_err(), OutOfMemory);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPages;

// SAFETY: clause 1: it never returns a block. Clause 2: so no block can be freed here.
unsafe impl PageSource for NoPages {
    fn allocate(&self, _order: Order) -> Result<PageBlock, OutOfMemory> {
        Err(OutOfMemory)
    }

    unsafe fn free(&self, block: PageBlock) {
        // A block that is dropped panics too, and a second panic aborts.
        let (start, _) = block.into_raw();
        unreachable!("NoPages never returned a block, but {start:p} is freed");
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

    #[inline]
    fn byte_source(&self) -> Option<&dyn ByteSource> {
        (**self).byte_source()
    }
}
