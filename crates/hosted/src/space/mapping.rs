//! `Mapped`: a range of address space. It is reserved as a whole; pages are committed by their
//! first write and decommitted on request.

use core::ffi::c_void;
use core::ptr::NonNull;

use page_frame::{DirectMap, FrameNumber, FrameRange, Order, PAGE_SIZE};
use rustix::mm::{
    Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags, madvise, mmap_anonymous, mprotect,
    mremap_fixed, munmap,
};

use crate::os_error::OsError;

/// `MADV_COLLAPSE` (Linux 6.1): copies the pages of an area into one huge page.
const MADV_COLLAPSE: core::ffi::c_int = 25;

/// A range of this process's address space. Every byte reads as zero until it is written, and only
/// pages that were written have memory. Dropping it unmaps the range.
///
/// ```
/// use hosted::Mapped;
/// use page_frame::{Arena, Order, PageSource, PhysMap};
/// let memory = Mapped::reserve(1 << 20)?;
/// // SAFETY: no other code uses the memory, and it lives longer than the arena.
/// let arena = unsafe { Arena::from_raw(memory.start(), memory.bytes()) }?;
/// let block = arena.allocate(Order::ZERO)?;
/// // SAFETY: the block came from this arena, and nothing refers into it.
/// unsafe { arena.free(block) };
/// drop(arena);
/// // SAFETY: clause 1: the arena is gone.
/// unsafe { memory.decommit(memory.start(), memory.bytes()) }?; // reads as zero again
/// // As frames, for an allocator of frame numbers:
/// assert_eq!(memory.frames().frames(), 256);
/// assert_eq!(memory.direct_map().pointer(memory.frames().start), memory.start());
/// let space = Mapped::reserve_closed(1 << 30)?; // addresses only
/// assert_eq!(space.start().addr().get() % (1 << 30), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Mapped {
    mapping: NonNull<u8>,
    mapping_bytes: usize,
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the value owns the range, which is reached only through raw pointers. Code that uses one
// keeps the value alive.
unsafe impl Send for Mapped {}
// SAFETY: shared references return raw pointers and change nothing but through the system.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Reserves `bytes` bytes, rounded up to whole pages, aligned to the largest block that fits
    /// (at most 1 GiB). One system call. Example: see [`Mapped`].
    ///
    /// # Errors
    /// The error of `mmap`: no address space (`ulimit -v`). `EINVAL` for zero bytes and for sizes
    /// that overflow.
    pub fn reserve(bytes: usize) -> Result<Self, OsError> {
        Self::reserve_with(bytes, ProtFlags::READ | ProtFlags::WRITE)
    }

    /// Reserves address space without access. Core dumps and `mlockall` skip it, and it counts
    /// only against the limit of address space. `Pages` opens parts of it. Example: see [`Mapped`].
    ///
    /// # Errors
    /// As for [`reserve`](Self::reserve).
    pub fn reserve_closed(bytes: usize) -> Result<Self, OsError> {
        Self::reserve_with(bytes, ProtFlags::empty())
    }

    fn reserve_with(bytes: usize, access: ProtFlags) -> Result<Self, OsError> {
        let bytes = bytes.checked_next_multiple_of(PAGE_SIZE).filter(|bytes| *bytes > 0);
        let bytes = bytes.ok_or(OsError::INVALID)?;
        let largest = Order::new((bytes / PAGE_SIZE).ilog2() as u8).unwrap_or(Order::MAX);
        let mapping_bytes =
            bytes.checked_add(largest.bytes() - PAGE_SIZE).ok_or(OsError::INVALID)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address that the system chooses changes no existing memory.
        let mapping =
            unsafe { mmap_anonymous(core::ptr::null_mut(), mapping_bytes, access, flags) }?;
        let mapping = NonNull::new(mapping.cast::<u8>()).ok_or(OsError::INVALID)?;
        // SAFETY: the mapping is longer by the alignment, so the aligned start lies inside it.
        let start = unsafe { mapping.add(mapping.align_offset(largest.bytes())) };
        Ok(Self { mapping, mapping_bytes, start, bytes })
    }

    /// Returns the address of the first byte. Example: see [`Mapped`].
    pub const fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Returns the size in bytes, a multiple of the page size. Example: see [`Mapped`].
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the pages as frames, numbered by their addresses. Example: see [`Mapped`].
    pub fn frames(&self) -> FrameRange {
        let first = FrameNumber::containing(self.start.addr().get());
        FrameRange::new(first, FrameNumber::new(first.get() + self.bytes / PAGE_SIZE))
    }

    /// Returns the map between these frames and their addresses. Example: see [`Mapped`].
    pub fn direct_map(&self) -> DirectMap {
        // SAFETY: clause 1: `start` has the provenance of the whole mapping.
        unsafe { DirectMap::from_root(self.start, self.frames().start) }
    }

    /// Decommits `bytes` bytes at `start`: returns their memory to the system. They read as zero
    /// afterwards. One system call. Example: see [`Mapped`].
    ///
    /// # Errors
    /// The error of `madvise`, for example for locked pages; the content is then unchanged.
    ///
    /// # Panics
    /// When the range is not whole pages inside the mapping.
    ///
    /// # Safety
    /// 1. No code needs the content.
    pub unsafe fn decommit(&self, start: NonNull<u8>, bytes: usize) -> Result<(), OsError> {
        let offset = start.addr().get().wrapping_sub(self.start.addr().get());
        let is_inside = offset.checked_add(bytes).is_some_and(|end| end <= self.bytes);
        let is_whole = offset % PAGE_SIZE == 0 && bytes % PAGE_SIZE == 0;
        assert!(is_inside && is_whole, "{bytes} bytes at {start:p} are whole pages of the mapping");
        // SAFETY: inside our mapping by the assertion; by clause 1 the content may be lost.
        unsafe { madvise(start.as_ptr().cast(), bytes, Advice::LinuxDontNeed) }?;
        Ok(())
    }
}

