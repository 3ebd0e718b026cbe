//! The pool of frames: what the two allocators have in common.
//!
//! # Why this is a type
//! [`FrameAllocator`](crate::FrameAllocator) frees by number in safe methods.
//! [`Buddy`](crate::Buddy) lends memory by address, so a safe free by number could free memory that
//! is in use as a block. Both dereference to this type. Its public methods allocate by number and
//! inspect, and free no block, so both types can offer them as safe methods.
//!
//! # Allocation
//! 1. A hit in the CPU's slot.
//! 2. A refill of the slot; a search by hints for orders that slots do not cache.
//! 3. A pass over all areas.
//! 4. A drain of all slots and all deferred frees, and passes over all areas.
//! 5. [`OutOfMemory`].
//!
//! # Freeing
//! 1. A hit in the CPU's slot, or a deferral.
//! 2. Half of the stack returns to its areas, and the block is pushed to the slot.
//! 3. The block returns to its areas.

use page_frame::{
    Cpu, CpuId, Fault, FaultHook, FaultKind, FrameNumber, FrameRange, Frozen, Order, OutOfMemory,
    Tag,
};

use crate::allocator::hotplug::{self, HotplugError};
use crate::allocator::validate::validate;
use crate::bitmap::bits::{AREA_FRAMES, WORD_BITS};
use crate::bitmap::block_range;
use crate::bitmap::home::Home;
use crate::bitmap::placement::Mobility;
use crate::frames::Frames;
use crate::frames::area_tags::is_of_areas;
use crate::frames::misuse::misuse;
use crate::metadata::Carved;
use crate::percpu::Caches;
use crate::trace::Trace;
use page_frame::Violation;

/// How an allocator chooses among blocks.
///
/// ```
/// use buddy::{FrameAllocator, Mode, ZeroedMemory};
/// use page_frame::{FrameNumber, FrameRange, Order, SingleCpu};
/// # use std::mem::MaybeUninit;
/// # let mut memory = vec![MaybeUninit::uninit(); 1 << 17];
/// # let memory = ZeroedMemory::zero(&mut memory);
/// # let range = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(16))];
/// # let frames = FrameAllocator::new_in(memory, &range, SingleCpu::new(), Mode::Plain)?;
/// frames.allocate_at(FrameNumber::new(0), Order::ZERO)?; // frames 1 to 15 are free
/// let pair = frames.allocate_frames(Order::new(1).unwrap())?;
/// assert_eq!(pair, FrameNumber::new(2)); // the smallest block that fits
/// assert_eq!(Mode::default(), Mode::Cached);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// With CPU slots and hints: the fullest area first.
    #[default]
    Cached,
    /// As `Cached`, but frames that were used before come first: of areas that are at least half
    /// full, then of areas that have become empty, then of all other areas in use, also those of
    /// blocks of other sizes. For memory that costs nothing until it is touched, as an operating
    /// system lends it: less of it is touched, and whole areas become free less often.
    Dense,
    /// As the textbook says: of all free blocks the smallest that is large enough, and of those the
    /// lowest. Each request looks at every block. For teaching and comparing.
    Plain,
}

/// Page frames by number, without a method that frees a block.
///
/// [`FrameAllocator`](crate::FrameAllocator) and [`Buddy`](crate::Buddy) dereference to it. All
/// methods take `&self` and may be called from every CPU, and from interrupts. No method reads or
/// writes a frame.
///
/// ```
/// use buddy::{FrameAllocator, Mode, ZeroedMemory};
/// use page_frame::{FrameNumber, FrameRange, Order, SingleCpu};
/// # use std::mem::MaybeUninit;
/// # let mut memory = vec![MaybeUninit::uninit(); 1 << 17];
/// # let memory = ZeroedMemory::zero(&mut memory);
/// # let range = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(1024))];
/// # let frames = FrameAllocator::new_in(memory, &range, SingleCpu::new(), Mode::Cached)?;
/// frames.allocate_at(FrameNumber::new(8), Order::new(3).unwrap())?; // for firmware
/// assert!(frames.try_allocate_at(FrameNumber::new(9), Order::ZERO).is_err());
/// let mut pages = [FrameNumber::default(); 20];
/// assert_eq!(frames.allocate_many(Order::ZERO, &mut pages), 20);
/// let table = frames.allocate_frames(Order::new(2).unwrap())?;
/// assert!(table.is_aligned_to(Order::new(2).unwrap()));
///
/// frames.drain(); // what the CPU's slot has cached counts as free from here on
/// assert_eq!((frames.frames(), frames.free_frames_count()), (1024, 1024 - 8 - 20 - 4));
/// assert_eq!(frames.largest_free(), Order::new(9));
/// let counts = frames.free_counts();
/// assert_eq!(frames.free_blocks().count(), counts.iter().sum::<usize>());
/// assert_eq!(frames.fragmentation(Order::MAX).unusable(), 1000); // no block of 2 TiB is free
/// frames.validate()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FramePool<'m, C, T = (), const CHECKED: bool = false> {
    pub(crate) frames: Frames<'m, T>,
    pub(crate) caches: Caches<'m, C>,
    mode: Mode,
}

