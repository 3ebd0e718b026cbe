//! A region: a range of addresses that [`Space`](super::Space) claims once and maps part by part.
//!
//! # Concepts
//! - A **claimed** region is a choice of addresses, far away from where Linux places mappings. The
//!   system knows only the parts that are mapped. So limits of address space and of data
//!   (`ulimit -v`, `ulimit -d`), `mlockall`, and strict accounting of memory (overcommit mode 2)
//!   count what the heap uses, and nothing beyond that. Go places its heap in the same way.
//! - Where those addresses cannot be mapped (few bits of address space, a tool that has its own
//!   layout), the region is **reserved**: one mapping without access, of which parts are opened.
//!
//! # Invariants
//! - I1: no code but the owner of the region maps memory in it. In a claimed region a new mapping
//!   never replaces one (`MAP_FIXED_NOREPLACE`), so a mapping of other code there makes a part
//!   unusable and harms nothing else.

use core::ffi::c_void;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use page_frame::{DirectMap, FrameNumber, FrameRange, PAGE_SIZE};
use rustix::io::Errno;
use rustix::mm::{
    Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags, madvise, mmap_anonymous, mprotect,
    mremap, munmap,
};

use crate::space::residency::{MAX_PAGES, are_resident};
use crate::system::os_error::{OsError, preserving_errno};
use crate::system::seccomp;

/// `MADV_COLLAPSE` (Linux 6.1): copies the pages of an area into one huge page.
const MADV_COLLAPSE: core::ffi::c_int = 25;
/// Alignment of a region in bytes: that of the largest block.
const ALIGNMENT: usize = 1 << 30;
/// The addresses of claimed regions: above the shadow memory of sanitizers, below the programs and
/// libraries of Linux with 47 bits of address space.
const CLAIMS: Range<u64> = 0x1100_0000_0000..0x5000_0000_0000;
/// How many places a claim tries.
const MAX_TRIES: usize = 8;

/// A range of addresses. Dropping it unmaps a reserved region; parts of a claimed region are
/// unmapped by their owner.
#[derive(Debug)]
pub(crate) struct Region {
    start: NonNull<u8>,
    /// The bytes of the space, at the start of the region. Metadata follows them.
    space_bytes: usize,
    bytes: usize,
    /// The mapping of a reserved region and its bytes. It is larger than the region.
    reserved: Option<(NonNull<u8>, usize)>,
}

// SAFETY: the value owns the addresses, which are reached only through raw pointers.
unsafe impl Send for Region {}
// SAFETY: shared references change mappings only, through the system.
unsafe impl Sync for Region {}

impl Region {
    /// Claims a region of `bytes` bytes whose first `space_bytes` are the space, and maps `first`
    /// of it.
    ///
    /// # Errors
    /// The error of `mmap`.
    pub(crate) fn claim(
        space_bytes: usize,
        bytes: usize,
        first: Range<usize>,
    ) -> Result<Self, OsError> {
        let mut error = OsError::INVALID;
        // Miri maps memory only where it chooses.
        let tries = if cfg!(miri) { 0 } else { MAX_TRIES };
        for _ in 0..tries {
            let wanted = next_claim(bytes).ok_or(OsError::INVALID)?;
            match map_at(wanted + first.start, first.len()) {
                Ok(part) => {
                    let start = part.as_ptr().wrapping_byte_sub(first.start);
                    let start = NonNull::new(start).ok_or(OsError::INVALID)?;
                    return Ok(Self { start, space_bytes, bytes, reserved: None });
                }
                Err(why) if why == OsError::EXISTS => error = why,
                Err(why) => return Err(why),
            }
        }
        Err(error)
    }

