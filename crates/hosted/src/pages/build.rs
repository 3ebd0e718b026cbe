//! Building [`Pages`]: the address space, the metadata, and the options.

use core::ptr::NonNull;
use core::sync::atomic::AtomicUsize;
use core::time::Duration;

use buddy::{Mode, ZeroedMemory};
use page_frame::sync::Lock;
use page_frame::{FrameRange, PAGE_SIZE};

use super::{Frames, Pages};
use crate::frame_set::FrameSet;
use crate::purge::decay::{Decay, PURGE_DELAY};
use crate::purge::trim::{Trim, TrimRounds};
use crate::space::metadata::BuddySizes;
use crate::space::{Space, areas};
use crate::system::os_error::OsError;
use crate::thp::scan::Thp;
use crate::threads::Threads;
use crate::threads::tls::THREAD_SLOTS;

/// The maximum of the address space in bytes.
const MAX_BYTES: usize = 1 << 40;
/// The minimum of the address space that `new` tries, in bytes.
const MIN_BYTES: usize = 16 << 20;

impl Pages {
    /// Claims address space and builds the allocator in it. Makes a few system calls and commits
    /// only metadata. Limits of address space and data count the parts that are in use. Example:
    /// see [`Pages`].
    ///
    /// # Errors
    /// The error of `mmap`, when there is no address space even for 16 MiB.
    pub fn new() -> Result<Self, OsError> {
        let mut bytes = MAX_BYTES;
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
        let space = Space::new(bytes, sizes)?;
        let (all, first) = (space.mapping().frames(), space.sections().first());
        let areas = areas::numbers(all);
        let layout = *space.layout();
        let set = |offset: usize, of: FrameRange| {
            // SAFETY: clause 1 of `new_in`: a new space is zero, and each set has a part of its own
            // in it. `Space` maps the bits of all areas at once, and those of a section's frames
            // before the buddy gets them. The space is dropped after the sets.
            unsafe { FrameSet::new_in(space.at(offset), of) }
        };
        let committed = set(layout.committed, all);
        let [dense, huge] = layout.area_sets;
        let thp = Thp::new(set(dense, areas), set(huge, areas));
        let (start, map) = (space.at(layout.buddy), space.mapping().direct_map());
        let ranges = [first];
        // SAFETY: clause 1: fresh, at a multiple of 64. It is dropped after the buddy. I2 of
        // `Space`: the entries of the page map are there before the buddy gets their frames.
        // Clause 2: the space is fresh, so zero, and this part is the buddy's.
        let zeroed = unsafe { ZeroedMemory::from_zeroed(start, layout.buddy_bytes) };
        // SAFETY: the space is fresh, so no other code uses it, and is dropped after the buddy.
        // `map` covers it. `open` maps the frames before a caller gets them.
        let buddy =
            unsafe { Frames::new_with_room(zeroed, &ranges, all, map, Threads, Mode::Dense) };
        Ok(Self {
            buddy: buddy.map_err(|_| OsError::INVALID)?,
            committed,
            decay: Decay::new(PURGE_DELAY),
            trim_rounds: TrimRounds::new(),
            trim_hook: |_| (),
            thp,
            maintenance: Lock::new(()),
            scattered: AtomicUsize::new(0),
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

    /// Backs fresh parts of the pages with huge pages earlier, or later: one part of 2 MiB may have
    /// a huge page that is not full yet for each `bytes` bytes in use (32 MiB if this is not
    /// called), eight parts at most. A huge page replaces 512 page faults of a growing program, and
    /// occupies 2 MiB at once.
    ///
    /// ```
    /// let pages = hosted::Pages::with_space(1 << 30)?.with_huge_pages_from(4 << 20);
    /// # Ok::<(), hosted::OsError>(())
    /// ```
    pub fn with_huge_pages_from(self, bytes: usize) -> Self {
        Self { thp: self.thp.with_growth(bytes / PAGE_SIZE), ..self }
    }

    /// Turns off purging by allocations and frees: only [`purge`](Self::purge) and
    /// [`decay`](Self::decay) release memory. Multi-section runs still release theirs when freed.
    /// Example: see [`Pages::with_space`].
    pub fn without_purging(self) -> Self {
        self.with_purge_delay(Duration::MAX)
    }

    /// Returns the first address of the address space.
    ///
    /// ```
    /// let pages = hosted::Pages::with_space(1 << 30)?;
    /// assert_eq!(pages.start().addr().get() % (2 << 20), 0);
    /// # Ok::<(), hosted::OsError>(())
    /// ```
    pub const fn start(&self) -> NonNull<u8> {
        self.space.mapping().start()
    }

    /// Returns the size of the address space in bytes. Example: see [`Pages`].
    pub const fn space_bytes(&self) -> usize {
        self.space.mapping().space_bytes()
    }
}

/// Returns the sizes of the buddy's metadata for a space with the frames `all`, of which it begins
/// with `first`.
fn sizes(all: FrameRange, first: FrameRange) -> Result<BuddySizes, OsError> {
    let invalid = |_| OsError::INVALID;
    let layout = Frames::metadata_layout_with_room(&[first], all, THREAD_SLOTS);
    let page_map_at = Frames::page_map_offset(&[first], all, THREAD_SLOTS);
    Ok(BuddySizes {
        bytes: layout.map_err(invalid)?.size(),
        page_map_at: page_map_at.map_err(invalid)?,
        section_bytes: Frames::section_layout().size(),
    })
}
