//! Who gives pages: the seam between each layer and the one below.

use crate::block::PageBlock;
use crate::error::OutOfMemory;
use crate::order::Order;

/// Something that hands out aligned blocks of pages and takes them back.
///
/// Zones, quotas, counting, fault injection and reclaim are each another page source around one. Both methods take
/// `&self`: a source that several CPUs use brings its own synchronisation.
///
/// # Safety
/// 1. `allocate` returns memory that is valid as [`PageBlock::from_raw`] says and that nobody else uses until it is
///    freed.
/// 2. `free` does not unwind after it has taken the memory back.
///
/// # Examples
/// The smallest source has nothing to give: [`NoPages`]. The smallest real one is [`Arena`](crate::Arena).
pub unsafe trait PageSource {
    /// Returns a block of `order`, its content arbitrary unless [`PageBlock::is_zero`].
    ///
    /// # Errors
    /// [`OutOfMemory`] when no such block can be had.
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory>;

    /// Returns a block as [`allocate`](Self::allocate) does, of what is free as it is: asks no shrinker for more. Sources around
    /// another one ask that one's `try_allocate`.
    ///
    /// # Errors
    /// [`OutOfMemory`] when no such block is free.
    fn try_allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        self.allocate(order)
    }

    /// Takes `block` back.
    ///
    /// # Safety
    /// 1. `block` came from this source.
    /// 2. No reference or pointer into it is used from now on.
    unsafe fn free(&self, block: PageBlock);
}

/// A page source that has nothing: every request is [`OutOfMemory`].
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPages;

// SAFETY: clause 1 holds as nothing is ever returned; clause 2 as `free` cannot be called with a block of ours.
unsafe impl PageSource for NoPages {
    fn allocate(&self, _order: Order) -> Result<PageBlock, OutOfMemory> {
        Err(OutOfMemory)
    }

    unsafe fn free(&self, block: PageBlock) {
        unreachable!("no block ever came from here, yet {:p} is given back", block.start());
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
        // SAFETY: the caller's clauses are those of the source behind the reference.
        unsafe { (**self).free(block) }
    }
}
