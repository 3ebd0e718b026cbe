//! The page allocator of ArceOS: the traits of its crates `ax-allocator` and `axallocator`, each
//! behind the feature of that name.
//!
//! Their methods take addresses, and `&mut self`: a kernel puts the allocator behind its own lock.
//! So one context at a time is inside, and the allocator needs no other machine.

use core::cell::Cell;
use core::fmt;
use core::marker::PhantomData;
use core::ptr::{self, NonNull};

use page_frame::{
    FrameNumber, FrameRange, OneContext, Order, OutOfMemory, PAGE_SHIFT, PAGE_SIZE, PhysMap,
};

use crate::allocator::growing::GrowingBuddy;

/// The address of a frame is that of its memory.
#[derive(Clone, Copy, Debug)]
struct ByAddress;

// SAFETY: clauses 1 and 2: a shift, and back. Clause 3: clause 1 of `BuddyPageAllocator::new` says
// that pointers to the memory may be made from integers.
unsafe impl PhysMap for ByAddress {
    #[inline]
    fn pointer(&self, frame: FrameNumber) -> NonNull<u8> {
        let pointer = ptr::with_exposed_provenance_mut(frame.get() << PAGE_SHIFT);
        NonNull::new(pointer).expect("`add` leaves out the page at address zero")
    }

    #[inline]
    fn frame(&self, address: usize) -> FrameNumber {
        FrameNumber::containing(address)
    }
}

/// A `PageAllocator` of ArceOS.
///
/// ```
/// # #[cfg(feature = "ax-allocator")] {
/// use ax_allocator::{BaseAllocator, PageAllocator};
/// use buddy::BuddyPageAllocator;
/// # let memory = Vec::leak(vec![0_u8; 1 << 20]);
/// # let (start, bytes) = (memory.as_mut_ptr().expose_provenance(), 1 << 20);
///
/// // SAFETY: clauses 1 and 2: this program adds memory that it leaks, and frees what it got.
/// let mut pages = unsafe { BuddyPageAllocator::new() }; // a constant
/// pages.init(start, bytes);
/// let ten = pages.alloc_pages(10, 4096).expect("there are about 250");
/// pages.dealloc_pages(ten, 4); // in parts, too
/// pages.dealloc_pages(ten + 4 * 4096, 6);
/// # }
/// ```
///
/// Each region holds its own metadata at its end, which counts as used: nine bytes a page, and at
/// least eleven pages. A free of pages that are not allocated panics.
pub struct BuddyPageAllocator {
    frames: GrowingBuddy<ByAddress, OneContext>,
    /// Free pages. The buddy's own count leaves out those in the CPU's slot.
    available: usize,
    /// Not `Sync`: see the SAFETY comment in `new`.
    one_context: PhantomData<Cell<()>>,
}

impl BuddyPageAllocator {
    page_frame::const_unless_loom! {
        /// Makes an allocator without pages. Example: see [`BuddyPageAllocator`].
        ///
        /// # Safety
        /// 1. Memory that is given to `init` or `add_memory` is mapped for reads and writes, by
        ///    pointers made from integers, and no other code uses it while the allocator lives.
        /// 2. Code that calls `dealloc_pages` does not use these pages afterwards.
        pub unsafe fn new() -> Self {
            // SAFETY: clause 1: all methods take `&mut self`, or `&self` of a type that is not
            // `Sync`; so a second call begins when the first has ended.
            let cpu = unsafe { OneContext::new() };
            let frames = GrowingBuddy::new(ByAddress, cpu);
            Self { frames, available: 0, one_context: PhantomData }
        }
    }

    fn add(&mut self, start: usize, bytes: usize) -> Result<(), AddError> {
        let end = start.checked_add(bytes).ok_or(AddError::Small)?;
        // The page at address zero stays out: no pointer of Rust's may point to it.
        let first = FrameNumber::new(start.div_ceil(PAGE_SIZE).max(1));
        let range = FrameRange::new(first, FrameNumber::containing(end));
        if self.frames.overlaps(range) {
            return Err(AddError::Overlap);
        }
        let before = self.frames.free_frames_count();
        // SAFETY: clauses 1 and 2: clause 1 of `new`; no range has these frames, as checked above.
        unsafe { self.frames.add(range) }.map_err(|_| AddError::Small)?;
        self.available += self.frames.free_frames_count() - before;
        Ok(())
    }