/// Parts of the mapping, named by frames.
impl Mapped {
    /// Opens `range`: allows reads and writes, and forbids huge pages at first (`thp`). Three
    /// system calls.
    ///
    /// # Errors
    /// The error of `mprotect`.
    pub(crate) fn open(&self, range: FrameRange) -> Result<(), OsError> {
        let (start, bytes) = self.part(range);
        let access = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: a part of our mapping, whose access only grows.
        unsafe { mprotect(start, bytes, access) }?;
        // SAFETY: a part of our mapping; changes core dumps only.
        let _ = unsafe { madvise(start, bytes, Advice::LinuxDoDump) };
        // SAFETY: a part of our mapping; changes the size of its pages only.
        let _ = unsafe { madvise(start, bytes, Advice::LinuxNoHugepage) };
        Ok(())
    }

    /// Decommits `range` and forbids access to it.
    ///
    /// # Safety
    /// 1. No code uses `range` any more.
    pub(crate) unsafe fn close(&self, range: FrameRange) -> Result<(), OsError> {
        let (start, bytes) = self.part(range);
        // SAFETY: clause 1: no code needs the content.
        unsafe { madvise(start, bytes, Advice::LinuxDontNeed) }?;
        // SAFETY: clause 1: no code reads or writes there until it is opened again.
        unsafe { mprotect(start, bytes, MprotectFlags::empty()) }?;
        // SAFETY: a part of our mapping; changes core dumps only.
        let _ = unsafe { madvise(start, bytes, Advice::LinuxDontDump) };
        Ok(())
    }

    /// Allows a huge page for `area`, and collapses the area into one at once if the system can.
    /// The content stays.
    pub(crate) fn collapse(&self, area: FrameRange) {
        let (start, bytes) = self.part(area);
        // SAFETY: a part of our mapping; changes the size of the pages behind it only.
        let _ = unsafe { madvise(start, bytes, Advice::LinuxHugepage) };
        preserving_errno(|| {
            // SAFETY: a part of our mapping, whose content stays. A system without this advice
            // returns an error.
            unsafe { libc::madvise(start, bytes, MADV_COLLAPSE) }
        });
    }

    /// Returns whether each page of `range` is resident. One system call for each 2 MiB.
    pub(crate) fn is_resident(&self, range: FrameRange) -> bool {
        let mut there = [0_u8; 512];
        let (start, bytes) = self.part(range);
        let at_once = there.len() * PAGE_SIZE;
        (0..bytes).step_by(at_once).all(|offset| {
            let bytes = at_once.min(bytes - offset);
            let pages = &mut there[..bytes / PAGE_SIZE];
            let outcome = preserving_errno(|| {
                // SAFETY: a part of our mapping; the vector has a byte for each of its pages.
                unsafe { libc::mincore(start.wrapping_byte_add(offset), bytes, pages.as_mut_ptr()) }
            });
            outcome == 0 && pages.iter().all(|page| page & 1 == 1)
        })
    }

    /// Forbids huge pages in `area`. The system splits an existing huge page when a part of it is
    /// decommitted.
    pub(crate) fn forbid_huge(&self, area: FrameRange) {
        let (start, bytes) = self.part(area);
        // SAFETY: a part of our mapping; changes the size of the pages behind it only.
        let _ = unsafe { madvise(start, bytes, Advice::LinuxNoHugepage) };
    }

    /// Forbids huge pages in the whole mapping, whatever the system's default is: for sparsely
    /// written memory.
    pub(crate) fn forbid_huge_anywhere(&self) {
        // SAFETY: all of our mapping; changes the size of its pages only.
        let _ = unsafe {
            madvise(self.mapping.as_ptr().cast(), self.mapping_bytes, Advice::LinuxNoHugepage)
        };
    }

    /// Excludes the whole mapping from core dumps: the system would otherwise search it for pages.
    pub(crate) fn exclude_from_dumps(&self) {
        // SAFETY: our mapping; changes core dumps only.
        let _ = unsafe {
            madvise(self.mapping.as_ptr().cast(), self.mapping_bytes, Advice::LinuxDontDump)
        };
    }

