//! The kernel's names, for code that is ported from it.

use core::alloc::Layout;
use core::ptr::NonNull;

use page_frame::{OutOfMemory, PageResize};
use slab::{Hardening, System};

use crate::class::ClassIndex;
use crate::kmalloc::Kmalloc;

/// The alignment of what the kernel's names allocate: that of a pointer pair, unless the size's
/// class has a larger one.
const ALIGNMENT: usize = 2 * size_of::<usize>();
const _: () = assert!(ALIGNMENT == 16 || ALIGNMENT == 8);

impl<S: System<Pages: PageResize>, K: Hardening> Kmalloc<S, K> {
    /// Allocates `bytes` bytes: [`allocate`](Self::allocate) for 16-byte alignment (8 on 32-bit
    /// targets). Sizes that are powers of two are aligned to themselves, up to
    /// [`LARGEST`](crate::LARGEST).
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate).
    #[inline(always)]
    pub fn kmalloc(&self, bytes: usize) -> Result<NonNull<u8>, OutOfMemory> {
        let class = match ALIGNMENT {
            16 => ClassIndex::for_double_steps(bytes),
            _ => ClassIndex::for_size(bytes),
        };
        let Some(class) = class else { return self.allocate_missed(layout(bytes)?) };
        match self.caches.hit(class) {
            Some(object) => Ok(object),
            None => self.allocate_in_cache(class),
        }
    }

    /// Allocates `bytes` bytes that read as zero.
    ///
    /// # Errors
    /// As [`kmalloc`](Self::kmalloc).
    #[inline]
    pub fn kzalloc(&self, bytes: usize) -> Result<NonNull<u8>, OutOfMemory> {
        self.allocate_zeroed(layout(bytes)?)
    }

    /// Allocates an array of `count` elements of `bytes` bytes.
    ///
    /// # Errors
    /// As [`kmalloc`](Self::kmalloc), and when the product overflows.
    pub fn kmalloc_array(&self, count: usize, bytes: usize) -> Result<NonNull<u8>, OutOfMemory> {
        self.kmalloc(count.checked_mul(bytes).ok_or(OutOfMemory)?)
    }

    /// Allocates an array of `count` elements of `bytes` bytes that read as zero.
    ///
    /// # Errors
    /// As [`kmalloc_array`](Self::kmalloc_array).
    pub fn kcalloc(&self, count: usize, bytes: usize) -> Result<NonNull<u8>, OutOfMemory> {
        self.kzalloc(count.checked_mul(bytes).ok_or(OutOfMemory)?)
    }

    /// Changes the size of what [`kmalloc`](Self::kmalloc) returned, or allocates if `start` is
    /// `None`.
    ///
    /// # Errors
    /// As [`reallocate`](Self::reallocate).
    ///
    /// # Safety
    /// 1. `start`, if any, came from one of the kernel's names and has not been freed since.
    /// 2. Unless it fails, the address returned is used from now on, and `start` no longer.
    pub unsafe fn krealloc(
        &self,
        start: Option<NonNull<u8>>,
        new_bytes: usize,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let Some(start) = start else { return self.kmalloc(new_bytes) };
        let class = self.class_at(start);
        let Some(bytes) = self.usable_size_in(class, start) else {
            self.report_foreign(start);
            return Err(OutOfMemory);
        };
        // SAFETY: clauses 1 and 2; class and usable size are those of the allocation.
        unsafe { self.resize(start, class, bytes, layout(new_bytes)?) }
    }

    /// Frees what one of the kernel's names returned; does nothing for `None`.
    ///
    /// # Safety
    /// 1. As for [`free`](Self::free), if it is not `None`.
    #[inline(always)]
    #[track_caller]
    pub unsafe fn kfree(&self, start: Option<NonNull<u8>>) {
        if let Some(start) = start {
            // SAFETY: clause 1: it is not `None`.
            unsafe { self.free(start) };
        }
    }

    /// Returns [`usable_size`](Self::usable_size), zero where nothing starts.
    pub fn ksize(&self, start: NonNull<u8>) -> usize {
        self.usable_size(start).unwrap_or(0)
    }
}

fn layout(bytes: usize) -> Result<Layout, OutOfMemory> {
    Ok(Layout::from_size_align(bytes, ALIGNMENT)?)
}