    /// Reserves such a region without access, and opens `first` of it.
    ///
    /// # Errors
    /// The error of `mmap` or `mprotect`.
    pub(crate) fn reserve(
        space_bytes: usize,
        bytes: usize,
        first: Range<usize>,
    ) -> Result<Self, OsError> {
        // Whole areas and words of bits, and a section at most.
        let alignment = space_bytes.clamp(2 << 20, ALIGNMENT);
        let mapped = bytes.checked_add(alignment).ok_or(OsError::INVALID)?;
        // Miri knows no other flag, and allows access to all of it at once.
        let (flags, no_access) = if cfg!(miri) {
            (MapFlags::PRIVATE, ProtFlags::READ | ProtFlags::WRITE)
        } else {
            (MapFlags::PRIVATE | MapFlags::NORESERVE, ProtFlags::empty())
        };
        // SAFETY: a new mapping at an address that the system chooses changes no existing memory.
        let mapping = unsafe { mmap_anonymous(core::ptr::null_mut(), mapped, no_access, flags) }?;
        let mapping = NonNull::new(mapping.cast::<u8>()).ok_or(OsError::INVALID)?;
        // SAFETY: the mapping is longer by the alignment, so the aligned start lies inside it.
        let start = unsafe { mapping.add(mapping.align_offset(alignment)) };
        let region = Self { start, space_bytes, bytes, reserved: Some((mapping, mapped)) };
        if !cfg!(miri) {
            // SAFETY: our mapping; changes core dumps only. The system would search it for pages.
            let _ = unsafe { madvise(mapping.as_ptr().cast(), mapped, Advice::LinuxDontDump) };
        }
        region.map(first)?;
        Ok(region)
    }

    /// Returns whether the region is reserved.
    pub(crate) const fn is_reserved(&self) -> bool {
        self.reserved.is_some()
    }

    /// Returns the address of the first byte.
    pub(crate) const fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Returns the size of the space in bytes.
    pub(crate) const fn space_bytes(&self) -> usize {
        self.space_bytes
    }

    /// Returns the pages of the space as frames, numbered by their addresses.
    pub(crate) fn frames(&self) -> FrameRange {
        let first = FrameNumber::containing(self.start.addr().get());
        FrameRange::new(first, FrameNumber::new(first.get() + self.space_bytes / PAGE_SIZE))
    }

    /// Returns the map between these frames and their addresses.
    pub(crate) fn direct_map(&self) -> DirectMap {
        // SAFETY: clause 1: `start` has the provenance of the region's mappings.
        unsafe { DirectMap::from_root(self.start, self.frames().start) }
    }

    /// Returns where `range` lies in the region, in bytes.
    pub(crate) fn offsets(&self, range: FrameRange) -> Range<usize> {
        let first = self.frames().start.get();
        let offset = |frame: FrameNumber| (frame.get() - first) * PAGE_SIZE;
        offset(range.start)..offset(range.end)
    }

    /// Maps `part`, whole pages of the region that are not mapped: they read as zero.
    ///
    /// # Errors
    /// The error of the system: out of address space, of memory or of mappings; `EEXIST` where
    /// other code has a mapping.
    pub(crate) fn map(&self, part: Range<usize>) -> Result<(), OsError> {
        let (start, bytes) = self.part(&part);
        if self.reserved.is_none() {
            return map_at(start.addr(), bytes).map(|_| ());
        }
        if cfg!(miri) {
            return Ok(());
        }
        // SAFETY: a part of our mapping, whose access only grows.
        unsafe { mprotect(start, bytes, MprotectFlags::READ | MprotectFlags::WRITE) }?;
        // SAFETY: a part of our mapping; changes core dumps only.
        let _ = unsafe { madvise(start, bytes, Advice::LinuxDoDump) };
        Ok(())
    }

    /// Extends the mapping that ends where `part` begins over `part`, which is not mapped. It needs
    /// no further mapping, of which a process can have only so many.
    ///
    /// # Errors
    /// The error of the system.
    ///
    /// # Safety
    /// 1. The page before `part` was mapped by this value.
    pub(crate) unsafe fn extend(&self, part: Range<usize>) -> Result<(), OsError> {
        if self.reserved.is_some() {
            return Err(OsError::INVALID);
        }
        let (start, bytes) = self.part(&part);
        let last = start.wrapping_byte_sub(PAGE_SIZE);
        // SAFETY: clause 1: the last page of our mapping, which grows in its place over addresses
        // without a mapping, or stays as it is.
        unsafe { mremap(last, PAGE_SIZE, PAGE_SIZE + bytes, MremapFlags::empty()) }?;
        Ok(())
    }

