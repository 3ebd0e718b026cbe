//! The allocator of memory by address: a frame allocator, and the map from frames to addresses.

use core::alloc::Layout;
use core::ops::Deref;

use page_frame::{Cpu, Fault, FaultHook, FrameNumber, FrameRange, Order, OutOfMemory, PhysMap};

use crate::allocator::compact::{Relocated, Relocation};
use crate::allocator::frame_allocator::FrameAllocator;
use crate::allocator::frame_pool::{FramePool, Mode};
use crate::allocator::hotplug::HotplugError;
use crate::metadata::{BuildError, Plan, build};
use crate::trace::Trace;
use crate::zeroed_memory::ZeroedMemory;

/// A buddy allocator of memory in pages.
///
/// As a [`PageSource`](page_frame::PageSource) it lends blocks and runs by address, which it
/// translates through `M`. It dereferences to [`FramePool`], which has the methods that need no
/// address. It never reads or writes a frame. All methods that take `&self` may be called from
/// every CPU, and from interrupts.
///
/// A run costs what its block costs, and the free of the block's tail. Longest path counted: 8,663
/// instructions to allocate up to 512 pages (`run-allocate`), 4,094 to free (`run-free`), 2,537 to
/// resize (`run-resize`).
///
/// Frees by number are `unsafe` here: they could free memory that is in use as a
/// [`PageBlock`](page_frame::PageBlock). Use [`FrameAllocator`] if you need numbers only.
///
/// ```
/// use buddy::{Buddy, Mode, ZeroedMemory};
/// use page_frame::{DirectMap, FrameNumber, FrameRange, Order, PAGE_SIZE, PageSource, SingleCpu};
/// use std::alloc::{Layout, alloc, alloc_zeroed};
/// use std::ptr::NonNull;
///
/// let frames = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(64))];
/// // SAFETY: the layout is not empty.
/// let memory = unsafe { alloc(Layout::from_size_align(64 * PAGE_SIZE, PAGE_SIZE)?) };
/// // SAFETY: the memory is that of frames 0 to 64, and leaked.
/// let map = unsafe { DirectMap::from_root(NonNull::new(memory).unwrap(), FrameNumber::new(0)) };
/// let layout = Buddy::<DirectMap, SingleCpu>::metadata_layout(&frames, 1)?;
/// // SAFETY: the layout is not empty.
/// let metadata = NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap();
/// // SAFETY: fresh, zero, aligned as the layout says, and leaked.
/// let metadata = unsafe { ZeroedMemory::from_zeroed(metadata, layout.size()) };
/// // SAFETY: the frames' memory is ours, and no other code uses it.
/// let buddy = unsafe { Buddy::new_in(metadata, &frames, map, SingleCpu::new(), Mode::Plain) }?;
///
/// let block = buddy.allocate(Order::new(3).unwrap())?;
/// assert_eq!(buddy.free_frames_count(), 64 - 8);
/// // SAFETY: the block is this buddy's, and not used any more.
/// unsafe { buddy.free(block) };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Safe code cannot free a lent block by number:
///
/// ```compile_fail,E0133
/// use buddy::Buddy;
/// use page_frame::{Cpu, FrameNumber, Order, PageSource, PhysMap};
/// fn free_twice<M: PhysMap, C: Cpu>(buddy: &Buddy<'_, M, C>) {
///     let block = buddy.allocate(Order::ZERO).unwrap();
///     let frame = FrameNumber::containing(block.start().addr().get());
///     buddy.free_frames(frame, Order::ZERO).unwrap(); // `block` is still there
/// }
/// ```
///
/// ```compile_fail,E0133
/// # use buddy::Buddy;
/// # use page_frame::{Cpu, FrameNumber, Order, PhysMap};
/// fn free_many<M: PhysMap, C: Cpu>(buddy: &Buddy<'_, M, C>) {
///     buddy.free_many(Order::ZERO, &[FrameNumber::new(0)]).unwrap();
/// }
/// ```
///
/// ```compile_fail,E0133
/// # use buddy::Buddy;
/// # use page_frame::{Cpu, FrameRange, PhysMap};
/// fn online<M: PhysMap, C: Cpu>(buddy: &Buddy<'_, M, C>) {
///     buddy.online(FrameRange::default()).unwrap();
/// }
/// ```
///
/// ```compile_fail,E0133
/// # use buddy::Buddy;
/// # use page_frame::{Cpu, PhysMap};
/// fn down<M: PhysMap, C: Cpu>(buddy: &Buddy<'_, M, C>) {
///     buddy.frame_allocator();
/// }
/// ```
///
/// Safe code cannot exchange the pools of two buddies either:
///
/// ```compile_fail,E0596
/// # use buddy::Buddy;
/// # use page_frame::{Cpu, PhysMap};
/// fn exchange<M: PhysMap, C: Cpu>(one: &mut Buddy<'_, M, C>, other: &mut Buddy<'_, M, C>) {
///     core::mem::swap(&mut **one, &mut **other);
/// }
/// ```
///
/// `T` is the [`Trace`], `()` by default. `CHECKED` says whether every free is a checked free, see
/// [`FrameAllocator::with_checked_free`].
#[derive(Debug)]
pub struct Buddy<'m, M, C, T = (), const CHECKED: bool = false> {
    /// I1: a free through `frames` frees only blocks that its caller owns. Only `unsafe` functions
    /// whose clauses say so call one.
    pub(crate) frames: FrameAllocator<'m, C, T, CHECKED>,
    pub(crate) phys: M,
}

