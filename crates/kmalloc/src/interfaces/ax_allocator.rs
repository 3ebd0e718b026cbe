//! The byte allocator of ArceOS: implements the traits of its crates `ax-allocator` and
//! `axallocator`, each behind the feature of that name.
//!
//! The methods of these traits take `&mut self`, as a kernel keeps the allocator behind a lock of
//! its own. One context at a time calls them, so [`OneContext`] describes the CPUs. A kernel that
//! wants no such lock declares a [`Heap`] instead.

use core::cell::Cell;
use core::fmt;
use core::marker::PhantomData;
use core::ptr;

use page_frame::OneContext;

use crate::statics::heap::Heap;

/// A `ByteAllocator` of ArceOS.
///
/// ```
/// # #[cfg(feature = "ax-allocator")] {
/// use std::alloc::Layout;
///
/// use ax_allocator::{BaseAllocator, ByteAllocator};
/// use kmalloc::KmallocByteAllocator;
/// # let memory = Vec::leak(vec![0_u8; 1 << 20]);
/// # let (start, bytes) = (memory.as_mut_ptr().expose_provenance(), 1 << 20);
///
/// // SAFETY: clauses 1 and 2: this program adds memory that it leaks, and frees what it got.
/// let mut heap = unsafe { KmallocByteAllocator::new() }; // a constant
/// heap.init(start, bytes);
/// let layout = Layout::new::<[u64; 5]>();
/// let object = heap.alloc(layout).expect("there is 1 MiB");
/// heap.dealloc(object, layout);
/// # }
/// ```
///
/// Pages of free objects count as used while a cache keeps them. A request that finds no memory
/// makes the caches release theirs, and tries again.
pub struct KmallocByteAllocator {
    heap: Heap<OneContext>,
    /// Not `Sync`: see the SAFETY comment in `new`.
    one_context: PhantomData<Cell<()>>,
}

impl KmallocByteAllocator {
    page_frame::const_unless_loom! {
        /// Makes an allocator without memory. Example: see [`KmallocByteAllocator`].
        ///
        /// # Safety
        /// 1. Memory that is given to `init` or `add_memory` is mapped for reads and writes, by
        ///    pointers made from integers, and no other code uses it while the allocator lives.
        /// 2. Code that calls `dealloc` passes what `alloc` returned for the same layout, once, and
        ///    does not use it afterwards.
        pub unsafe fn new() -> Self {
            // SAFETY: clause 1: all methods take `&mut self`, or `&self` of a type that is not
            // `Sync`; so a second call begins when the first has ended.
            Self { heap: unsafe { Heap::for_one_context() }, one_context: PhantomData }
        }
    }

    /// Adds a region; returns whether it is large enough.
    fn add(&mut self, start: usize, bytes: usize) -> bool {
        if start.checked_add(bytes).is_none() {
            return false;
        }
        // SAFETY: clause 1: clause 1 of `new`.
        unsafe { self.heap.add_region(ptr::with_exposed_provenance_mut(start), bytes) }.is_ok()
    }
}

impl fmt::Debug for KmallocByteAllocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KmallocByteAllocator").field("heap", &self.heap).finish_non_exhaustive()
    }
}

/// Implements the traits of one of the two crates, which have the same names.
macro_rules! implement {
    ($ax:ident) => {
        use core::alloc::Layout;
        use core::ptr::NonNull;

        use $ax::{AllocError, AllocResult, BaseAllocator, ByteAllocator};

        use crate::interfaces::ax_allocator::KmallocByteAllocator;

        impl BaseAllocator for KmallocByteAllocator {
            /// # Panics
            /// When the region is too small for the first caches.
            fn init(&mut self, start: usize, size: usize) {
                assert!(self.add(start, size), "too small: {size} bytes at {start:#x}");
            }

            fn add_memory(&mut self, start: usize, size: usize) -> AllocResult {
                if self.add(start, size) { Ok(()) } else { Err(AllocError::InvalidParam) }
            }
        }

        impl ByteAllocator for KmallocByteAllocator {
            fn alloc(&mut self, layout: Layout) -> AllocResult<NonNull<u8>> {
                let kmalloc = self.heap.kmalloc().ok_or(AllocError::NoMemory)?;
                let object = kmalloc.allocate(layout).or_else(|error| match kmalloc.shrink_all() {
                    0 => Err(error),
                    _ => kmalloc.allocate(layout),
                });
                object.map_err(|_| AllocError::NoMemory)
            }

            /// # Panics
            /// Before the first region, when there is no allocation to free.
            #[track_caller]
            fn dealloc(&mut self, start: NonNull<u8>, layout: Layout) {
                let kmalloc = self.heap.kmalloc().expect("the caller has memory of this heap");
                // SAFETY: clauses 1 and 2: clause 2 of `new`.
                unsafe { kmalloc.free_sized(start, layout) };
            }

            fn total_bytes(&self) -> usize {
                self.heap.bytes()
            }

            fn used_bytes(&self) -> usize {
                self.heap.bytes() - self.heap.free_bytes()
            }

            fn available_bytes(&self) -> usize {
                self.heap.free_bytes()
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