    /// Unmaps `part`.
    ///
    /// # Errors
    /// The error of the system, which may have no room for another mapping. The part is still
    /// mapped then.
    ///
    /// # Safety
    /// 1. `part` was mapped by [`map`](Self::map), and no code uses it any more.
    pub(crate) unsafe fn unmap(&self, part: Range<usize>) -> Result<(), OsError> {
        let (start, bytes) = self.part(&part);
        if self.reserved.is_none() {
            // SAFETY: clause 1: mapped by this region, and not used.
            return Ok(unsafe { munmap(start, bytes) }?);
        }
        if cfg!(miri) {
            // SAFETY: clause 1: no code needs the content, and a part that is mapped again reads as
            // zero.
            unsafe { start.cast::<u8>().write_bytes(0, bytes) };
            return Ok(());
        }
        // SAFETY: clause 1: no code needs the content.
        unsafe { madvise(start, bytes, Advice::LinuxDontNeed) }?;
        // SAFETY: clause 1: no code reads or writes there until it is mapped again.
        unsafe { mprotect(start, bytes, MprotectFlags::empty()) }?;
        // SAFETY: a part of our mapping; changes core dumps only.
        let _ = unsafe { madvise(start, bytes, Advice::LinuxDontDump) };
        Ok(())
    }

    /// Decommits `bytes` bytes at `start`: returns their memory to the system. They read as zero
    /// afterwards. One system call.
    ///
    /// # Errors
    /// The error of `madvise`, for example for locked pages; the content is then unchanged.
    ///
    /// # Panics
    /// When the range is not whole pages inside the space.
    ///
    /// # Safety
    /// 1. No code needs the content of the range, of which units may be closed.
    pub(crate) unsafe fn decommit(&self, start: NonNull<u8>, bytes: usize) -> Result<(), OsError> {
        let first = FrameNumber::containing(start.addr().get());
        let end = FrameNumber::new(first.get() + bytes / PAGE_SIZE);
        let is_whole = start.addr().get() % PAGE_SIZE == 0 && bytes % PAGE_SIZE == 0;
        assert!(is_whole, "{bytes} bytes at {start:p} are whole pages");
        let (start, bytes) = self.part_of_space(FrameRange::new(first, end));
        if cfg!(miri) {
            // SAFETY: clause 1: the content may be lost.
            unsafe { start.cast::<u8>().write_bytes(0, bytes) };
            return Ok(());
        }
        // SAFETY: clause 1: the content may be lost.
        match unsafe { madvise(start, bytes, Advice::LinuxDontNeed) } {
            // A unit of the range is not mapped. Linux has decommitted all others.
            Err(Errno::NOMEM) if self.reserved.is_none() => Ok(()),
            outcome => Ok(outcome?),
        }
    }

    /// Allows a huge page for `area`, and collapses the area into one at once if the system can.
    /// The content stays.
    pub(crate) fn collapse(&self, area: FrameRange) {
        if cfg!(miri) {
            return;
        }
        self.allow_huge(area);
        let (start, bytes) = self.part_of_space(area);
        preserving_errno(|| {
            // SAFETY: a part of our mapping, whose content stays. A system without this advice
            // returns an error.
            unsafe { libc::madvise(start, bytes, MADV_COLLAPSE) }
        });
    }

    /// Allows huge pages in `range`: the first access to an area of it gets one, if the system has
    /// one.
    pub(crate) fn allow_huge(&self, range: FrameRange) {
        if cfg!(miri) {
            return;
        }
        let (start, bytes) = self.part_of_space(range);
        // SAFETY: a part of our mapping; changes the size of the pages behind it only.
        let _ = unsafe { madvise(start, bytes, Advice::LinuxHugepage) };
    }

    /// Makes `range` resident, as a write to each of its pages would (Linux 5.14; earlier systems
    /// do nothing). The content stays.
    pub(crate) fn populate(&self, range: FrameRange) {
        if cfg!(miri) {
            return;
        }
        let (start, bytes) = self.part_of_space(range);
        // SAFETY: a part of our mapping, whose content stays.
        let _ = unsafe { madvise(start, bytes, Advice::LinuxPopulateWrite) };
    }

    /// Returns whether each page of `range` is resident. A system call for each 2 MiB; three in a
    /// process with a filter of system calls.
    pub(crate) fn is_resident(&self, range: FrameRange) -> bool {
        let (start, bytes) = self.part_of_space(range);
        (0..bytes / PAGE_SIZE).step_by(MAX_PAGES).all(|page| {
            let pages = MAX_PAGES.min(bytes / PAGE_SIZE - page);
            are_resident(start.wrapping_byte_add(page * PAGE_SIZE), pages)
        })
    }

    /// Forbids huge pages in `range`. The system splits an existing huge page when a part of it is
    /// decommitted.
    pub(crate) fn forbid_huge(&self, range: FrameRange) {
        self.forbid_huge_in(self.offsets(range));
    }