impl<'m, M: PhysMap, C: Cpu> Buddy<'m, M, C> {
    /// Returns size and alignment of the metadata for `ranges` and `slots` CPU slots.
    ///
    /// About 0.15 bytes per frame for the bits, and nine bytes per frame of the span for the page
    /// map, of which only the entries of frames in use are ever touched. Example: see [`Buddy`].
    ///
    /// # Errors
    /// [`BuildError`] when `ranges` are empty, not ascending, or overlap. They may touch.
    pub fn metadata_layout(ranges: &[FrameRange], slots: usize) -> Result<Layout, BuildError> {
        Self::metadata_layout_with_room(ranges, FrameRange::default(), slots)
    }

    /// Returns the same layout plus room for frames of `room` that may be added later: 24 bytes for
    /// each GiB of `room`, and its part of the page map, nine bytes a frame. A
    /// [`GrowingBuddy`](crate::GrowingBuddy) takes ranges later without room.
    /// Example: see [`Buddy::add_section`].
    ///
    /// # Errors
    /// As for [`metadata_layout`](Self::metadata_layout).
    pub fn metadata_layout_with_room(
        ranges: &[FrameRange],
        room: FrameRange,
        slots: usize,
    ) -> Result<Layout, BuildError> {
        FrameAllocator::<C>::metadata_layout_with_room(ranges, room, slots)
    }

    /// Returns the offset of the page map in the metadata of
    /// [`metadata_layout_with_room`](Self::metadata_layout_with_room). The page map is the last
    /// part: a word for each frame of the span, then a byte for each.
    ///
    /// A caller may leave entries without memory until their frames are added.
    ///
    /// ```
    /// use buddy::Buddy;
    /// use page_frame::{DirectMap, FrameNumber, FrameRange, SingleCpu};
    /// type Frames = Buddy<'static, DirectMap, SingleCpu>;
    /// let range = |end| FrameRange::new(FrameNumber::new(0), FrameNumber::new(end));
    /// let (first, room) = ([range(1024)], range(4 << 18));
    /// let all = Frames::metadata_layout_with_room(&first, room, 1)?.size();
    /// let page_map = all - Frames::page_map_offset(&first, room, 1)?;
    /// assert_eq!(page_map, room.frames() * (size_of::<usize>() + 1));
    /// # Ok::<(), buddy::BuildError>(())
    /// ```
    ///
    /// # Errors
    /// As for [`metadata_layout`](Self::metadata_layout).
    pub fn page_map_offset(
        ranges: &[FrameRange],
        room: FrameRange,
        slots: usize,
    ) -> Result<usize, BuildError> {
        Plan::new(ranges, room, slots).map(|plan| plan.page_map_offset())
    }

