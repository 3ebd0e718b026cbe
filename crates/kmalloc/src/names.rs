//! The kernel's names, thin: for whoever ports code that calls them, and for the caches' names in statistics.

use core::alloc::Layout;
use core::fmt::{self, Write};
use core::ptr::NonNull;

use page_frame::{OutOfMemory, PageResize};
use slab::{Hardening, System};

use crate::{ClassIndex, Kmalloc};

/// The alignment of what the kernel's names allocate: that of a pointer pair, unless the size's class has a larger one.
const ALIGNMENT: usize = 2 * size_of::<usize>();
const _: () = assert!(ALIGNMENT == 16 || ALIGNMENT == 8);

impl<S: System<Pages: PageResize>, K: Hardening> Kmalloc<S, K> {
    /// Allocates `bytes` bytes: [`allocate`](Self::allocate) for 16-byte alignment (8 on 32-bit targets). Sizes that are
    /// powers of two are aligned to themselves, up to [`LARGEST`](crate::LARGEST).
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate).
    #[inline(always)]
    pub fn kmalloc(&self, bytes: usize) -> Result<NonNull<u8>, OutOfMemory> {
        let class = match ALIGNMENT {
            16 => ClassIndex::for_double_steps(bytes),
            _ => ClassIndex::for_size(bytes),
        };
        match class {
            Some(class) => self.allocate_class(class),
            None => self.allocate_slowly(layout(bytes)?),
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

    /// Changes the size of what [`kmalloc`](Self::kmalloc) returned, or allocates when there is nothing yet.
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
        let bytes = match class {
            Some(class) => class.size(),
            None => self.ksize(start),
        };
        if bytes == 0 {
            self.foreign(start);
            return Err(OutOfMemory);
        }
        // SAFETY: clauses 1 and 2; class and usable size are those of the allocation.
        unsafe { self.resize(start, class, bytes, layout(new_bytes)?) }
    }

    /// Frees what one of the kernel's names returned; nothing when there is nothing.
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
    Layout::from_size_align(bytes, ALIGNMENT).map_err(|_| OutOfMemory)
}

/// Returns the name of the cache of `class`, in the kernel's form: `kmalloc-96`, `kmalloc-2k`.
pub(crate) fn cache_name(class: ClassIndex) -> CacheName {
    let mut name = CacheName { bytes: [0; 16], length: 0 };
    let size = class.size();
    let written = match size % 1024 {
        0 => write!(name, "kmalloc-{}k", size / 1024),
        _ => write!(name, "kmalloc-{size}"),
    };
    written.expect("a class has at most five digits");
    name
}

/// A short text without a heap.
pub(crate) struct CacheName {
    bytes: [u8; 16],
    length: usize,
}

impl CacheName {
    pub(crate) fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.length]).expect("only text was written")
    }
}

impl Write for CacheName {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_a_name_and_no_two_the_same() {
        let name = |bytes| {
            let class = ClassIndex::for_size(bytes).expect("a class");
            cache_name(class)
        };
        assert_eq!(name(96).as_str(), "kmalloc-96");
        assert_eq!(name(2048).as_str(), "kmalloc-2k");
        assert_eq!(name(1280).as_str(), "kmalloc-1280");
        let pairs = ClassIndex::all().zip(ClassIndex::all().skip(1));
        for (one, other) in pairs {
            assert_ne!(cache_name(one).as_str(), cache_name(other).as_str());
        }
    }
}