    /// Forbids huge pages in `part`, which is mapped: for sparsely written memory. Does nothing in
    /// a process that has installed a filter of system calls.
    pub(crate) fn forbid_huge_in(&self, part: Range<usize>) {
        if seccomp::has_own_filter() || cfg!(miri) {
            return;
        }
        let (start, bytes) = self.part(&part);
        // SAFETY: a part of our mapping; changes the size of the pages behind it only.
        let _ = unsafe { madvise(start, bytes, Advice::LinuxNoHugepage) };
    }

    /// Moves the memory of `bytes` bytes at `from` to `to`, without copying. Returns whether that
    /// succeeded; `from` then reads as zero.
    ///
    /// # Safety
    /// 1. Both are whole mapped pages of the space, do not overlap, and are owned by the caller.
    pub(crate) unsafe fn move_content(
        &self,
        from: NonNull<u8>,
        to: NonNull<u8>,
        bytes: usize,
    ) -> bool {
        #[cfg(miri)]
        {
            // The caller copies.
            let _ = (from, to, bytes);
            false
        }
        #[cfg(not(miri))]
        {
            let flags = MremapFlags::MAYMOVE | MremapFlags::DONTUNMAP;
            let (from, to) = (from.as_ptr().cast(), to.as_ptr().cast());
            // SAFETY: clause 1: the content at `to` may be lost, and the mapping at `from` stays
            // (`DONTUNMAP`).
            unsafe { rustix::mm::mremap_fixed(from, bytes, bytes, flags, to) }.is_ok()
        }
    }

    fn part_of_space(&self, range: FrameRange) -> (*mut c_void, usize) {
        let all = self.frames();
        let is_inside =
            all.start <= range.start && range.start <= range.end && range.end <= all.end;
        assert!(is_inside, "{range:?} is a part of the space");
        self.part(&self.offsets(range))
    }

    fn part(&self, part: &Range<usize>) -> (*mut c_void, usize) {
        assert!(part.start <= part.end && part.end <= self.bytes, "{part:?} is in the region");
        (self.start.as_ptr().wrapping_add(part.start).cast(), part.len())
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if let Some((mapping, bytes)) = self.reserved {
            // SAFETY: the mapping is ours, and code that uses it keeps the value alive.
            let unmapped = unsafe { munmap(mapping.as_ptr().cast(), bytes) };
            debug_assert!(unmapped.is_ok(), "a mapping of our own can be unmapped");
        }
    }
}

/// Maps `bytes` bytes at `address`, where no mapping may be.
fn map_at(address: usize, bytes: usize) -> Result<NonNull<u8>, OsError> {
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE;
    let access = ProtFlags::READ | ProtFlags::WRITE;
    let wanted = core::ptr::without_provenance_mut::<c_void>(address);
    // SAFETY: the flags exclude that the mapping replaces one. Systems before Linux 4.17 ignore
    // them and place the mapping elsewhere.
    let mapping = unsafe { mmap_anonymous(wanted, bytes, access, flags) }?;
    if mapping.addr() != address {
        // SAFETY: the mapping that was just made, which no code uses.
        let _ = unsafe { munmap(mapping, bytes) };
        return Err(OsError::EXISTS);
    }
    NonNull::new(mapping.cast()).ok_or(OsError::INVALID)
}

/// Returns the next place for a region of `bytes` bytes. Each process begins at another place, and
/// the regions of one process follow each other.
fn next_claim(bytes: usize) -> Option<usize> {
    /// The distance from the first place of this process.
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    /// Random bits: the address of a local variable when the first region is made, or zero.
    static SEED: AtomicUsize = AtomicUsize::new(0);
    let local = 0_u8;
    let here = (&raw const local).addr() | 1;
    // Relaxed, here and below: the numbers publish nothing.
    let seed = SEED.compare_exchange(0, here, Ordering::Relaxed, Ordering::Relaxed);
    let seed = seed.map_or_else(|first| first, |_| here) >> 4;
    // Linux chooses both addresses at random. Knuth's multiplier mixes their bits.
    let mixed = (seed ^ (&raw const NEXT).addr().rotate_left(20)) as u64;
    let mixed = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24;
    let stride = bytes.checked_next_multiple_of(ALIGNMENT)?;
    let distance = NEXT.fetch_add(stride, Ordering::Relaxed) as u64;
    let alignment = ALIGNMENT as u64;
    let choices = (CLAIMS.end - CLAIMS.start).checked_sub(stride as u64)? / alignment;
    let choice = (mixed % choices + distance / alignment) % choices;
    usize::try_from(CLAIMS.start + choice * alignment).ok()
}
