//! Building [`Pages`]: the address space, the metadata, and the options.

use core::time::Duration;

use buddy::{Mode, ZeroedMemory};
use page_frame::sync::Lock;
use page_frame::{FrameRange, PAGE_SIZE};
use rustix::process::{Resource, getrlimit};

use super::{Frames, Pages, later_sections_bytes};
use crate::frame_set::FrameSet;
use crate::os_error::OsError;
use crate::purge::decay::{Decay, PURGE_DELAY};
use crate::purge::trim::{Trim, TrimRounds};
use crate::space::Space;
use crate::space::mapping::Mapped;
use crate::thp::areas;
use crate::thp::scan::Thp;
use crate::threads::Threads;
use crate::tls::THREAD_SLOTS;

/// The maximum of the address space in bytes.
const MAX_BYTES: usize = 1 << 40;
/// The minimum of the address space that `new` tries, in bytes.
const MIN_BYTES: usize = 16 << 20;

impl Pages {
    /// Reserves address space and builds the allocator in it. Makes a few system calls and commits
    /// only metadata. Example: see [`Pages`].
    ///
    /// # Errors
    /// The error of `mmap`, when there is no address space even for 16 MiB.
    pub fn new() -> Result<Self, OsError> {
        let mut bytes = MAX_BYTES;
        if let Some(limit) = getrlimit(Resource::As).current {
            // A quarter of the limit: the program and the page map need address space too.
            bytes = bytes.min((limit as usize / 4).max(MIN_BYTES));
            bytes = 1 << bytes.ilog2();
        }
        loop {
            match Self::with_space(bytes) {
                Err(error) if bytes <= MIN_BYTES => return Err(error),
                Err(_) => bytes /= 2,
                Ok(pages) => return Ok(pages),
            }
        }
    }

    /// Builds the allocator in `bytes` bytes of address space, a power of two, at least a page.
    ///
    /// ```
    /// use hosted::{OsError, Pages};
    /// let pages = Pages::with_space(1 << 30)?.without_purging(); // only `purge` and `decay` purge
    /// let pages = pages.with_trim_hook(|trim| match trim {
    ///     hosted::Trim::Surplus => eprintln!("let the caches age"),
    ///     hosted::Trim::All => eprintln!("shrink them"),
    /// });
    /// let other = Pages::with_space(1 << 30)?.with_purge_delay(10 * hosted::PURGE_DELAY);
    /// assert_eq!(pages.space_bytes(), 1 << 30);
    /// assert_eq!(Pages::with_space(5000).unwrap_err().number(), 22); // `EINVAL`: no power of two
    /// # Ok::<(), OsError>(())
    /// ```
    ///
    /// # Errors
    /// The error of `mmap`, or `EINVAL` for other sizes: areas and sections are aligned parts of
    /// the space.
    pub fn with_space(bytes: usize) -> Result<Self, OsError> {
        if !bytes.is_power_of_two() || bytes < PAGE_SIZE {
            return Err(OsError::INVALID);
        }
        let space = Space::reserve(bytes)?;
        let (all, first) = (space.mapping().frames(), space.sections().first());
        let invalid = |_| OsError::INVALID;
        let layout = Frames::metadata_layout_with_room(&[first], all, THREAD_SLOTS);
        let buddy_bytes = layout.map_err(invalid)?.size().next_multiple_of(64);
        // One mapping for all metadata: first the buddy's, then the sets of frames and areas, last
        // that of later sections.
        let areas = areas::numbers(all);
        let (frame_bytes, area_bytes) = (FrameSet::bytes(all), FrameSet::bytes(areas));
        let sets_bytes = frame_bytes + 2 * area_bytes;
        let metadata = Mapped::reserve(buddy_bytes + sets_bytes + later_sections_bytes(&space))?;
        metadata.exclude_from_dumps();
        metadata.forbid_huge_anywhere();
        let set = |offset: usize, of: FrameRange| {
            // SAFETY: within the mapping.
            let memory = unsafe { metadata.start().add(buddy_bytes + offset) };
            // SAFETY: clause 1 of `new_in`: a fresh mapping is zero, each set has its own part of
            // it, and the mapping is dropped with the sets.
            unsafe { FrameSet::new_in(memory, of) }
        };
        let committed = set(0, all);
        let thp = Thp::new(set(frame_bytes, areas), set(frame_bytes + area_bytes, areas));
        let (start, map) = (metadata.start(), space.mapping().direct_map());
        let ranges = [first];
        // SAFETY: the mapping is fresh, so zero and ours. It is dropped after the buddy.
        let zeroed = unsafe { ZeroedMemory::from_zeroed(start, buddy_bytes) };
        // SAFETY: the space is fresh, so no other code uses it, and is dropped after the buddy.
        // `map` covers it; `first` is open.
        let buddy =
            unsafe { Frames::new_with_room(zeroed, &ranges, all, map, Threads, Mode::Dense) };
        Ok(Self {
            buddy: buddy.map_err(invalid)?,
            committed,
            decay: Decay::new(PURGE_DELAY),
            trim_rounds: TrimRounds::new(),
            trim_hook: |_| (),
            thp,
            maintenance: Lock::new(()),
            metadata,
            space,
        })
    }

    /// Calls `hook` at the end of each interval, half a purge delay: before the pages that are due
    /// are purged. The hook should make the caches that use these pages release as much as its
    /// argument says, as one cached object can keep a page allocated.
    ///
    /// The hook runs with no lock held, inside a call that allocates or frees; it may do both
    /// itself. Example: see [`Pages::with_space`].
    pub fn with_trim_hook(self, hook: fn(Trim)) -> Self {
        Self { trim_hook: hook, ..self }
    }

    /// Sets the purge delay: free pages are purged when they have been idle so long
    /// ([`PURGE_DELAY`](crate::PURGE_DELAY) if this is not called), by the next call that allocates
    /// or frees pages. At least 20 milliseconds. Example: see [`Pages::with_space`].
    pub fn with_purge_delay(self, delay: Duration) -> Self {
        Self { decay: self.decay.with_delay(delay), ..self }
    }

    /// Backs no part of the pages with huge pages, however many are in use.
    ///
    /// ```
    /// let pages = hosted::Pages::with_space(1 << 30)?.without_huge_pages();
    /// # Ok::<(), hosted::OsError>(())
    /// ```
    pub fn without_huge_pages(self) -> Self {
        Self { thp: self.thp.disabled(), ..self }
    }

    /// Turns off purging by allocations and frees: only [`purge`](Self::purge) and
    /// [`decay`](Self::decay) release memory. Multi-section runs still release theirs when freed.
    /// Example: see [`Pages::with_space`].
    pub fn without_purging(self) -> Self {
        self.with_purge_delay(Duration::MAX)
    }

    /// Returns the size of the address space in bytes. Example: see [`Pages`].
    pub const fn space_bytes(&self) -> usize {
        self.space.mapping().bytes()
    }
}
