//! The allocator of frame numbers. It lends no memory by address, so all of its methods are safe.

use core::alloc::Layout;
use core::ops::Deref;
use core::ptr::NonNull;

use page_frame::{
    Cpu, CpuId, Fault, FaultHook, FrameNumber, FrameRange, Order, OutOfMemory, PAGE_SIZE,
};

use crate::allocator::compact::{self, Relocated, Relocation};
use crate::allocator::frame_pool::{FramePool, Mode};
use crate::allocator::hotplug::{self, HotplugError};
use crate::metadata::section::section_layout;
use crate::metadata::{BuildError, Plan, build};
use crate::trace::Trace;
use crate::zeroed_memory::ZeroedMemory;

/// A type with the alignment of a page.
#[repr(align(4096))]
struct OnePage;

const _: () = assert!(align_of::<OnePage>() == PAGE_SIZE, "the border of a page");

/// A page-aligned address for the first frame of a page map without memory. No pointer is made from
/// it.
const NO_MEMORY: NonNull<u8> = NonNull::<OnePage>::dangling().cast();

/// A buddy allocator of page frames by number.
///
/// It uses no addresses and makes no pointers; its user decides which memory a frame number names.
/// So every method is safe, and a wrong free can only make the allocator return a number twice.
/// [`Buddy`](crate::Buddy) lends memory by address. [`FramePool`] has the methods that both types
/// share.
///
/// ```
/// use buddy::{FrameAllocator, Mode, ZeroedMemory};
/// use page_frame::{FrameNumber, FrameRange, Order, SingleCpu};
/// use std::mem::MaybeUninit;
///
/// let frames = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(1024))];
/// let layout = FrameAllocator::<SingleCpu>::metadata_layout(&frames, 1)?;
/// let mut metadata = vec![MaybeUninit::uninit(); layout.size() + layout.align()];
/// let metadata = ZeroedMemory::zero(&mut metadata);
/// let frames = FrameAllocator::new_in(metadata, &frames, SingleCpu::new(), Mode::Plain)?;
///
/// let order = Order::new(3).unwrap();
/// let block = frames.allocate_frames(order)?;
/// assert!(block.is_aligned_to(order));
/// assert_eq!(frames.free_frames_count(), 1024 - 8);
/// frames.free_frames(block, order)?;
/// assert!(frames.free_frames(block, order).is_err()); // a double free is a fault
/// let mut pages = [FrameNumber::default(); 100];
/// let count = frames.allocate_many(Order::ZERO, &mut pages);
/// frames.free_many(Order::ZERO, &pages[..count])?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// `T` is the [`Trace`], `()` by default. `CHECKED` says whether every free is a checked free, see
/// [`with_checked_free`](Self::with_checked_free).
///
/// The allocator borrows its metadata, so it cannot outlive it:
///
/// ```compile_fail,E0505
/// use buddy::{FrameAllocator, Mode, ZeroedMemory};
/// use page_frame::{FrameNumber, FrameRange, SingleCpu};
/// use std::mem::MaybeUninit;
/// let frames = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(1024))];
/// let mut metadata = vec![MaybeUninit::uninit(); 1 << 20];
/// let memory = ZeroedMemory::zero(&mut metadata);
/// let frames = FrameAllocator::new_in(memory, &frames, SingleCpu::new(), Mode::Plain).unwrap();
/// drop(metadata);
/// frames.drain();
/// ```
#[derive(Debug)]
pub struct FrameAllocator<'m, C, T = (), const CHECKED: bool = false> {
    pub(crate) pool: FramePool<'m, C, T, CHECKED>,
}

impl<'m, C: Cpu> FrameAllocator<'m, C> {
    /// Returns size and alignment of the metadata for `ranges` and `slots` CPU slots.
    ///
    /// About 0.15 bytes per frame for the bits, and nine bytes per frame of the span for the page
    /// map, of which only the entries of frames in use are ever touched.
    /// Example: see [`FrameAllocator`].
    ///
    /// # Errors
    /// [`BuildError`] when `ranges` are empty, not ascending, or overlap. They may touch.
    pub fn metadata_layout(ranges: &[FrameRange], slots: usize) -> Result<Layout, BuildError> {
        Self::metadata_layout_with_room(ranges, FrameRange::default(), slots)
    }

