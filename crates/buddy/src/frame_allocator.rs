//! The allocator of frame numbers: nothing behind the frames is ever lent, so all of it is safe.

use core::alloc::Layout;
use core::ops::Deref;
use core::ptr::NonNull;

use page_frame::{Cpu, Fault, FaultHook, FrameNumber, FrameRange, Order, PAGE_SIZE};

use crate::build::{self, BuildError};
use crate::frame_pool::FramePool;
use crate::{HotplugError, Mode, Observe, ZeroedMemory};

/// A page's alignment.
#[repr(align(4096))]
struct OnePage;

const _: () = assert!(align_of::<OnePage>() == PAGE_SIZE, "the border of a page");

/// An address on a page's border that stands for the first frame of a map without memory. No pointer is made from it.
const NO_MEMORY: NonNull<u8> = NonNull::<OnePage>::dangling().cast();

/// A buddy allocator of page frames by number.
///
/// It knows no address and makes no pointer: what lies behind the frames is its user's business. So every method is safe, and the
/// worst that a wrong free does is that a number is handed out twice. Memory is lent as [`PageBlock`](page_frame::PageBlock)s by
/// [`Buddy`](crate::Buddy). [`FramePool`] has the methods that both share.
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
/// assert!(frames.free_frames(block, order).is_err()); // a double free is a fault, and changes nothing
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// `O` is the observer of splits and merges, none by default; see [`Observe`].
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
pub struct FrameAllocator<'m, C, O = ()> {
    pub(crate) pool: FramePool<'m, C, O>,
}

impl<'m, C: Cpu> FrameAllocator<'m, C> {
    /// Returns size and alignment of the metadata for `ranges` and `slots` CPU slots.
    ///
    /// About 0.15 bytes per frame for the bits, and nine bytes per frame of the span for the page map, of which only the
    /// entries of frames in use are ever touched.
    ///
    /// # Errors
    /// [`BuildError`] when `ranges` are empty, not ascending, or touch.
    pub fn metadata_layout(ranges: &[FrameRange], slots: usize) -> Result<Layout, BuildError> {
        Self::metadata_layout_with_room(ranges, FrameRange::default(), slots)
    }

    /// The same, with room for frames of `room` that may be added later: 24 bytes for each GiB of it, and its part of the
    /// page map.
    ///
    /// # Errors
    /// As for [`metadata_layout`](Self::metadata_layout).
    pub fn metadata_layout_with_room(
        ranges: &[FrameRange],
        room: FrameRange,
        slots: usize,
    ) -> Result<Layout, BuildError> {
        FramePool::<C>::metadata_layout(ranges, room, slots)
    }

    /// Builds the allocator of all frames of `ranges`, with its metadata in `metadata`.
    ///
    /// O(areas); touches 0.15 bytes per frame of the metadata.
    ///
    /// # Errors
    /// [`BuildError`] as for [`metadata_layout`](Self::metadata_layout), and [`BuildError::MetadataTooSmall`].
    pub fn new_in(
        metadata: ZeroedMemory<'m>,
        ranges: &[FrameRange],
        cpu: C,
        mode: Mode,
    ) -> Result<Self, BuildError> {
        Self::new_with_room(metadata, ranges, FrameRange::default(), cpu, mode)
    }

