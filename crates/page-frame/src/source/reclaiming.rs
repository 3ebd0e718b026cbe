//! A page source that calls a shrinker after a failed allocation, and then retries once. No other
//! page source of these crates reclaims and retries.

use core::alloc::Layout;
use core::ptr::NonNull;

use crate::block::PageBlock;
use crate::error::OutOfMemory;
use crate::fault::FaultKind;
use crate::order::{Order, PAGE_SIZE};
use crate::page_map::forward::ForwardPageMap;
use crate::page_map::map::PageMap;
use crate::source::byte_source::ByteSource;
use crate::source::page_source::PageSource;
use crate::source::run::{PageResize, PageRun};
use crate::source::shrink::Shrink;

/// A page source that calls a shrinker when an allocation of the wrapped source fails, and then
/// retries once, even when the shrinker freed nothing.
///
/// It has no lock. `try_allocate`, `try_allocate_run` and `resize_run` do not call the shrinker.
///
/// ```
/// use page_frame::{Arena, Order, PageBlock, PageSource, Reclaiming, Shrink};
/// use std::sync::Mutex;
/// /// Keeps a block until memory is short.
/// struct Kept<'a>(&'a Arena<'a>, Mutex<Option<PageBlock>>);
/// impl Shrink for Kept<'_> {
///     fn reclaimable(&self) -> usize { 8 }
///     fn shrink(&self, _: usize) -> usize {
///         let kept = self.1.try_lock().ok().and_then(|mut kept| kept.take());
///         let Some(block) = kept else { return 0 };
///         // SAFETY: the block came from this arena and nothing refers into it.
///         unsafe { self.0.free(block) };
///         8
///     }
/// }
/// # #[repr(align(0x8000))] // as order 3: so the block behind the bookkeeping is the only one
/// # struct Memory([core::mem::MaybeUninit<u8>; 64 * 1024]);
/// # let mut memory = Box::new(Memory([core::mem::MaybeUninit::uninit(); 64 * 1024]));
/// let arena = Arena::new(&mut memory.0)?; // has one block of order 3
/// let order = Order::new(3).unwrap();
/// let source = Reclaiming::new(&arena, Kept(&arena, Mutex::new(Some(arena.allocate(order)?))));
/// assert!(source.source().allocate(order).is_err());
/// let block = source.allocate(order)?; // calls the shrinker, and tries again
/// assert!(source.shrinker().1.lock().unwrap().is_none());
/// // SAFETY: the block came from this source and nothing refers into it.
/// unsafe { source.free(block) };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Reclaiming<P, S> {
    source: P,
    shrinker: S,
}

impl<P, S> Reclaiming<P, S> {
    /// Wraps `source`; `shrinker` is called when an allocation fails. Example: see [`Reclaiming`].
    pub const fn new(source: P, shrinker: S) -> Self {
        Self { source, shrinker }
    }

    /// Returns the wrapped source. Example: see [`Reclaiming`].
    pub const fn source(&self) -> &P {
        &self.source
    }

    /// Returns the shrinker. Example: see [`Reclaiming`].
    pub const fn shrinker(&self) -> &S {
        &self.shrinker
    }
}

// SAFETY: `PageSource` clauses 1 and 2: the wrapped source allocates and frees every block.
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
        // SAFETY: the caller keeps the clauses of `free`; the wrapped source returned this block.
        unsafe { self.source.free(block) }
    }

    fn byte_source(&self) -> Option<&dyn ByteSource> {
        self.source.byte_source().is_some().then_some(self)
    }
}

impl<P: PageSource, S> Reclaiming<P, S> {
    fn bytes(&self) -> Result<&dyn ByteSource, OutOfMemory> {
        self.source.byte_source().ok_or(OutOfMemory)
    }
}

// SAFETY: clauses 1 and 2: the wrapped source allocates and frees all bytes.
unsafe impl<P: PageSource, S: Shrink> ByteSource for Reclaiming<P, S> {
    fn is_small(&self) -> bool {
        self.bytes().is_ok_and(|bytes| bytes.is_small())
    }

    fn allocate_bytes(&self, layout: Layout) -> Result<NonNull<u8>, OutOfMemory> {
        let bytes = self.bytes()?;
        bytes.allocate_bytes(layout).or_else(|_| {
            self.shrinker.shrink(layout.size().div_ceil(PAGE_SIZE).max(1));
            bytes.allocate_bytes(layout)
        })
    }

    fn try_allocate_bytes(&self, layout: Layout) -> Result<NonNull<u8>, OutOfMemory> {
        self.bytes()?.try_allocate_bytes(layout)
    }

    unsafe fn free_at(&self, start: NonNull<u8>) -> Result<(), FaultKind> {
        let bytes = self.bytes().map_err(|_| FaultKind::ForeignPointer)?;
        // SAFETY: the caller keeps the clauses of `free_at`; the wrapped source returned this.
        unsafe { bytes.free_at(start) }
    }

    fn bytes_at(&self, address: usize) -> Result<usize, FaultKind> {
        self.bytes().map_err(|_| FaultKind::ForeignPointer)?.bytes_at(address)
    }

    unsafe fn resize_at(&self, start: NonNull<u8>, bytes: usize) -> bool {
        // SAFETY: the caller keeps the clauses of `resize_at`; the wrapped source returned this.
        self.bytes().is_ok_and(|source| unsafe { source.resize_at(start, bytes) })
    }

    fn byte_pages(&self) -> usize {
        self.bytes().map_or(0, |bytes| bytes.byte_pages())
    }
}

// SAFETY: `ForwardPageMap` clause 1: always the field `source`, which lives as long as `self`.
unsafe impl<P: PageMap, S> ForwardPageMap for Reclaiming<P, S> {
    #[inline(always)]
    fn page_map(&self) -> &impl PageMap {
        &self.source
    }
}

// SAFETY: `PageResize` clauses 1 and 2: the wrapped source allocates, resizes and frees every run.
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
        unsafe { self.source.resize_run(start, pages, new_pages) }
    }
}
