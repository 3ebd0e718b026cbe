//! Address space from the system: reserved at once, backed when touched, given back when asked.

use std::io;
use std::ptr::NonNull;

use page_frame::{DirectMap, FrameNumber, FrameRange, Order, PAGE_SIZE};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// A range of this process's address space. Every byte reads as zero until it is written; memory is behind only what has
/// been touched. Dropping it unmaps it.
#[derive(Debug)]
pub struct Mapped {
    mapping: NonNull<u8>,
    mapping_bytes: usize,
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the range is owned, and reached only through pointers whose use is unsafe.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Reserves `bytes`, rounded up to whole pages, aligned as the largest block that fits in it (at most 1 GiB). One
    /// system call.
    ///
    /// # Errors
    /// The system's: no address space (`ulimit -v`), or [`io::ErrorKind::InvalidInput`] for zero bytes and for sizes
    /// that overflow.
    pub fn reserve(bytes: usize) -> io::Result<Self> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let bytes = bytes.checked_next_multiple_of(PAGE_SIZE).filter(|bytes| *bytes > 0);
        let bytes = bytes.ok_or_else(invalid)?;
        let largest = Order::new((bytes / PAGE_SIZE).ilog2() as u8).unwrap_or(Order::MAX);
        let mapping_bytes = bytes.checked_add(largest.bytes() - PAGE_SIZE).ok_or_else(invalid)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at a place of the system's choice touches nothing that exists.
        let mapping =
            unsafe { mmap_anonymous(std::ptr::null_mut(), mapping_bytes, access, flags) }?;
        let mapping = NonNull::new(mapping.cast::<u8>()).ok_or_else(invalid)?;
        // SAFETY: alignment was added to the size, so the aligned start is inside the mapping.
        let start = unsafe { mapping.add(mapping.align_offset(largest.bytes())) };
        Ok(Self { mapping, mapping_bytes, start, bytes })
    }

    /// Returns the first byte's address.
    pub const fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Returns the size in bytes, a multiple of the page size.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the pages as frames, numbered by their addresses.
    pub fn frames(&self) -> FrameRange {
        let first = FrameNumber::containing(self.start.addr().get());
        FrameRange::new(first, FrameNumber::new(first.get() + self.bytes / PAGE_SIZE))
    }

    /// Returns the map between these frames and their addresses.
    pub fn direct_map(&self) -> DirectMap {
        // SAFETY: `start` has the provenance of the whole mapping.
        unsafe { DirectMap::from_root(self.start, self.frames().start) }
    }

    /// Gives the memory behind `bytes` bytes at `start` back to the system; they read as zero afterwards. One system
    /// call.
    ///
    /// # Errors
    /// The system's; the memory is then as it was.
    ///
    /// # Panics
    /// When the range is not inside this one, or not whole pages.
    ///
    /// # Safety
    /// 1. Nobody needs the content.
    pub unsafe fn give_back(&self, start: NonNull<u8>, bytes: usize) -> io::Result<()> {
        let offset = start.addr().get().wrapping_sub(self.start.addr().get());
        let is_inside = offset.checked_add(bytes).is_some_and(|end| end <= self.bytes);
        let is_whole = offset % PAGE_SIZE == 0 && bytes % PAGE_SIZE == 0;
        assert!(is_inside && is_whole, "{bytes} bytes at {start:p} are whole pages of the mapping");
        // SAFETY: inside our mapping by the assertion; clause 1 allows the content to be lost.
        unsafe { madvise(start.as_ptr().cast(), bytes, Advice::LinuxDontNeed) }?;
        Ok(())
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours alone, and whoever used it promised that it outlived the use.
        let unmapped = unsafe { munmap(self.mapping.as_ptr().cast(), self.mapping_bytes) };
        debug_assert!(unmapped.is_ok(), "a mapping of our own can be unmapped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zero_aligned_and_zero_again_after_giving_back() {
        let memory = Mapped::reserve(3 << 21).expect("6 MiB of address space");
        assert_eq!(memory.start().addr().get() % (1 << 22), 0);
        assert_eq!(memory.frames().frames(), 3 * 512);
        let first = memory.start();
        // SAFETY: inside the mapping, which is ours.
        assert_eq!(unsafe { first.read() }, 0);
        // SAFETY: as above.
        unsafe { first.write(7) };
        // SAFETY: the content is not needed.
        unsafe { memory.give_back(first, PAGE_SIZE) }.expect("the range is mapped");
        // SAFETY: as above.
        assert_eq!(unsafe { first.read() }, 0);
    }

    #[test]
    fn sizes_at_both_ends_are_errors() {
        let kind = |bytes| Mapped::reserve(bytes).expect_err("no such mapping").kind();
        assert_eq!(kind(0), io::ErrorKind::InvalidInput);
        assert_eq!(kind(usize::MAX), io::ErrorKind::InvalidInput);
        assert!(Mapped::reserve(isize::MAX as usize).is_err());
    }

    #[test]
    #[should_panic(expected = "whole pages of the mapping")]
    fn giving_back_outside_the_range_panics() {
        let memory = Mapped::reserve(PAGE_SIZE).expect("a page of address space");
        // SAFETY: the call panics before anything happens.
        let _ = unsafe { memory.give_back(memory.start(), 2 * PAGE_SIZE) };
    }
}