impl<'m, C: Cpu> FramePool<'m, C> {
    /// Makes the pool of `carved` metadata.
    pub(crate) fn new(carved: Carved<'m>, cpu: C, mode: Mode) -> Self {
        let Carved { mut bitmap, tags, deferred, slots, counts } = carved;
        bitmap.set_fills_used_areas_first(mode == Mode::Dense);
        let areas = [bitmap.table().first_areas(), bitmap.table().planned_areas()];
        let caches = Caches::new(slots, counts, cpu, areas, mode == Mode::Plain);
        // Homes lie apart: memory that costs nothing until it is touched is not for them.
        let caches = if mode == Mode::Cached { caches.with_homes() } else { caches };
        Self { frames: Frames::new(bitmap, tags, deferred), caches, mode }
    }

    /// Sets the trace.
    pub(crate) fn with_trace<T: Trace>(self, trace: T) -> FramePool<'m, C, T> {
        let Self { frames, caches, mode } = self;
        FramePool { frames: frames.with_trace(trace), caches, mode }
    }
}

impl<'m, C: Cpu, T: Trace, const CHECKED: bool> FramePool<'m, C, T, CHECKED> {
    /// Makes every free a checked free, see
    /// [`FrameAllocator::with_checked_free`](crate::FrameAllocator::with_checked_free).
    pub(crate) fn with_checked_free(self) -> FramePool<'m, C, T, true> {
        let Self { frames, caches, mode } = self;
        FramePool { frames, caches, mode }
    }

    /// Sets the fault hook.
    pub(crate) fn set_fault_hook(&mut self, hook: FaultHook) {
        self.frames.set_fault_hook(hook);
    }

    /// Returns the trace.
    /// Example: see [`FrameAllocator::with_trace`](crate::FrameAllocator::with_trace).
    pub const fn trace(&self) -> &T {
        self.frames.trace()
    }

    /// Allocates a block of `order`; returns its first frame.
    ///
    /// A block up to order 9 usually comes from the CPU's slot, without an atomic
    /// read-modify-write. A miss searches areas: O(areas) at worst. It never waits.
    /// Example: see [`FramePool`].
    ///
    /// Longest path counted: 10,269 instructions for random orders up to 3 (`page-allocate`),
    /// 3,820 for order 3 (`page-3-allocate`), 2,093 for order 6 (`page-6-allocate`), 2,032 for
    /// order 9 (`page-9-allocate`), 1,342 for order 12 (`page-12-allocate`), 40,962 when little
    /// memory is free (`page-scarce-allocate`), 1,060 an area of memory when the request fails
    /// (`page-fail`).
    ///
    /// # Errors
    /// [`OutOfMemory`] when no such block was free, although the slots of idle CPUs were drained
    /// and every area was searched.
    #[inline]
    pub fn allocate_frames(&self, order: Order) -> Result<FrameNumber, OutOfMemory> {
        self.allocate_hit(order).map_or_else(|| self.allocate_miss(order), Ok)
    }

    /// Allocates a block of `order` that the CPU's slot has.
    #[inline(always)]
    pub(crate) fn allocate_hit(&self, order: Order) -> Option<FrameNumber> {
        // Asked first, so that the compiler drops the questions that follow from it.
        if is_of_areas(order) {
            let area = self.caches.allocate(order)?;
            // SAFETY: clause 1: slots hold only aligned blocks of the span.
            unsafe { self.frames.tags().set_block_unchecked(area, order) };
            return Some(area);
        }
        let frame = self.caches.allocate(order)?;
        // SAFETY: clause 1: as above.
        unsafe { self.frames.tags().set_block_unchecked(frame, order) };
        Some(frame)
    }

    /// Allocates a block of `order` that the CPU's slot does not have.
    #[cold]
    #[inline(never)]
    pub(crate) fn allocate_miss(&self, order: Order) -> Result<FrameNumber, OutOfMemory> {
        let found = match self.mode {
            Mode::Plain => self.frames.take_best_fit(order),
            Mode::Cached | Mode::Dense => match self.caches.enter(order) {
                Some(slot) => self.caches.allocate_refilling(&self.frames, slot, order),
                None => self.frames.take_hinted(order, Mobility::default(), &mut Home::none()),
            },
        };
        let frame = found.or_else(|| self.last_resort(order)).ok_or(OutOfMemory)?;
        self.frames.tags().set_block(frame, order);
        Ok(frame)
    }

    /// Takes a block of `order` without hints, and drains before it gives up.
    #[cold]
    fn last_resort(&self, order: Order) -> Option<FrameNumber> {
        self.frames.take_in_one_pass(order).or_else(|| {
            self.drain();
            self.frames.take_anywhere(order)
        })
    }

    /// Frees the block of `order` at `frame`.
    ///
    /// # Errors
    /// A [`Fault`] when no such block is allocated. Then nothing has changed.
    #[inline]
    #[track_caller]
    pub(crate) fn free_frames(&self, frame: FrameNumber, order: Order) -> Result<(), Fault> {
        if self.free_hit(frame, order) { Ok(()) } else { self.free_miss(frame, order) }
    }

    /// Frees a block into the CPU's slot, or defers it, if it is allocated and one of the two is
    /// possible; returns whether it did. A checked free is never a hit: it must exchange the tag.
    #[inline(always)]
    pub(crate) fn free_hit(&self, frame: FrameNumber, order: Order) -> bool {
        if CHECKED {
            return false;
        }
        // Asked first, as in `allocate_hit`.
        if is_of_areas(order) {
            let Some(tag) = self.frames.tags().block_place(frame, order) else { return false };
            return tag.get() == Tag::block(order)
                && self.caches.free(&self.frames, frame, order, tag);
        }
        let Some(tag) = self.frames.tags().block_place(frame, order) else { return false };
        tag.get() == Tag::block(order) && self.caches.free(&self.frames, frame, order, tag)
    }

    /// Frees a block that [`free_hit`](Self::free_hit) did not free.
    #[cold]
    #[inline(never)]
    #[track_caller]
    pub(crate) fn free_miss(&self, frame: FrameNumber, order: Order) -> Result<(), Fault> {
        if !self.frames.tags().take_block::<CHECKED>(frame, order) {
            return Err(misuse(&self.frames, frame, order));
        }
        if self.mode != Mode::Plain && self.caches.free_making_room(&self.frames, frame, order) {
            return Ok(());
        }
        match self.frames.free_range(block_range(frame, order)) {
            Some(true) => Ok(()),
            _ => Err(Fault::at_frame(FaultKind::DoubleFree, frame)),
        }
    }

    /// Notes that a run of `pages` pages was freed. After a large one in [`Mode::Dense`], the CPU's
    /// slot looks for areas again: those that have become empty cost less than fresh ones.
    pub(crate) fn note_freed_run(&self, pages: usize) {
        if self.mode == Mode::Dense && pages >= AREA_FRAMES / 4 {
            self.caches.release_owned_areas(&self.frames);
        }
    }

    /// Returns all frames that CPU slots hold and all deferred frees to their areas; returns the
    /// number of frames. It drains the slots of idle CPUs by take-over.
    ///
    /// It skips slots that a CPU is inside of, never waits for a lock and never allocates.
    /// O(areas). Longest path counted: 1,765 instructions an area of memory (`page-drain`).
    /// Example: see [`FramePool`].
    pub fn drain(&self) -> usize {
        self.drain_until(usize::MAX)
    }

    /// Drains slots one by one, then reconciles areas, until `target` frames are returned; returns
    /// their number.
    pub(crate) fn drain_until(&self, target: usize) -> usize {
        let drained = self.caches.drain_until(&self.frames, target);
        match target.checked_sub(drained) {
            Some(rest @ 1..) => drained + self.frames.reconcile_until(rest),
            _ => drained,
        }
    }

    /// Keeps all CPUs out of their slots while the guard lives, see
    /// [`PerCpu::freeze`](page_frame::PerCpu::freeze). A process calls it before `fork`.
    ///
    /// ```
    /// # use buddy::{FrameAllocator, Mode, ZeroedMemory};
    /// # use page_frame::{FrameNumber, FrameRange, Order, SingleCpu};
    /// # use std::mem::MaybeUninit;
    /// # let mut memory = vec![MaybeUninit::uninit(); 1 << 17];
    /// # let memory = ZeroedMemory::zero(&mut memory);
    /// # let range = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(1024))];
    /// # let frames = FrameAllocator::new_in(memory, &range, SingleCpu::new(), Mode::Cached)?;
    /// let frozen = frames.freeze_slots(None);
    /// frames.allocate_frames(Order::ZERO)?; // from the areas: no slot is entered
    /// drop(frozen); // in both processes, after `fork`
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn freeze_slots(&self, own: Option<CpuId>) -> Frozen<'_> {
        self.caches.freeze(own)
    }

    /// Returns the number of frames that the slots held when each was last refilled or drained.
    pub(crate) fn cached_frames(&self) -> usize {
        self.caches.cached_frames()
    }

    /// Allocates exactly the block of `order` that begins at `frame`, for frames that firmware or a
    /// device names.
    ///
    /// Drains the slots of idle CPUs when some frame of the block is not free. O(areas of the
    /// block) beyond that. Example: see [`FramePool`].
    ///
    /// # Errors
    /// [`OutOfMemory`] when some frame of the block is taken or absent, or `frame` is not aligned
    /// to `order`.
    pub fn allocate_at(&self, frame: FrameNumber, order: Order) -> Result<(), OutOfMemory> {
        self.try_allocate_at(frame, order).or_else(|_| {
            self.drain();
            self.try_allocate_at(frame, order)
        })
    }

    /// Allocates as [`allocate_at`](Self::allocate_at) does, without draining slots: frames that a
    /// slot caches count as taken. O(areas of the block). Example: see [`FramePool`].
    ///
    /// # Errors
    /// As for [`allocate_at`](Self::allocate_at).
    pub fn try_allocate_at(&self, frame: FrameNumber, order: Order) -> Result<(), OutOfMemory> {
        let has_end = frame.checked_add(order.pages()).is_some();
        if !has_end || !self.frames.take_at(frame, order) {
            return Err(OutOfMemory);
        }
        self.frames.tags().set_block(frame, order);
        Ok(())
    }

    /// Returns which frames of the aligned group of `usize::BITS` frames that `frame` lies in are
    /// free, a bit each. Frames in CPU slots count as taken. O(1), no lock; out of date when other
    /// CPUs allocate meanwhile.
    ///
    /// ```
    /// use buddy::{FrameAllocator, Mode, ZeroedMemory};
    /// use page_frame::{FrameNumber, FrameRange, Order, SingleCpu};
    /// # use std::mem::MaybeUninit;
    /// # let frames = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(16))];
    /// # let layout = FrameAllocator::<SingleCpu>::metadata_layout(&frames, 1)?;
    /// # let mut metadata = vec![MaybeUninit::uninit(); layout.size() + layout.align()];
    /// # let metadata = ZeroedMemory::zero(&mut metadata);
    /// # let frames = FrameAllocator::new_in(metadata, &frames, SingleCpu::new(), Mode::Plain)?;
    /// frames.allocate_frames(Order::new(2).unwrap())?; // four of sixteen frames
    /// assert_eq!(frames.free_bits(FrameNumber::new(0)), 0xfff0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn free_bits(&self, frame: FrameNumber) -> usize {
        let first = FrameNumber::new(frame.get() - frame.get() % WORD_BITS);
        !self.frames.bitmap().taken_word(first)
    }

    /// Allocates a block of `order` for content of `mobility`, from areas of that mobility while
    /// there are any.
    ///
    /// A mobility other than [`Mobility::Unmovable`] does not use the CPU's slot: it costs an
    /// atomic operation, a fence and a search. Zones with fewer than 60 areas (120 MiB) do not tell
    /// mobilities apart. Example: see [`Mobility`].
    ///
    /// # Errors
    /// [`OutOfMemory`] as for [`allocate_frames`](Self::allocate_frames).
    pub fn allocate_as(
        &self,
        order: Order,
        mobility: Mobility,
    ) -> Result<FrameNumber, OutOfMemory> {
        if mobility == Mobility::default() {
            return self.allocate_frames(order);
        }
        let found = self.frames.take_hinted(order, mobility, &mut Home::none());
        let frame = found.or_else(|| self.last_resort(order)).ok_or(OutOfMemory)?;
        self.frames.tags().set_block(frame, order);
        Ok(frame)
    }

    /// Takes all frames of `range` out of use, after draining the CPU slots. The range consists of
    /// whole areas, except where it begins or ends at a border of memory.
    ///
    /// O(areas of the range), after taking over the slots of idle CPUs. Longest path counted: 151
    /// instructions an area (`section-offline`).
    /// Example: see [`FrameAllocator::add_section`](crate::FrameAllocator::add_section).
    ///
    /// # Errors
    /// [`HotplugError::Absent`], [`HotplugError::PartOfArea`], or [`HotplugError::InUse`] with the
    /// first frame in use: its owner has to move the content.
    pub fn offline(&self, range: FrameRange) -> Result<(), HotplugError> {
        hotplug::check_areas(&self.frames, range)?;
        self.drain();
        hotplug::offline(&self.frames, range)
    }

    /// Removes a section as
    /// [`FrameAllocator::remove_section`](crate::FrameAllocator::remove_section) does, while all
    /// other users of the pool are stopped.
    /// Example: see [`Buddy::add_section`](crate::Buddy::add_section).
    ///
    /// # Errors
    /// As for [`FrameAllocator::remove_section`](crate::FrameAllocator::remove_section).
    ///
    /// # Safety
    /// 1. No other call of this allocator is under way, in another context or in code that this
    ///    call interrupts or is nested in. None begins before this one has returned, and those that
    ///    begin later happen after it.
    /// 2. None of its iterators is used afterwards.
    pub unsafe fn remove_section_while_stopped(
        &self,
        frame: FrameNumber,
    ) -> Result<FrameRange, HotplugError> {
        hotplug::find_added(&self.frames, frame)?;
        // Without a drain, a slot would still take from areas that it owns. No slot holds blocks
        // that are offline.
        self.drain();
        // SAFETY: clause 1: clauses 1 and 2 of this function.
        unsafe { hotplug::remove_section(&self.frames, frame) }
    }

    /// Checks every invariant that the metadata shows while no other call is inside the allocator.
    /// Call it only at such a moment: a call that is under way has frames that are neither free nor
    /// in a slot, and `validate` would report them.
    ///
    /// It checks:
    /// - each area: its entry, its hint, and that frames that do not exist are taken;
    /// - each CPU slot: its stacks and counts, and that each of its blocks exists, is taken, has no
    ///   tag, and is in no other slot or block;
    /// - each frame: that it is free without a tag, or lies in exactly one of an allocated block or
    ///   run, a deferred block, an area that is offline, a slab, and a CPU slot.
    ///
    /// It takes each slot over for a moment, see [`drain`](Self::drain). If it cannot, because a
    /// CPU is inside, or the machine refuses the fence, it assumes that this slot has each taken
    /// frame that is nowhere else. A frame that an earlier fault has lost (reported as a double
    /// free) is a violation.
    ///
    /// O(frames), and O(blocks in slots) for each 32 MiB with such blocks. It allocates nothing and
    /// touches no frame. Example: see [`FramePool`].
    ///
    /// # Errors
    /// The first [`Violation`] found.
    pub fn validate(&self) -> Result<(), Violation> {
        validate(&self.frames, &self.caches)
    }
}
