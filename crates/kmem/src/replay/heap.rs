//! Allocators without caches and CPU slots, as targets: each object and each block of pages is
//! allocated by its layout.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::{NonNull, with_exposed_provenance_mut};

use page_frame::{OutOfMemory, PAGE_SIZE};

use super::outcome::StackTotals;
use super::target::{NoCache, OBJECT_ALIGN, ObjectTarget, PageTarget};

/// An allocator of memory of any layout.
///
/// # Safety
/// 1. `allocate` returns memory that is valid for the layout and has no other user until it is
///    freed.
pub unsafe trait Heap {
    /// Allocates memory of `layout`, which is not empty.
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>>;

    /// Frees the memory at `start`.
    ///
    /// # Safety
    /// 1. `start` came from `allocate` with this layout and was not freed since.
    unsafe fn free(&mut self, start: NonNull<u8>, layout: Layout);

    /// Returns how many pages were ever written, or zero if the heap does not count them.
    fn touched_pages(&self) -> usize {
        0
    }
}

/// A heap as a target of object events.
#[derive(Debug, Default)]
pub struct HeapTarget<H>(pub H);

/// A heap as a target of page events: a block is memory of its size, aligned to it.
#[derive(Debug, Default)]
pub struct HeapPages<H>(pub H);

/// The system's allocator. It does not report how many pages it holds.
#[derive(Debug, Default)]
pub struct System;

/// Returns the layout of a request, which has at least one byte.
fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, OBJECT_ALIGN).expect("a request is at most 1 GiB")
}

// SAFETY: clause 1 is that of `Heap`, and the layout has the alignment of objects.
unsafe impl<H: Heap> ObjectTarget for HeapTarget<H> {
    /// The bytes of an object.
    type Cache = usize;

    fn open_cache(&mut self, _: &str, object_bytes: usize) -> Result<usize, NoCache> {
        Ok(object_bytes)
    }

    fn allocate_object(&mut self, object_bytes: usize) -> Result<NonNull<u8>, OutOfMemory> {
        self.allocate_bytes(object_bytes)
    }

    unsafe fn free_object(&mut self, object_bytes: usize, object: NonNull<u8>) {
        // SAFETY: clause 1 of `free_object`: allocated with the size of its cache.
        unsafe { self.free_bytes(object, object_bytes) }
    }

    fn allocate_bytes(&mut self, bytes: usize) -> Result<NonNull<u8>, OutOfMemory> {
        self.0.allocate(layout(bytes)).ok_or(OutOfMemory)
    }

    unsafe fn free_bytes(&mut self, start: NonNull<u8>, bytes: usize) {
        // SAFETY: clause 1 of `free_bytes`: allocated with this layout.
        unsafe { self.0.free(start, layout(bytes)) }
    }

    /// Returns the pages that were ever written. The count does not fall when the heap releases
    /// pages.
    fn totals(&self) -> StackTotals {
        StackTotals { peak_pages: self.0.touched_pages(), ..StackTotals::default() }
    }
}

/// Returns the layout of a block.
fn block(order: u8) -> Layout {
    let bytes = PAGE_SIZE << order;
    Layout::from_size_align(bytes, bytes).expect("a block is at most 1 GiB")
}

impl<H: Heap> PageTarget for HeapPages<H> {
    /// Ignores the migrate type.
    fn allocate(&mut self, order: u8, _: u8) -> Result<u64, OutOfMemory> {
        let start = self.0.allocate(block(order)).ok_or(OutOfMemory)?;
        let address = start.as_ptr().expose_provenance();
        assert!(
            address % block(order).align() == 0,
            "a block of order {order} at {address:#x} is not aligned to its size"
        );
        Ok((address / PAGE_SIZE) as u64)
    }

    fn free(&mut self, frame: u64, order: u8) -> Result<(), String> {
        let start = with_exposed_provenance_mut(frame as usize * PAGE_SIZE);
        let start = NonNull::new(start).ok_or("no block is at address zero")?;
        // SAFETY: clause 1 of `Heap::free`: `allocate` got it for this layout and exposed it, and
        // `Pages` frees each live block once, with its order.
        unsafe { self.0.free(start, block(order)) };
        Ok(())
    }
}

// SAFETY: clause 1 is what `std::alloc::alloc` promises for a layout that is not empty.
unsafe impl Heap for System {
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: the layout is not empty.
        NonNull::new(unsafe { alloc(layout) })
    }

    unsafe fn free(&mut self, start: NonNull<u8>, layout: Layout) {
        // SAFETY: clause 1 of `Heap::free`: allocated by `alloc` with this layout.
        unsafe { dealloc(start.as_ptr(), layout) }
    }
}