    /// Builds the allocator of all frames of `ranges`, with its metadata in `metadata`.
    ///
    /// O(areas); touches 0.15 bytes per frame of the metadata and no frame. Example: see [`Buddy`].
    ///
    /// # Errors
    /// [`BuildError`] as for [`metadata_layout`](Self::metadata_layout), and
    /// [`BuildError::MetadataTooSmall`].
    ///
    /// # Safety
    /// 1. During `'m` no other code uses the frames, while they are not offline.
    /// 2. `phys` covers the frames of `ranges`. They are mapped where it says, if blocks or runs
    ///    are allocated by address.
    pub unsafe fn new_in(
        metadata: ZeroedMemory<'m>,
        ranges: &[FrameRange],
        phys: M,
        cpu: C,
        mode: Mode,
    ) -> Result<Self, BuildError> {
        // SAFETY: clauses 1 and 2 of `new_with_room`: clauses 1 and 2 of this function; the room is
        // empty.
        unsafe { Self::new_with_room(metadata, ranges, FrameRange::default(), phys, cpu, mode) }
    }

    /// Builds the same allocator with room for frames of `room`, which the caller may add later by
    /// [`add_section`](Self::add_section). Example: see [`Buddy::add_section`].
    ///
    /// # Errors
    /// As for [`new_in`](Self::new_in), with the layout of
    /// [`metadata_layout_with_room`](Self::metadata_layout_with_room).
    ///
    /// # Safety
    /// 1. As for [`new_in`](Self::new_in).
    /// 2. As for [`new_in`](Self::new_in). `phys` covers `room` too.
    pub unsafe fn new_with_room(
        metadata: ZeroedMemory<'m>,
        ranges: &[FrameRange],
        room: FrameRange,
        phys: M,
        cpu: C,
        mode: Mode,
    ) -> Result<Self, BuildError> {
        let map_start = |start| phys.pointer(start);
        // SAFETY: clause 1: `PhysMap` clause 1 for the alignment. `PhysMap` clause 3 and our clause
        // 2 for the pointer: consecutive frames have consecutive pages, and `phys` covers them.
        let carved = unsafe { build(metadata, ranges, room, cpu.slots(), map_start) }?;
        Ok(Self { frames: FrameAllocator { pool: FramePool::new(carved, cpu, mode) }, phys })
    }

    /// Sets the trace, see [`FrameAllocator::with_trace`]. Example: see [`Buddy::with_fault_hook`].
    pub fn with_trace<T: Trace>(self, trace: T) -> Buddy<'m, M, C, T> {
        Buddy { frames: self.frames.with_trace(trace), phys: self.phys }
    }
}

