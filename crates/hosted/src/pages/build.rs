//! Building [`Pages`]: the address space, the metadata, and the options.

use core::ptr::NonNull;
use core::sync::atomic::AtomicUsize;

use buddy::{Mode, ZeroedMemory};
use page_frame::sync::Lock;
use page_frame::{FrameRange, PAGE_SIZE};

use super::{Frames, Pages};
use crate::frame_set::FrameSet;
use crate::os_error::OsError;
use crate::purge::policy::PurgePolicy;
use crate::purge::trim::TrimPolicy;
use crate::space::metadata::BuddySizes;
use crate::space::{Space, areas};
use crate::thp::scan::Thp;
use crate::threads::Threads;
use crate::tls::THREAD_SLOTS;

/// The maximum of the address space in bytes.
const MAX_BYTES: usize = 1 << 40;
/// The minimum of the address space that `new` tries, in bytes.
const MIN_BYTES: usize = 16 << 20;

impl Pages {
    /// Claims address space and builds the allocator in it. Makes a few system calls and commits
    /// only metadata. Limits of address space and data count the parts that are in use.
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
            unsafe { Frames::new_with_room(zeroed, &ranges, all, map, Threads, Mode::Cached) };
        Ok(Self {
            buddy: buddy.map_err(|_| OsError::INVALID)?,
            committed,
            purge_policy: PurgePolicy::new(),
            trim_policy: TrimPolicy::new(),
            thp,
            maintenance: Lock::new(()),
            scattered: AtomicUsize::new(0),
            space,
        })
    }

    /// Calls `hook` when the pages in use fall by more than a sixth of their peak (more, if use
    /// tends to rise again) and by more than 1 MiB, and when [`decay`](Self::decay) follows an
    /// interval without allocations. The hook should shrink the caches that use these pages, as one
    /// cached object can keep a page allocated.
    ///
    /// The hook runs with no lock held; it may free pages and allocate.
    pub fn with_trim_hook(self, hook: fn()) -> Self {
        Self { trim_policy: self.trim_policy.with_hook(hook), ..self }
    }

    /// Makes frees to the buddy keep the memory: only [`purge`](Self::purge) and
    /// [`decay`](Self::decay) release it. Multi-section runs still release theirs when freed.
    pub fn without_purging(self) -> Self {
        Self { purge_policy: self.purge_policy.without_purging(), ..self }
    }

    /// Returns the first address of the address space.
    pub const fn start(&self) -> NonNull<u8> {
        self.space.mapping().start()
    }

    /// Returns the size of the address space in bytes.
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
