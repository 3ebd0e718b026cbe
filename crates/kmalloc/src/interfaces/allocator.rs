//! Rust's trait `Allocator` for references to [`Kmalloc`](crate::Kmalloc),
//! [`Global`](crate::Global) and [`Heap`](crate::Heap). There are three such traits, each behind a
//! feature: those of the crate `allocator-api2` 0.2 and 0.4, and the unstable one of the standard
//! library.
//!
//! `grow` and `shrink` call `reallocate`, so an allocation stays where it is if its class or its
//! run of pages has room.

/// Implements the trait `Allocator` of the module `$alloc`.
macro_rules! implement {
    ($alloc:path) => {
        use core::alloc::Layout;
        use core::ptr::NonNull;

        use page_frame::{Cpu, OutOfMemory, PageResize};
        use slab::{Hardening, System};

        use $alloc::{AllocError, Allocator};

        use crate::kmalloc::Kmalloc;
        use crate::statics::global::{Global, SetUp};
        use crate::statics::heap::{Heap, HeapSystem};

        // SAFETY: memory is valid and not shared until freed, wherever the reference is moved or
        // copied to.
        unsafe impl<S: System<Pages: PageResize>, K: Hardening> Allocator for &Kmalloc<S, K> {
            #[inline]
            fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
                or_error(Kmalloc::allocate(self, layout), layout.size())
            }

            #[inline]
            fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
                or_error(Kmalloc::allocate_zeroed(self, layout), layout.size())
            }

            #[inline]
            unsafe fn deallocate(&self, start: NonNull<u8>, layout: Layout) {
                // SAFETY: the caller's clauses: allocated here with a layout that fits.
                unsafe { self.free_sized(start, layout) };
            }

            unsafe fn grow(
                &self,
                start: NonNull<u8>,
                old: Layout,
                new: Layout,
            ) -> Result<NonNull<[u8]>, AllocError> {
                // SAFETY: clause 1: the trait's promise: `start` was allocated for `old`, and the
                // caller gives it up unless this fails.
                or_error(unsafe { resize(self, start, old, new) }, new.size())
            }

            unsafe fn grow_zeroed(
                &self,
                start: NonNull<u8>,
                old: Layout,
                new: Layout,
            ) -> Result<NonNull<[u8]>, AllocError> {
                // SAFETY: clause 1: as in `grow`.
                let grown = unsafe { resize(self, start, old, new) }.map_err(|_| AllocError)?;
                // SAFETY: the memory has the new size, which is not below the old one.
                let added = unsafe { grown.add(old.size()) };
                // SAFETY: the bytes from the old size to the new one belong to the caller's memory,
                // and hold no content yet.
                unsafe { added.write_bytes(0, new.size() - old.size()) };
                or_error(Ok(grown), new.size())
            }

            unsafe fn shrink(
                &self,
                start: NonNull<u8>,
                old: Layout,
                new: Layout,
            ) -> Result<NonNull<[u8]>, AllocError> {
                // SAFETY: clause 1: as in `grow`.
                or_error(unsafe { resize(self, start, old, new) }, new.size())
            }
        }

        /// Implements the methods by those of the `Kmalloc` that a `Global` has or sets up.
        macro_rules! through_global {
            (|$this:ident| $global:expr) => {
                #[inline]
                fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
                    let $this = self;
                    Allocator::allocate(&$global.kmalloc().map_err(|_| AllocError)?, layout)
                }

                #[inline]
                fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
                    let $this = self;
                    Allocator::allocate_zeroed(&$global.kmalloc().map_err(|_| AllocError)?, layout)
                }

                #[inline]
                unsafe fn deallocate(&self, start: NonNull<u8>, layout: Layout) {
                    let $this = self;
                    let kmalloc = $global.get().expect("set up, as the caller has memory of it");
                    // SAFETY: a block of `layout`, not used any more, as the trait promises.
                    unsafe { kmalloc.free_sized(start, layout) };
                }

                unsafe fn grow(
                    &self,
                    start: NonNull<u8>,
                    old: Layout,
                    new: Layout,
                ) -> Result<NonNull<[u8]>, AllocError> {
                    let $this = self;
                    // SAFETY: the trait's promises about `start`, `old` and `new` are passed on.
                    unsafe { $global.kmalloc().map_err(|_| AllocError)?.grow(start, old, new) }
                }

                unsafe fn shrink(
                    &self,
                    start: NonNull<u8>,
                    old: Layout,
                    new: Layout,
                ) -> Result<NonNull<[u8]>, AllocError> {
                    let $this = self;
                    // SAFETY: the trait's promises about `start`, `old` and `new` are passed on.
                    unsafe { $global.kmalloc().map_err(|_| AllocError)?.shrink(start, old, new) }
                }
            };
        }

        // SAFETY: memory is valid and not shared until freed; the `Kmalloc` stays once it is set
        // up, so clones and moves of the reference reach the same one.
        unsafe impl<S, K: Hardening, F: SetUp<S, K>> Allocator for &Global<S, K, F>
        where
            S: System<Pages: PageResize + Send + Sync, Cpus: Send + Sync>,
        {
            through_global!(|this| this);
        }

        // SAFETY: memory is valid and not shared until freed; the `Kmalloc` stays once it is set
        // up, so clones and moves of the reference reach the same one.
        unsafe impl<C: Cpu + Clone + Send + Sync, K: Hardening> Allocator for &Heap<C, K>
        where
            HeapSystem<C>: System<Pages: PageResize>,
        {
            through_global!(|this| this.global);
        }

        /// # Safety
        /// 1. `start` was allocated for `old`. Unless this fails, the caller uses only the memory
        ///    returned, which is one for `new`.
        unsafe fn resize<S: System<Pages: PageResize>, K: Hardening>(
            kmalloc: &Kmalloc<S, K>,
            start: NonNull<u8>,
            old: Layout,
            new: Layout,
        ) -> Result<NonNull<u8>, OutOfMemory> {
            if old.align() == new.align() {
                // SAFETY: clauses 1 and 2: clause 1, and only the size changes.
                return unsafe { kmalloc.reallocate(start, old, new.size()) };
            }
            let moved = kmalloc.allocate(new)?;
            let bytes = old.size().min(new.size());
            // SAFETY: both have `bytes` bytes, and do not overlap, as one was just allocated.
            unsafe { moved.copy_from_nonoverlapping(start, bytes) };
            // SAFETY: clauses 1 and 2: clause 1: allocated for `old`, and not used any more.
            unsafe { kmalloc.free_sized(start, old) };
            Ok(moved)
        }

        fn or_error(
            outcome: Result<NonNull<u8>, OutOfMemory>,
            bytes: usize,
        ) -> Result<NonNull<[u8]>, AllocError> {
            match outcome {
                Ok(start) => Ok(NonNull::slice_from_raw_parts(start, bytes)),
                Err(OutOfMemory) => Err(AllocError),
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

#[cfg(feature = "nightly")]
mod nightly {
    implement!(core::alloc);
}
