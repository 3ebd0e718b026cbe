//! Building an allocator in the memory that it allocates.

use core::ptr::NonNull;

use page_frame::{Cpu, FrameNumber, FrameRange, Order, PAGE_SIZE, PhysMap};

use crate::allocator::buddy::Buddy;
use crate::allocator::frame_pool::Mode;
use crate::metadata::BuildError;
use crate::zeroed_memory::ZeroedMemory;

impl<M: PhysMap, C: Cpu> Buddy<'_, M, C> {
    /// Builds the allocator of all frames of `ranges` in its own memory: the metadata lies at the
    /// end of the highest range that has room for it, and counts as an allocated run
    /// (as several, where it is larger than the largest block).
    ///
    /// Writes the metadata, about nine bytes per frame of the span: O(frames). The allocator is in
    /// [`Mode::Cached`].
    ///
    /// ```
    /// use buddy::Buddy;
    /// use page_frame::{DirectMap, FrameNumber, FrameRange, Once, PAGE_SIZE, SingleCpu};
    /// # use std::{alloc::{Layout, alloc}, ptr::NonNull};
    /// # // SAFETY: the layout is not empty.
    /// # let memory = unsafe { alloc(Layout::from_size_align(1024 * PAGE_SIZE, PAGE_SIZE)?) };
    /// # let memory = NonNull::new(memory).unwrap();
    /// // SAFETY: `memory` points to the memory of all frames, from frame 0 on.
    /// let map = unsafe { DirectMap::from_root(memory, FrameNumber::new(0)) };
    /// let range = FrameRange::new(FrameNumber::new(0), FrameNumber::new(1024));
    /// // SAFETY: clauses 1 and 2: no other code uses the frames, which `map` covers.
    /// let buddy = unsafe { Buddy::new_inside(&[range], map, SingleCpu::new()) }?;
    /// assert!(buddy.free_frames_count() > 950 && buddy.free_frames_count() < buddy.frames());
    /// // In a kernel: `static FRAMES: Once<Buddy<'static, DirectMap, MyCpu>> = Once::new();`
    /// let frames = Once::new();
    /// frames.set(buddy).expect("set once");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`BuildError`] as for [`metadata_layout`](Self::metadata_layout), and
    /// [`BuildError::MetadataTooSmall`] with the size of the largest range.
    ///
    /// # Safety
    /// 1. During `'m` no other code uses the frames, while they are not offline.
    /// 2. `phys` covers the frames of `ranges`, and they are mapped where it says, for reads and
    ///    writes during `'m`.
    pub unsafe fn new_inside(ranges: &[FrameRange], phys: M, cpu: C) -> Result<Self, BuildError> {
        // SAFETY: clauses 1 and 2: clauses 1 and 2 of this function.
        unsafe { Self::new_inside_with(ranges, 0, phys, cpu) }.map(|(buddy, _)| buddy)
    }

    /// Builds the allocator as [`new_inside`](Self::new_inside) does, and reserves `bytes` zeroed
    /// bytes behind the metadata; returns their start, which is aligned to 64 bytes.
    ///
    /// # Safety
    /// 1. As for [`new_inside`](Self::new_inside).
    /// 2. As for [`new_inside`](Self::new_inside).
    pub(crate) unsafe fn new_inside_with(
        ranges: &[FrameRange],
        bytes: usize,
        phys: M,
        cpu: C,
    ) -> Result<(Self, NonNull<u8>), BuildError> {
        let metadata_bytes = Self::metadata_layout(ranges, cpu.slots())?.size();
        let needed = metadata_bytes.checked_add(bytes).ok_or(BuildError::TooLarge)?;
        let pages = needed.div_ceil(PAGE_SIZE);
        let Some(range) = ranges.iter().rev().find(|range| range.frames() > pages) else {
            let frames = ranges.iter().map(|range| range.frames()).max();
            let given = frames.unwrap_or(0).saturating_mul(PAGE_SIZE);
            return Err(BuildError::MetadataTooSmall { needed, given });
        };
        let first = FrameNumber::new(range.end.get() - pages);
        let start = phys.pointer(first);
        // SAFETY: clauses 1 and 2: frames of `ranges`, mapped and used by no other code.
        unsafe { start.write_bytes(0, pages * PAGE_SIZE) };
        // SAFETY: clause 1: page-aligned, and valid during `'m` by clause 2. Clause 2: just zeroed;
        // by clause 1 no other code uses it, and below the buddy never lends it.
        let metadata = unsafe { ZeroedMemory::from_zeroed(start, metadata_bytes) };
        // SAFETY: inside the pages; the layout's size is a multiple of 64.
        let behind = unsafe { start.add(metadata_bytes) };
        // SAFETY: clauses 1 and 2 of `new_in`: clauses 1 and 2; the metadata's frames are taken
        // before anybody has the buddy.
        let buddy = unsafe { Self::new_in(metadata, ranges, phys, cpu, Mode::Cached) }?;
        // A run is at most the largest block.
        for at in (0..pages).step_by(Order::MAX.pages()) {
            let start = FrameNumber::new(first.get() + at);
            let taken = buddy.allocate_run_at(start, (pages - at).min(Order::MAX.pages()));
            taken.expect("a new allocator has no frame in use");
        }
        Ok((buddy, behind))
    }
}
