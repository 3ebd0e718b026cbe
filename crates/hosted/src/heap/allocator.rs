//! A heap as an `Allocator` of Rust: of the crate `allocator-api2` in two versions. Each behind a
//! feature.

/// Implements a trait of the shape of `core::alloc::Allocator` for references to a heap, by the
/// implementation of its [`Global`](kmalloc::Global).
macro_rules! implement {
    ($alloc:path) => {
        use core::alloc::Layout;
        use core::ptr::NonNull;

        use slab::Hardening;

        use $alloc::{AllocError, Allocator};

        use crate::heap::Heap;

        // SAFETY: every method is that of `Global`, which fulfils the trait.
        unsafe impl<K: Hardening> Allocator for &Heap<K> {
            #[inline]
            fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
                (&self.global).allocate(layout)
            }

            #[inline]
            fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
                (&self.global).allocate_zeroed(layout)
            }

            #[inline]
            unsafe fn deallocate(&self, start: NonNull<u8>, layout: Layout) {
                // SAFETY: the caller's promises are those of the trait.
                unsafe { (&self.global).deallocate(start, layout) };
            }

            unsafe fn grow(
                &self,
                start: NonNull<u8>,
                old: Layout,
                new: Layout,
            ) -> Result<NonNull<[u8]>, AllocError> {
                // SAFETY: the caller's promises are those of the trait.
                unsafe { (&self.global).grow(start, old, new) }
            }

            unsafe fn grow_zeroed(
                &self,
                start: NonNull<u8>,
                old: Layout,
                new: Layout,
            ) -> Result<NonNull<[u8]>, AllocError> {
                // SAFETY: the caller's promises are those of the trait.
                unsafe { (&self.global).grow_zeroed(start, old, new) }
            }

            unsafe fn shrink(
                &self,
                start: NonNull<u8>,
                old: Layout,
                new: Layout,
            ) -> Result<NonNull<[u8]>, AllocError> {
                // SAFETY: the caller's promises are those of the trait.
                unsafe { (&self.global).shrink(start, old, new) }
            }
        }
    };
}

#[cfg(feature = "allocator-api2-02")]
mod version_02 {
    implement!(allocator_api2_02::alloc);
}

#[cfg(feature = "allocator-api2-04")]
mod version_04 {
    implement!(allocator_api2_04::alloc);
}