    /// Moves the memory of `bytes` bytes at `from` to `to`, without copying. Returns whether that
    /// succeeded; `from` then reads as zero.
    ///
    /// # Safety
    /// 1. Both are whole open pages of this mapping, do not overlap, and are owned by the caller.
    pub(crate) unsafe fn move_content(
        &self,
        from: NonNull<u8>,
        to: NonNull<u8>,
        bytes: usize,
    ) -> bool {
        let flags = MremapFlags::MAYMOVE | MremapFlags::DONTUNMAP;
        let (from, to) = (from.as_ptr().cast(), to.as_ptr().cast());
        // SAFETY: clause 1: the content at `to` may be lost, and the mapping at `from` stays
        // (`DONTUNMAP`).
        unsafe { mremap_fixed(from, bytes, bytes, flags, to) }.is_ok()
    }

    fn part(&self, range: FrameRange) -> (*mut c_void, usize) {
        let (all, bytes) = (self.frames(), range.frames() * PAGE_SIZE);
        let is_inside =
            all.start <= range.start && range.start <= range.end && range.end <= all.end;
        assert!(is_inside, "{range:?} is a part of the mapping");
        let offset = (range.start.get() - all.start.get()) * PAGE_SIZE;
        (self.start.as_ptr().wrapping_add(offset).cast(), bytes)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and code that uses it keeps the value alive.
        let unmapped = unsafe { munmap(self.mapping.as_ptr().cast(), self.mapping_bytes) };
        debug_assert!(unmapped.is_ok(), "a mapping of our own can be unmapped");
    }
}

/// Calls the C library and restores `errno`: a `malloc` that succeeds must not change it.
fn preserving_errno<R>(call: impl FnOnce() -> R) -> R {
    // SAFETY: has no arguments; returns the thread's own variable.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: the running thread's own variable.
    let before = unsafe { errno.read() };
    let outcome = call();
    // SAFETY: the running thread's own variable.
    unsafe { errno.write(before) };
    outcome
}

/// Returns whether the system reports that huge pages are forbidden in the mapping of `start`.
#[cfg(test)]
pub(crate) fn is_huge_forbidden(start: NonNull<u8>) -> bool {
    let smaps = std::fs::read_to_string("/proc/self/smaps").expect("Linux");
    let mut is_inside = false;
    let flags = smaps.lines().find(|line| {
        let bounds = line.split(' ').next().and_then(|word| word.split_once('-'));
        let number = |digits| usize::from_str_radix(digits, 16).ok();
        if let Some((Some(first), Some(end))) =
            bounds.map(|(first, end)| (number(first), number(end)))
        {
            is_inside = (first..end).contains(&start.addr().get());
        }
        is_inside && line.starts_with("VmFlags:")
    });
    flags.expect("each mapping has flags").split(' ').any(|flag| flag == "nh")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zero_aligned_and_zero_again_after_a_decommit() {
        let memory = Mapped::reserve(3 << 21).expect("6 MiB of address space");
        assert_eq!(memory.start().addr().get() % (1 << 22), 0);
        assert_eq!(memory.frames().frames(), 3 * 512);
        let first = memory.start();
        // SAFETY: inside the mapping, which is ours.
        assert_eq!(unsafe { first.read() }, 0);
        // SAFETY: the first byte of the mapping, which is open.
        unsafe { first.write(7) };
        // SAFETY: the content is not needed.
        unsafe { memory.decommit(first, PAGE_SIZE) }.expect("the range is mapped");
        // SAFETY: still mapped; decommitted pages read as zero.
        assert_eq!(unsafe { first.read() }, 0);
    }

    #[test]
    fn sizes_at_both_ends_are_errors() {
        let refused = |bytes| Mapped::reserve(bytes).expect_err("no such mapping");
        assert_eq!(refused(0), OsError::INVALID);
        assert_eq!(refused(usize::MAX), OsError::INVALID);
        assert_eq!(OsError::INVALID.number(), libc::EINVAL);
        assert!(Mapped::reserve(isize::MAX as usize).is_err());
    }

    /// Mutation seen to fail: an `errno` that stays as the call leaves it.
    #[test]
    fn errno_is_what_it_was_after_a_call_that_fails() {
        // SAFETY: no file has this number; nothing happens but an error.
        let fails = || unsafe { libc::close(-1) };
        let before = std::io::Error::last_os_error().raw_os_error();
        assert_eq!(preserving_errno(fails), -1);
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), before);
        assert_eq!(fails(), -1);
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn pages_and_their_metadata_get_no_huge_pages_at_first() {
        if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
            eprintln!("this system has no huge pages: not tested");
            return;
        }
        let memory = Mapped::reserve(64 << 20).expect("address space");
        assert!(!is_huge_forbidden(memory.start()), "other mappings keep the default");
        let pages = crate::Pages::with_space(1 << 30).expect("address space");
        assert!(
            is_huge_forbidden(pages.metadata.start())
                && is_huge_forbidden(pages.space.mapping().start())
        );
    }

    #[test]
    #[should_panic(expected = "whole pages of the mapping")]
    fn a_decommit_outside_the_range_panics() {
        let memory = Mapped::reserve(PAGE_SIZE).expect("a page of address space");
        // SAFETY: the call panics before anything happens.
        let _ = unsafe { memory.decommit(memory.start(), 2 * PAGE_SIZE) };
    }
}
