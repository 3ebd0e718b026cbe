//! The function names of the Linux kernel (`kmalloc`, `kfree` and others), for code that is ported
//! from it.

use core::alloc::Layout;
use core::ptr::NonNull;

use page_frame::{OutOfMemory, PageResize};
use slab::{Hardening, System};

use crate::classes::class::{ALIGNMENT, ClassIndex, LARGEST};
use crate::kmalloc::Kmalloc;
use crate::mixed::is_checked;

impl<S: System<Pages: PageResize>, K: Hardening> Kmalloc<S, K> {
    /// Allocates `bytes` bytes: [`allocate`](Self::allocate) for 16-byte alignment (8 on 32-bit
    /// targets). Sizes that are powers of two are aligned to themselves, up to
    /// [`LARGEST`](crate::LARGEST).
    ///
    /// Longest path counted: 12,593 instructions for up to 2,048 bytes (`kmalloc`), 15,384 for the
    /// first request of a class (`kmalloc-first`), 37,343 for up to 512 KiB (`kmalloc-large`),
    /// 17,365 for up to 2,048 bytes under [`Hardened`](slab::Hardened) (`hardened-kmalloc`). A
    /// request that finds no page makes the page source reclaim: O(free objects of all caches), and
    /// O(pages). Longest path counted: 811,513 instructions in 240 MiB (`kmalloc-scarce`).
    ///
    /// ```
    /// # use kmalloc::Kmalloc;
    /// # use page_frame::{Arena, SingleCpu};
    /// # let mut memory = vec![core::mem::MaybeUninit::uninit(); 1 << 20];
    /// # let arena = Arena::new(&mut memory)?;
    /// # let heap = Kmalloc::new(slab::Registry::new(&arena, SingleCpu::new())?);
    /// let buffer = heap.kmalloc(100)?;
    /// assert_eq!(heap.ksize(buffer), 112); // the class
    /// // SAFETY: clauses 1 and 2: allocated above, and only the result is used below.
    /// let buffer = unsafe { heap.krealloc(Some(buffer), 200) }?;
    /// let (zeros, array) = (heap.kzalloc(64)?, heap.kmalloc_array(8, 12)?);
    /// let zeroed_array = heap.kcalloc(8, 12)?;
    /// assert!(heap.kcalloc(usize::MAX, 12).is_err()); // the product overflows
    /// for start in [Some(buffer), Some(zeros), Some(array), Some(zeroed_array), None] {
    ///     // SAFETY: clause 1: allocated above, and not used any more.
    ///     unsafe { heap.kfree(start) };
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate).
    #[inline(always)]
    pub fn kmalloc(&self, bytes: usize) -> Result<NonNull<u8>, OutOfMemory> {
        // One cold call, and last, so that the hit needs no stack frame. Its arguments are those of
        // this function, which are in registers.
        // SAFETY: clause 1: the largest such number.
        if let Some(class) = unsafe { ClassIndex::fitting_aligned_below(LARGEST, bytes) } {
            if let Some(object) = self.caches.allocate_hit(class) {
                return Ok(object);
            }
        }
        self.kmalloc_missed(bytes)
    }

    /// Allocates as [`kmalloc`](Self::kmalloc) does, after a miss, or for a size without a class.
    #[doc(hidden)]
    #[cold]
    #[inline(never)]
    pub fn kmalloc_missed(&self, bytes: usize) -> Result<NonNull<u8>, OutOfMemory> {
        self.allocate_missed(layout(bytes)?)
    }

    /// Allocates `bytes` bytes that read as zero. Example: see [`Kmalloc::kmalloc`].
    ///
    /// # Errors
    /// As [`kmalloc`](Self::kmalloc).
    #[inline]
    pub fn kzalloc(&self, bytes: usize) -> Result<NonNull<u8>, OutOfMemory> {
        self.allocate_zeroed(layout(bytes)?)
    }

    /// Allocates an array of `count` elements of `bytes` bytes. Example: see [`Kmalloc::kmalloc`].
    ///
    /// # Errors
    /// As [`kmalloc`](Self::kmalloc), and when the product overflows.
    pub fn kmalloc_array(&self, count: usize, bytes: usize) -> Result<NonNull<u8>, OutOfMemory> {
        self.kmalloc(count.checked_mul(bytes).ok_or(OutOfMemory)?)
    }

    /// Allocates an array of `count` elements of `bytes` bytes that read as zero.
    /// Example: see [`Kmalloc::kmalloc`].
    ///
    /// # Errors
    /// As [`kmalloc_array`](Self::kmalloc_array).
    pub fn kcalloc(&self, count: usize, bytes: usize) -> Result<NonNull<u8>, OutOfMemory> {
        self.kzalloc(count.checked_mul(bytes).ok_or(OutOfMemory)?)
    }

    /// Changes the size of what [`kmalloc`](Self::kmalloc) returned, or allocates if `start` is
    /// `None`. O(bytes) if it moves. Longest path counted: 1,169 instructions for up to 2,048 bytes
    /// (`krealloc`), 54,493 for up to 512 KiB (`krealloc-large`).
    /// Example: see [`Kmalloc::kmalloc`].
    ///
    /// # Errors
    /// As [`reallocate`](Self::reallocate).
    ///
    /// # Safety
    /// 1. `start`, if any, came from one of these functions (those with the kernel's names) and has
    ///    not been freed since.
    /// 2. Unless this fails, no code uses `start` from now on, but the address returned.
    #[inline(always)]
    pub unsafe fn krealloc(
        &self,
        start: Option<NonNull<u8>>,
        new_bytes: usize,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let Some(start) = start else { return self.kmalloc(new_bytes) };
        if !is_checked::<K>() {
            let new = ClassIndex::fitting(new_bytes, ALIGNMENT);
            if let (Some(class), Some(new)) = (self.class_in_range(start), new) {
                let allocate = || self.kmalloc(new_bytes);
                // SAFETY: clause 1: an object of the cache of `class`, as it lies in a slab of the
                // class, and by the caller's clauses the caller owns it and gives it up. Clause 2:
                // `allocate` allocates `new_bytes` bytes.
                let resize = || unsafe { self.move_object(start, class, new_bytes, allocate) };
                return if class == new { Ok(start) } else { resize() };
            }
        }
        // SAFETY: clauses 1 and 2.
        unsafe { self.krealloc_slow(start, new_bytes) }
    }

    /// Changes the size of an allocation where the fast path of [`krealloc`](Self::krealloc) does
    /// not apply: one of the two sizes has no class, the memory is no object of a cache, or the
    /// preset makes checks.
    ///
    /// # Safety
    /// 1. As for [`krealloc`](Self::krealloc).
    #[inline(never)]
    unsafe fn krealloc_slow(
        &self,
        start: NonNull<u8>,
        new_bytes: usize,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let class = self.class_at(start);
        // SAFETY: clause 1: by clause 1 the caller owns the allocation at `start`.
        let Some(bytes) = (unsafe { self.usable_size_owned(class, start) }) else {
            self.caches.report_foreign(start);
            return Err(OutOfMemory);
        };
        // SAFETY: clause 1; class and usable size are those of the allocation.
        unsafe { self.resize(start, class, bytes, layout(new_bytes)?) }
    }

    /// Frees memory from one of the functions with the kernel's names; does nothing for `None`.
    /// Example: see [`Kmalloc::kmalloc`].
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

    /// Returns [`usable_size`](Self::usable_size), or zero if no allocation starts at `start`.
    /// Example: see [`Kmalloc::kmalloc`].
    pub fn ksize(&self, start: NonNull<u8>) -> usize {
        self.usable_size(start).unwrap_or(0)
    }
}

/// Returns the layout of `bytes` bytes: powers of two up to the largest class are aligned to
/// themselves, as their classes are.
fn layout(bytes: usize) -> Result<Layout, OutOfMemory> {
    let is_power = bytes.is_power_of_two() && bytes <= LARGEST;
    let alignment = if is_power { bytes.max(ALIGNMENT) } else { ALIGNMENT };
    Ok(Layout::from_size_align(bytes, alignment)?)
}