    /// Returns the same layout plus room for frames of `room` that may be added later: 24 bytes for
    /// each GiB of `room`, and its part of the page map, nine bytes a frame. A
    /// [`GrowingBuddy`](crate::GrowingBuddy) takes ranges later without room.
    /// Example: see [`FrameAllocator::add_section`].
    ///
    /// # Errors
    /// As for [`metadata_layout`](Self::metadata_layout).
    pub fn metadata_layout_with_room(
        ranges: &[FrameRange],
        room: FrameRange,
        slots: usize,
    ) -> Result<Layout, BuildError> {
        Plan::new(ranges, room, slots).map(|plan| plan.layout())
    }

    /// Builds the allocator of all frames of `ranges`, with its metadata in `metadata`.
    ///
    /// O(areas); touches 0.15 bytes per frame of the metadata. Example: see [`FrameAllocator`].
    ///
    /// # Errors
    /// [`BuildError`] as for [`metadata_layout`](Self::metadata_layout), and
    /// [`BuildError::MetadataTooSmall`].
    pub fn new_in(
        metadata: ZeroedMemory<'m>,
        ranges: &[FrameRange],
        cpu: C,
        mode: Mode,
    ) -> Result<Self, BuildError> {
        Self::new_with_room(metadata, ranges, FrameRange::default(), cpu, mode)
    }

    /// Builds the same allocator with room for frames of `room`, which the caller may add later by
    /// [`add_section`](Self::add_section). Example: see [`FrameAllocator::add_section`].
    ///
    /// # Errors
    /// As for [`new_in`](Self::new_in), with the layout of
    /// [`metadata_layout_with_room`](Self::metadata_layout_with_room).
    pub fn new_with_room(
        metadata: ZeroedMemory<'m>,
        ranges: &[FrameRange],
        room: FrameRange,
        cpu: C,
        mode: Mode,
    ) -> Result<Self, BuildError> {
        // SAFETY: clause 1: the address is page-aligned, and this type never gets a pointer from
        // its page map.
        let carved = unsafe { build(metadata, ranges, room, cpu.slots(), |_| NO_MEMORY) }?;
        Ok(Self { pool: FramePool::new(carved, cpu, mode) })
    }

    /// Sets the trace, which receives each event from then on.
    ///
    /// ```
    /// use buddy::{EventCounts, FrameAllocator, Mode, ZeroedMemory};
    /// use page_frame::{FrameNumber, FrameRange, Order, SingleCpu};
    /// # use std::mem::MaybeUninit;
    /// # let mut memory = vec![MaybeUninit::uninit(); 1 << 17];
    /// # let memory = ZeroedMemory::zero(&mut memory);
    /// # let range = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(16))];
    /// # let frames = FrameAllocator::new_in(memory, &range, SingleCpu::new(), Mode::Plain)?;
    /// let frames = frames.with_trace(EventCounts::new()); // 16 free frames
    /// let two = frames.allocate_frames(Order::new(1).unwrap())?;
    /// assert_eq!(frames.trace().splits(), 3); // 16 into 8, 4 and 2
    /// frames.free_frames(two, Order::new(1).unwrap())?;
    /// assert_eq!(frames.trace().merges(), 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_trace<T: Trace>(self, trace: T) -> FrameAllocator<'m, C, T> {
        FrameAllocator { pool: self.pool.with_trace(trace) }
    }
}