impl<'m, M, C: Cpu, T: Trace, const CHECKED: bool> Buddy<'m, M, C, T, CHECKED> {
    /// Makes every free a checked free, see [`FrameAllocator::with_checked_free`]. Call it after
    /// [`with_trace`](Buddy::with_trace). Example: see [`Buddy::with_fault_hook`].
    pub fn with_checked_free(self) -> Buddy<'m, M, C, T, true> {
        Buddy { frames: self.frames.with_checked_free(), phys: self.phys }
    }

    /// Sets the hook for misuse. Without a hook misuse panics.
    ///
    /// ```
    /// # use buddy::{Buddy, Mode, ZeroedMemory};
    /// # use page_frame::{DirectMap, FrameNumber, FrameRange, Order, SingleCpu};
    /// # let mut memory = vec![std::mem::MaybeUninit::uninit(); 1 << 17];
    /// # let frames = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(64))];
    /// # let (memory, cpu) = (ZeroedMemory::zero(&mut memory), SingleCpu::new());
    /// # // SAFETY: the example accesses no frame.
    /// # let map = unsafe { DirectMap::at_offset(1 << 40) };
    /// # // SAFETY: no other code uses the frames.
    /// # let buddy = unsafe { Buddy::new_in(memory, &frames, map, cpu, Mode::Cached) }?;
    /// use buddy::EventCounts;
    /// use page_frame::{PageBlock, PageSource};
    /// use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    /// static FAULTS: AtomicUsize = AtomicUsize::new(0);
    /// let buddy = buddy.with_trace(EventCounts::new()).with_checked_free();
    /// let buddy = buddy.with_fault_hook(|fault| {
    ///     eprintln!("{fault}");
    ///     FAULTS.fetch_add(1, Relaxed);
    /// });
    /// let (start, order) = buddy.allocate(Order::ZERO)?.into_raw();
    /// for _ in 0..2 {
    ///     // SAFETY: the second round is the bug shown; no code uses the block.
    ///     unsafe { buddy.free(PageBlock::from_raw(start, order, false)) };
    /// }
    /// assert_eq!(FAULTS.load(Relaxed), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_fault_hook(mut self, hook: FaultHook) -> Self {
        self.frames.pool.set_fault_hook(hook);
        self
    }

    /// Returns the allocator of frame numbers, for kernels that mix numbers and blocks.
    ///
    /// ```
    /// # use buddy::{Buddy, Mode, ZeroedMemory};
    /// # use page_frame::{DirectMap, FrameNumber, FrameRange, Order, SingleCpu};
    /// # let mut memory = vec![std::mem::MaybeUninit::uninit(); 1 << 17];
    /// # let frames = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(64))];
    /// # let (memory, cpu) = (ZeroedMemory::zero(&mut memory), SingleCpu::new());
    /// # // SAFETY: the example accesses no frame.
    /// # let map = unsafe { DirectMap::at_offset(1 << 40) };
    /// # // SAFETY: no other code uses the frames.
    /// # let buddy = unsafe { Buddy::new_in(memory, &frames, map, cpu, Mode::Cached) }?;
    /// let mut pages = [FrameNumber::default(); 4];
    /// let count = buddy.allocate_many(Order::ZERO, &mut pages);
    /// // SAFETY: clause 1: the frames were allocated by number, and are not used any more.
    /// unsafe { buddy.free_many(Order::ZERO, &pages[..count]) }?;
    /// let page = buddy.allocate_frames(Order::ZERO)?;
    /// // SAFETY: clause 1: as above.
    /// unsafe { buddy.free_frames(page, Order::ZERO) }?;
    /// // SAFETY: clause 1: frees only what was allocated by number. Clause 2: adds no section.
    /// let frames = unsafe { buddy.frame_allocator() }; // for code that knows numbers only
    /// frames.free_frames(frames.allocate_frames(Order::ZERO)?, Order::ZERO)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Safety
    /// 1. Frees by number through it keep to the clauses of [`free_frames`](Self::free_frames), and
    ///    calls that bring frames online to those of [`online`](Self::online).
    /// 2. Calls that add a section through it keep to clause 1 of
    ///    [`add_section`](Self::add_section).
    #[inline(always)]
    pub const unsafe fn frame_allocator(&self) -> &FrameAllocator<'m, C, T, CHECKED> {
        &self.frames
    }

    /// Frees the block of `order` at `frame`, see [`FrameAllocator::free_frames`].
    /// Example: see [`Buddy::frame_allocator`].
    ///
    /// # Errors
    /// A [`Fault`] when no such block is allocated. Then nothing has changed.
    ///
    /// # Safety
    /// 1. The block was allocated by number, or taken out of its
    ///    [`PageBlock`](page_frame::PageBlock) by `into_raw`, and the caller owns it: no other code
    ///    uses its memory or frees it.
    #[inline]
    #[track_caller]
    pub unsafe fn free_frames(&self, frame: FrameNumber, order: Order) -> Result<(), Fault> {
        self.frames.free_frames(frame, order)
    }

    /// Frees blocks of `order`, see [`FrameAllocator::free_many`]. One after the other: O(blocks).
    /// Example: see [`Buddy::frame_allocator`].
    ///
    /// # Errors
    /// The first [`Fault`]. Every listed block that was allocated with this order is free then, and
    /// nothing else has changed.
    ///
    /// # Safety
    /// 1. As for [`free_frames`](Self::free_frames), for each of the blocks.
    #[track_caller]
    pub unsafe fn free_many(&self, order: Order, blocks: &[FrameNumber]) -> Result<(), Fault> {
        self.frames.free_many(order, blocks)
    }

    /// Allocates a block of `order`, and moves others out of the way if none is free, see
    /// [`FrameAllocator::allocate_compacting`]. The block is freed by number.
    /// Example: see [`FrameAllocator::allocate_compacting`].
    ///
    /// # Errors
    /// [`OutOfMemory`] when too little memory is free, or owners refuse.
    ///
    /// # Safety
    /// 1. `relocate` answers [`Relocated::Moved`] only for a block that it owns, as for
    ///    [`free_frames`](Self::free_frames), whose memory no code uses any more.
    /// 2. After it refuses or panics, no code uses the memory at [`to`](Relocation::to).
    pub unsafe fn allocate_compacting(
        &self,
        order: Order,
        relocate: impl FnMut(Relocation) -> Relocated,
    ) -> Result<FrameNumber, OutOfMemory> {
        self.frames.allocate_compacting(order, relocate)
    }

    /// Returns size and alignment of the metadata of an added section, see
    /// [`FrameAllocator::section_layout`]. Example: see [`Buddy::add_section`].
    pub fn section_layout() -> Layout {
        FrameAllocator::<C>::section_layout()
    }

    /// Adds the frames of `range`, all of them free, see [`FrameAllocator::add_section`].
    ///
    /// ```
    /// use buddy::{Buddy, Mode, ZeroedMemory};
    /// use page_frame::{DirectMap, FrameNumber, FrameRange, SingleCpu};
    /// # use std::mem::MaybeUninit;
    /// type Machine<'m> = Buddy<'m, DirectMap, SingleCpu>;
    /// let range = |start, end| FrameRange::new(FrameNumber::new(start), FrameNumber::new(end));
    /// let (first, room) = ([range(0, 1024)], range(0, 2 << 18));
    /// let layout = Machine::metadata_layout_with_room(&first, room, 1)?;
    /// let layouts = [layout, Machine::section_layout()];
    /// let mut memory = layouts.map(|layout| vec![MaybeUninit::uninit(); layout.size() + 64]);
    /// let [own, more] = memory.each_mut().map(|memory| ZeroedMemory::zero(memory));
    /// // SAFETY: this example accesses no frame, so none has to be mapped.
    /// let map = unsafe { DirectMap::at_offset(1 << 40) };
    /// let cpu = SingleCpu::new();
    /// // SAFETY: clauses 1 and 2: no other code uses the frames, and `map` covers all of `room`.
    /// let mut buddy = unsafe { Buddy::new_with_room(own, &first, room, map, cpu, Mode::Cached) }?;
    /// let added = range(1 << 18, (1 << 18) + 512);
    /// // SAFETY: clause 1: as above.
    /// unsafe { buddy.add_section(more, added) }?;
    /// buddy.offline(added)?;
    /// // SAFETY: clause 1: as above.
    /// unsafe { buddy.online(added) }?;
    /// buddy.offline(added)?;
    /// assert_eq!(buddy.remove_section(added.start)?, added);
    /// // A kernel that cannot borrow it exclusively stops its other CPUs instead.
    /// // SAFETY: clauses 1 and 2: this thread alone uses the buddy, and no iterator.
    /// assert!(unsafe { buddy.remove_section_while_stopped(added.start) }.is_err()); // absent
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As for [`FrameAllocator::add_section`].
    ///
    /// # Safety
    /// 1. No other code uses the frames, while they are in the buddy and not offline. The buddy's
    ///    `PhysMap` covers them. They are mapped where it says, if blocks or runs are allocated by
    ///    address.
    pub unsafe fn add_section(
        &self,
        metadata: ZeroedMemory<'m>,
        range: FrameRange,
    ) -> Result<(), HotplugError> {
        self.frames.add_section(metadata, range)
    }

    /// Removes a section whose frames are all offline, see [`FrameAllocator::remove_section`]. The
    /// frames are the caller's again. Example: see [`Buddy::add_section`].
    ///
    /// # Errors
    /// As for [`FrameAllocator::remove_section`].
    pub fn remove_section(&mut self, frame: FrameNumber) -> Result<FrameRange, HotplugError> {
        self.frames.remove_section(frame)
    }

    /// Brings frames that are offline back into use, see [`FrameAllocator::online`].
    /// Example: see [`Buddy::add_section`].
    ///
    /// # Errors
    /// As for [`FrameAllocator::online`].
    ///
    /// # Safety
    /// 1. As for [`add_section`](Self::add_section).
    pub unsafe fn online(&self, range: FrameRange) -> Result<(), HotplugError> {
        self.frames.online(range)
    }
}

/// There is no `DerefMut`: exchanging pools would exchange frames.
impl<'m, M, C, T, const CHECKED: bool> Deref for Buddy<'m, M, C, T, CHECKED> {
    type Target = FramePool<'m, C, T, CHECKED>;

    #[inline(always)]
    fn deref(&self) -> &Self::Target {
        &self.frames.pool
    }
}
