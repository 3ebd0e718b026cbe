//! Memory for the parts of a registry: bytes where the page source serves them, else a block.

use core::alloc::Layout;
use core::ptr::NonNull;

use page_frame::{Order, OutOfMemory, PageBlock, PageSource};

use crate::patience::Reclaim;

/// The kind of memory in which a part of a registry lies.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OwnMemory {
    /// A block of pages.
    Block(Order),
    /// Bytes of a source that serves bytes.
    Bytes,
}

impl OwnMemory {
    /// Allocates memory for `bytes` bytes, aligned to 64.
    pub(crate) fn allocate<P: PageSource>(
        source: &P,
        bytes: usize,
        reclaim: Reclaim,
    ) -> Result<(NonNull<u8>, Self), OutOfMemory> {
        if let Some(start) = Self::allocate_bytes(source, bytes, reclaim) {
            return Ok((start, Self::Bytes));
        }
        let order = Order::for_bytes(bytes).ok_or(OutOfMemory)?.order;
        let block = match reclaim {
            Reclaim::Allowed => source.allocate(order)?,
            Reclaim::Forbidden => source.try_allocate(order)?,
        };
        Ok((block.into_raw().0, Self::Block(order)))
    }

    /// Allocates memory as [`allocate`](Self::allocate) does, if the source serves bytes.
    pub(crate) fn allocate_bytes<P: PageSource>(
        source: &P,
        bytes: usize,
        reclaim: Reclaim,
    ) -> Option<NonNull<u8>> {
        let layout = Layout::from_size_align(bytes, 64).ok()?;
        let source = source.byte_source()?;
        let allocated = match reclaim {
            Reclaim::Allowed => source.allocate_bytes(layout),
            Reclaim::Forbidden => source.try_allocate_bytes(layout),
        };
        allocated.ok()
    }

    /// Frees the memory at `start`.
    ///
    /// # Safety
    /// 1. The memory was allocated in this way from this source, and no code uses it any more.
    pub(crate) unsafe fn free<P: PageSource>(self, source: &P, start: NonNull<u8>) {
        match self {
            Self::Block(order) => {
                // SAFETY: clause 1: the block that `allocate` took apart.
                let block = unsafe { PageBlock::from_raw(start, order, false) };
                // SAFETY: clause 1.
                unsafe { source.free(block) };
            }
            Self::Bytes => {
                let small = source.byte_source().expect("clause 1: the source serves bytes");
                // SAFETY: clauses 1 and 2: clause 1.
                let outcome = unsafe { small.free_at(start) };
                debug_assert!(outcome.is_ok(), "clause 1: it was allocated");
            }
        }
    }

    /// Returns the pages of the block.
    pub(crate) const fn pages(self) -> usize {
        match self {
            Self::Block(order) => order.pages(),
            Self::Bytes => 0,
        }
    }
}