    /// The same, with room for frames of `room` to be added later by [`add_section`](Self::add_section).
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
        // SAFETY: clause 1: the address is on a page's border, and nobody asks the map of this type for pointers.
        let pool = unsafe { FramePool::new_in(metadata, ranges, room, |_| NO_MEMORY, cpu, mode) }?;
        Ok(Self { pool })
    }

    /// Tells `observer` of each split, merge, claim and hand-over from now on.
    ///
    /// ```
    /// use buddy::{EventCounts, FrameAllocator, Mode, ZeroedMemory};
    /// use page_frame::{FrameNumber, FrameRange, Order, SingleCpu};
    /// # use std::mem::MaybeUninit;
    /// # let frames = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(16))];
    /// # let layout = FrameAllocator::<SingleCpu>::metadata_layout(&frames, 1)?;
    /// # let mut metadata = vec![MaybeUninit::uninit(); layout.size() + layout.align()];
    /// # let metadata = ZeroedMemory::zero(&mut metadata);
    /// # let frames = FrameAllocator::new_in(metadata, &frames, SingleCpu::new(), Mode::Plain)?;
    /// let counts = EventCounts::new();
    /// let frames = frames.with_observer(&counts); // 16 free frames
    /// let two = frames.allocate_frames(Order::new(1).unwrap())?;
    /// assert_eq!(counts.splits(), 3); // 16 into 8, 4 and 2
    /// frames.free_frames(two, Order::new(1).unwrap())?;
    /// assert_eq!(counts.merges(), 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_observer<O: Observe>(self, observer: O) -> FrameAllocator<'m, C, O> {
        FrameAllocator { pool: self.pool.with_observer(observer) }
    }
}

impl<'m, C: Cpu, O: Observe> FrameAllocator<'m, C, O> {
    /// Gives double frees that are found only when a CPU slot is drained to `hook`, instead of panicking.
    pub fn with_fault_hook(mut self, hook: FaultHook) -> Self {
        self.pool.fault_hook = hook;
        self
    }

    /// Takes back the block of `order` at `frame`.
    ///
    /// O(1) up to the area's order, else O(areas of the block). Up to order 9 the block usually stays in the CPU's slot.
    ///
    /// # Errors
    /// A [`Fault`] when no such block is allocated; nothing has changed then.
    #[inline]
    #[track_caller]
    pub fn free_frames(&self, frame: FrameNumber, order: Order) -> Result<(), Fault> {
        self.pool.free_frames(frame, order)
    }

    /// Takes back blocks of `order`. A fault does not stop the rest from being freed.
    ///
    /// # Errors
    /// The first [`Fault`]; every block that was allocated with this order is free then, and nothing else has changed.
    #[track_caller]
    pub fn free_many(&self, order: Order, blocks: &[FrameNumber]) -> Result<(), Fault> {
        self.pool.free_many(order, blocks)
    }

    /// Returns size and alignment of the metadata that an added section brings along: 0.16 bytes for each of its 262,144
    /// frames, however many are there.
    pub fn section_layout() -> Layout {
        build::section_layout()
    }

    /// Adds the frames of `range`, all of them free, with the metadata of their section in `metadata`.
    ///
    /// O(areas of a section). Only tries a lock; allocates nothing.
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
        self.pool.add_section(metadata, range)
    }

    /// Removes the added section that `frame` lies in, and returns its frames. All of them must be offline. The place is free for
    /// another section.
    ///
    /// O(areas of a section), after draining the CPU slots.
    ///
    /// # Errors
    /// [`HotplugError::Absent`], [`HotplugError::FromStart`], or [`HotplugError::InUse`] with the first frame of an area
    /// that is not offline. Nothing has changed then.
    pub fn remove_section(&mut self, frame: FrameNumber) -> Result<FrameRange, HotplugError> {
        // SAFETY: clauses 1 and 2: calls and iterators hold a reference to the allocator, and `self` is the only one.
        unsafe { self.pool.remove_section_while_stopped(frame) }
    }

    /// Brings frames that are offline back into use. O(areas of the range).
    ///
    /// # Errors
    /// [`HotplugError::Absent`], [`HotplugError::PartOfArea`], or [`HotplugError::InUse`] with the first frame that was not
    /// offline.
    pub fn online(&self, range: FrameRange) -> Result<(), HotplugError> {
        self.pool.online(range)
    }
}

/// There is no `DerefMut`: exchanging pools would exchange frames.
impl<'m, C, O> Deref for FrameAllocator<'m, C, O> {
    type Target = FramePool<'m, C, O>;

    #[inline(always)]
    fn deref(&self) -> &Self::Target {
        &self.pool
    }
}