    fn allocate(&mut self, pages: usize, alignment: usize) -> Result<usize, AllocateError> {
        let alignment = order(alignment).filter(|_| pages > 0).ok_or(AllocateError::Invalid)?;
        let first = self.frames.allocate_each(pages, alignment);
        let first = first.map_err(|OutOfMemory| AllocateError::OutOfMemory)?;
        self.available -= pages;
        Ok(first.get() << PAGE_SHIFT)
    }

    fn allocate_at(
        &mut self,
        start: usize,
        pages: usize,
        alignment: usize,
    ) -> Result<usize, AllocateError> {
        let first = FrameNumber::containing(start);
        let is_aligned = order(alignment).is_some_and(|order| first.is_aligned_to(order));
        let end = first.checked_add(pages).filter(|_| pages > 0 && is_aligned);
        let range = FrameRange::new(first, end.ok_or(AllocateError::Invalid)?);
        if start % PAGE_SIZE != 0 {
            return Err(AllocateError::Invalid);
        }
        self.frames.withhold(range).map_err(|OutOfMemory| AllocateError::OutOfMemory)?;
        self.available -= pages;
        Ok(start)
    }

    #[track_caller]
    fn free(&mut self, start: usize, pages: usize) {
        let first = FrameNumber::containing(start);
        let range = FrameRange::new(first, FrameNumber::new(first.get() + pages));
        // SAFETY: clause 1: the caller does not use the pages any more (clause 2 of `new`).
        if let Err(fault) = unsafe { self.frames.free_each(range) } {
            page_frame::panic_on_fault(&fault);
        }
        self.available += pages;
    }
}

impl fmt::Debug for BuddyPageAllocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuddyPageAllocator")
            .field("pages", &self.frames.frames())
            .field("available", &self.available)
            .finish_non_exhaustive()
    }
}

/// Why a region was not added.
enum AddError {
    /// It has no page beside its metadata.
    Small,
    /// It has a page of an earlier region.
    Overlap,
}

/// Why pages were not allocated.
enum AllocateError {
    /// No pages, or an alignment that is no power of two, not of pages, or above the largest block.
    Invalid,
    /// The pages are not free.
    OutOfMemory,
}

/// Returns the order of an alignment in bytes.
fn order(alignment: usize) -> Option<Order> {
    let is_valid = alignment.is_power_of_two() && alignment >= PAGE_SIZE;
    Order::for_bytes(alignment).filter(|_| is_valid).map(|fit| fit.order)
}

/// Implements the traits of one of the two crates, which have the same names.
macro_rules! implement {
    ($ax:ident) => {
        use $ax::{AllocError, AllocResult, BaseAllocator, PageAllocator};

        use crate::interfaces::ax_allocator::{AddError, AllocateError, BuddyPageAllocator};

        impl BaseAllocator for BuddyPageAllocator {
            /// # Panics
            /// When the region has no page beside its metadata, or overlaps an earlier one.
            fn init(&mut self, start: usize, size: usize) {
                if let Err(error) = self.add_memory(start, size) {
                    panic!("the region of {size} bytes at {start:#x}: {error:?}");
                }
            }

            fn add_memory(&mut self, start: usize, size: usize) -> AllocResult {
                self.add(start, size).map_err(|error| match error {
                    AddError::Small => AllocError::InvalidParam,
                    AddError::Overlap => AllocError::MemoryOverlap,
                })
            }
        }

        impl PageAllocator for BuddyPageAllocator {
            const PAGE_SIZE: usize = page_frame::PAGE_SIZE;

            fn alloc_pages(&mut self, pages: usize, alignment: usize) -> AllocResult<usize> {
                self.allocate(pages, alignment).map_err(error)
            }

            #[track_caller]
            fn dealloc_pages(&mut self, start: usize, pages: usize) {
                self.free(start, pages);
            }

            fn alloc_pages_at(
                &mut self,
                start: usize,
                pages: usize,
                alignment: usize,
            ) -> AllocResult<usize> {
                self.allocate_at(start, pages, alignment).map_err(error)
            }

            fn total_pages(&self) -> usize {
                self.frames.frames()
            }

            fn used_pages(&self) -> usize {
                self.frames.frames() - self.available
            }

            fn available_pages(&self) -> usize {
                self.available
            }
        }

        fn error(error: AllocateError) -> AllocError {
            match error {
                AllocateError::Invalid => AllocError::InvalidParam,
                AllocateError::OutOfMemory => AllocError::NoMemory,
            }
        }
    };
}

#[cfg(feature = "ax-allocator")]
mod current {
    implement!(ax_allocator);
}

#[cfg(feature = "axallocator")]
mod former {
    implement!(axallocator);
}