impl<'m, C: Cpu, T: Trace, const CHECKED: bool> FrameAllocator<'m, C, T, CHECKED> {
    /// Makes every free a checked free: of several concurrent frees of one block, exactly one
    /// succeeds, and the others return a fault before anything changes. Call it after
    /// [`with_trace`](FrameAllocator::with_trace).
    ///
    /// A free reads the tag of the block's head, and then clears it. Two CPUs that free one block
    /// at the same moment may both read before one of them clears. Without this option the double
    /// free is found when the second slot returns the block. The frames never count as free twice,
    /// but until then both slots may allocate the block. A checked free exchanges the tag instead.
    /// It costs an atomic operation for each free, and nothing for allocations.
    ///
    /// ```
    /// use buddy::{FrameAllocator, Mode, ZeroedMemory};
    /// use page_frame::{FaultKind, FrameNumber, FrameRange, Order, SingleCpu};
    /// # use std::mem::MaybeUninit;
    /// # let frames = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(16))];
    /// # let layout = FrameAllocator::<SingleCpu>::metadata_layout(&frames, 1)?;
    /// # let mut metadata = vec![MaybeUninit::uninit(); layout.size() + layout.align()];
    /// # let metadata = ZeroedMemory::zero(&mut metadata);
    /// # let frames = FrameAllocator::new_in(metadata, &frames, SingleCpu::new(), Mode::Cached)?;
    /// let frames = frames.with_checked_free();
    /// let frame = frames.allocate_frames(Order::ZERO)?;
    /// frames.free_frames(frame, Order::ZERO)?;
    /// let twice = frames.free_frames(frame, Order::ZERO).unwrap_err();
    /// assert_eq!(twice.kind, FaultKind::DoubleFree);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_checked_free(self) -> FrameAllocator<'m, C, T, true> {
        FrameAllocator { pool: self.pool.with_checked_free() }
    }

    /// Sets the hook for double frees that are found only when a CPU slot is drained or an area is
    /// reconciled. Without a hook they panic.
    ///
    /// ```
    /// # use buddy::{FrameAllocator, Mode, ZeroedMemory};
    /// # use page_frame::{FrameNumber, FrameRange, Order, SingleCpu};
    /// # use std::mem::MaybeUninit;
    /// # let mut memory = vec![MaybeUninit::uninit(); 1 << 17];
    /// # let memory = ZeroedMemory::zero(&mut memory);
    /// # let range = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(1024))];
    /// # let frames = FrameAllocator::new_in(memory, &range, SingleCpu::new(), Mode::Cached)?;
    /// let frames = frames.with_fault_hook(|fault| eprintln!("{fault}")); // logs instead
    /// let frame = frames.allocate_frames(Order::ZERO)?;
    /// frames.free_frames(frame, Order::ZERO)?;
    /// frames.drain();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_fault_hook(mut self, hook: FaultHook) -> Self {
        self.pool.set_fault_hook(hook);
        self
    }

    /// Frees the block of `order` at `frame`.
    ///
    /// O(1) up to the area's order, else O(areas of the block). Up to order 9 the block usually
    /// stays in the CPU's slot. Example: see [`FrameAllocator`].
    ///
    /// Longest path counted: 6,458 instructions for random orders up to 3 (`page-free`), 3,308 for
    /// order 3 (`page-3-free`), 1,737 for order 6 (`page-6-free`), 910 for order 9 (`page-9-free`),
    /// 813 for order 12 (`page-12-free`), 62 when little memory is free (`page-scarce-free`).
    ///
    /// # Errors
    /// A [`Fault`] when no such block is allocated. Then nothing has changed.
    #[inline]
    #[track_caller]
    pub fn free_frames(&self, frame: FrameNumber, order: Order) -> Result<(), Fault> {
        self.pool.free_frames(frame, order)
    }

    /// Frees blocks of `order`. After a fault it frees the rest too.
    ///
    /// One after the other: O(blocks). It prefetches the tags of the blocks that follow, so it
    /// takes less time than as many calls of [`free_frames`](Self::free_frames) where memory is
    /// large. Longest path counted: 173 instructions a block, with 64 blocks of order 0
    /// (`page-many-free`). Example: see [`FrameAllocator`].
    ///
    /// # Errors
    /// The first [`Fault`]. Every listed block that was allocated with this order is free then, and
    /// nothing else has changed.
    #[track_caller]
    pub fn free_many(&self, order: Order, blocks: &[FrameNumber]) -> Result<(), Fault> {
        self.pool.free_many(order, blocks)
    }

    /// Allocates a block of `order` as `allocate_frames` does; if none is free, tries to make one
    /// of at most 2 MiB (order 9) by moving allocated blocks. `relocate` is called for each block
    /// that is in the way. The owner copies its content to [`to`](Relocation::to), changes all
    /// references, and answers [`Moved`](Relocated::Moved): then it has the block at `to`, and the
    /// block at `from` is the allocator's. Or it answers [`Refused`](Relocated::Refused), and the
    /// next of up to 16 ranges is tried; blocks that have moved stay where they are. A panic counts
    /// as refusal. Meanwhile other requests do not find the free frames of the range, so that they
    /// may fail.
    ///
    /// Ranges with few frames in use are tried first. Runs of pages, slabs, and blocks of `order`
    /// and above are not moved. `relocate` may call the allocator; it must not free `from`.
    /// O(frames), and a call for each block in the ranges tried; no lock. Longest path counted:
    /// 8,971 instructions an area of memory, for order 3 with owners that refuse
    /// (`page-compact-3`), 26,481 for order 9 (`page-compact-9`).
    ///
    /// Source: Linux's memory compaction (Gorman 2010).
    ///
    /// ```
    /// # use buddy::{FrameAllocator, Mode, Relocated, Relocation, ZeroedMemory};
    /// # use page_frame::{FrameNumber, FrameRange, Order, SingleCpu};
    /// # let mut memory = vec![std::mem::MaybeUninit::uninit(); 1 << 17];
    /// # let memory = ZeroedMemory::zero(&mut memory);
    /// # let range = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(64))];
    /// let frames = FrameAllocator::new_in(memory, &range, SingleCpu::new(), Mode::Cached)?;
    /// let page = |_| frames.allocate_frames(Order::ZERO).unwrap();
    /// let mut pages: Vec<_> = (0..64).map(page).collect();
    /// // Half of memory becomes free, in single frames.
    /// for page in pages.iter().filter(|page| page.get() % 2 == 1) {
    ///     frames.free_frames(*page, Order::ZERO)?;
    /// }
    /// pages.retain(|page| page.get() % 2 == 0);
    /// let eight = Order::new(3).unwrap();
    /// assert!(frames.allocate_frames(eight).is_err());
    /// let block = frames.allocate_compacting(eight, |Relocation { from, to, .. }| {
    ///     let Some(page) = pages.iter_mut().find(|page| **page == from) else {
    ///         return Relocated::Refused;
    ///     };
    ///     *page = to; // a real owner copies the content first
    ///     Relocated::Moved
    /// })?;
    /// frames.free_frames(block, eight)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`OutOfMemory`] when too little memory is free, or owners refuse.
    pub fn allocate_compacting(
        &self,
        order: Order,
        relocate: impl FnMut(Relocation) -> Relocated,
    ) -> Result<FrameNumber, OutOfMemory> {
        compact::allocate(&self.pool, order, relocate)
    }

    /// Calls `look` with each block that a CPU slot caches, for tools that draw them. As it takes
    /// `&mut self`, no call is inside a slot. O(slots and blocks).
    ///
    /// ```
    /// # use buddy::{FrameAllocator, Mode, ZeroedMemory};
    /// # use page_frame::{FrameNumber, FrameRange, Order, SingleCpu};
    /// # let mut memory = vec![std::mem::MaybeUninit::uninit(); 1 << 17];
    /// # let memory = ZeroedMemory::zero(&mut memory);
    /// # let range = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(1024))];
    /// let mut frames = FrameAllocator::new_in(memory, &range, SingleCpu::new(), Mode::Cached)?;
    /// let frame = frames.allocate_frames(Order::ZERO)?; // refills the slot
    /// let mut cached = 0;
    /// frames.for_each_cached(|cpu, start, order| {
    ///     assert!(cpu.index() == 0 && start != frame);
    ///     cached += order.pages();
    /// });
    /// assert_eq!(cached, 1024 - 1 - frames.free_frames_count());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn for_each_cached(&mut self, look: impl FnMut(CpuId, FrameNumber, Order)) {
        self.pool.caches.for_each_cached(look);
    }

    /// Returns size and alignment of the metadata of an added section: 0.16 bytes for each of
    /// 262,144 frames, whether they exist or not. Example: see [`FrameAllocator::add_section`].
    pub fn section_layout() -> Layout {
        section_layout()
    }

    /// Adds the frames of `range`, all of them free, with the metadata of their section in
    /// `metadata`.
    ///
    /// O(areas of a section). It waits for no lock and allocates nothing. Longest path counted: 87
    /// instructions an area of the section (`section-add`).
    ///
    /// ```
    /// use buddy::{FrameAllocator, Mode, ZeroedMemory};
    /// use page_frame::{FrameNumber, FrameRange, SingleCpu};
    /// use std::mem::MaybeUninit;
    /// let range = |start, end| FrameRange::new(FrameNumber::new(start), FrameNumber::new(end));
    /// let (first, room) = ([range(0, 1024)], range(0, 2 << 18)); // 4 MiB; later up to 2 GiB
    /// let layout = FrameAllocator::<SingleCpu>::metadata_layout_with_room(&first, room, 1)?;
    /// let own = &mut vec![MaybeUninit::uninit(); layout.size() + layout.align()];
    /// let own = ZeroedMemory::zero(own);
    /// let layout = FrameAllocator::<SingleCpu>::section_layout();
    /// let more = &mut vec![MaybeUninit::uninit(); layout.size() + layout.align()];
    /// let more = ZeroedMemory::zero(more);
    ///
    /// let cpu = SingleCpu::new();
    /// let mut frames = FrameAllocator::new_with_room(own, &first, room, cpu, Mode::Cached)?;
    /// let added = range(1 << 18, (1 << 18) + 2048); // 8 MiB, from 1 GiB on
    /// frames.add_section(more, added)?;
    /// assert_eq!(frames.frames(), 1024 + 2048);
    /// frames.offline(added)?; // succeeds when no frame is in use
    /// frames.online(range(1 << 18, (1 << 18) + 512))?; // one area of 2 MiB again
    /// frames.offline(range(1 << 18, (1 << 18) + 512))?;
    /// assert_eq!(frames.remove_section(added.start)?, added);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`HotplugError::NotOneSection`], [`HotplugError::NoRoom`], [`HotplugError::Occupied`] or
    /// [`HotplugError::MetadataTooSmall`].
    ///
    /// The metadata stays borrowed as long as the allocator's own:
    ///
    /// ```compile_fail,E0597
    /// use buddy::{FrameAllocator, Mode, ZeroedMemory};
    /// use page_frame::{FrameNumber, FrameRange, SingleCpu};
    /// use std::mem::MaybeUninit;
    /// let range = |start, end| FrameRange::new(FrameNumber::new(start), FrameNumber::new(end));
    /// let (first, room) = ([range(0, 100)], range(0, 2 << 18));
    /// let mut own = vec![MaybeUninit::uninit(); 8 << 20];
    /// let own = ZeroedMemory::zero(&mut own);
    /// let cpu = SingleCpu::new();
    /// let frames = FrameAllocator::new_with_room(own, &first, room, cpu, Mode::Plain).unwrap();
    /// {
    ///     let mut short = vec![MaybeUninit::uninit(); 1 << 20];
    ///     frames.add_section(ZeroedMemory::zero(&mut short), range(1 << 18, 2 << 18)).unwrap();
    /// }
    /// frames.drain();
    /// ```
    pub fn add_section(
        &self,
        metadata: ZeroedMemory<'m>,
        range: FrameRange,
    ) -> Result<(), HotplugError> {
        hotplug::add_section(&self.pool.frames, metadata, range)
    }

    /// Removes the added section that `frame` lies in, and returns its frames. All of them must be
    /// offline. Another section can be added in its place.
    ///
    /// O(areas of a section), after draining the CPU slots. Longest path counted: 76 instructions
    /// an area of the section (`section-remove`). Example: see [`FrameAllocator::add_section`].
    ///
    /// # Errors
    /// [`HotplugError::Absent`], [`HotplugError::FromStart`], or [`HotplugError::InUse`] with the
    /// first frame of an area that is not offline. Nothing has changed then.
    pub fn remove_section(&mut self, frame: FrameNumber) -> Result<FrameRange, HotplugError> {
        // SAFETY: clauses 1 and 2: calls and iterators hold a reference to the allocator, and
        // `self` is the only one.
        unsafe { self.pool.remove_section_while_stopped(frame) }
    }

    /// Brings frames that are offline back into use. O(areas of the range). Longest path counted:
    /// 95 instructions an area (`section-online`). Example: see [`FrameAllocator::add_section`].
    ///
    /// # Errors
    /// [`HotplugError::Absent`], [`HotplugError::PartOfArea`], or [`HotplugError::InUse`] with the
    /// first frame that was not offline.
    pub fn online(&self, range: FrameRange) -> Result<(), HotplugError> {
        hotplug::online(&self.pool.frames, range)
    }
}

/// There is no `DerefMut`: exchanging pools would exchange frames.
impl<'m, C, T, const CHECKED: bool> Deref for FrameAllocator<'m, C, T, CHECKED> {
    type Target = FramePool<'m, C, T, CHECKED>;

    #[inline(always)]
    fn deref(&self) -> &Self::Target {
        &self.pool
    }
}
