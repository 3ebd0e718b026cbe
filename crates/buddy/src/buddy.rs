//! The allocator: what users call, and the order in which it asks slot, hints and everything else.

use core::alloc::Layout;
use core::ptr::NonNull;

use page_frame::{
    Cpu, CpuId, Fault, FaultHook, FaultKind, FrameNumber, FrameRange, Frozen, Order, OutOfMemory,
    PageMap, PageMapArray, PhysMap, Slots, Tag, panic_on_fault,
};

use crate::area::AREA_FRAMES;
use crate::build::{BuildError, Carved, Plan};
use crate::cpu_slot::{CpuSlot, Kept, LARGEST};
use crate::kind::Mobility;
use crate::observe;
use crate::observer::Observe;
use crate::zone::{Zone, parts};

/// How many areas there are for each slot, at least, where slots own areas: a guess. One under loom.
const OWNER_AREAS: usize = if page_frame::sync::MODELLED { 1 } else { 8 };
/// The most areas that a refill of whole areas claims: 16 MiB.
pub(crate) const MOST_AREAS: usize = 8;

/// How a buddy chooses among blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// With CPU slots and hints: the fullest area first.
    #[default]
    Cached,
    /// As the textbook says: of all free blocks the smallest that is large enough, the leftmost of that size. Looks at
    /// every block for each request; for teaching and for comparing.
    Plain,
}

/// A buddy allocator of page frames.
///
/// It works on frame numbers; as a [`PageSource`](page_frame::PageSource) it speaks of addresses through `M`. No frame is
/// ever read or written. All methods take `&self` and may be called from every CPU, and from interrupts.
///
/// ```
/// use buddy::{Buddy, Mode};
/// use page_frame::{DirectMap, FrameNumber, FrameRange, Order, SingleCpu};
/// use std::ptr::NonNull;
///
/// let frames = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(1024))];
/// let layout = Buddy::<DirectMap, SingleCpu>::metadata_layout(&frames, 1)?;
/// // SAFETY: the layout is not empty.
/// let metadata = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).unwrap();
/// let root = NonNull::new(std::ptr::without_provenance_mut(4096)).unwrap();
/// // SAFETY: frames are only numbers here, so no pointer from the map is used.
/// let map = unsafe { DirectMap::from_root(root, FrameNumber::new(0)) };
/// // SAFETY: the metadata is zero, ours, and leaked, so it outlives the allocator.
/// let buddy = unsafe { Buddy::new_in(metadata, &frames, map, SingleCpu::new(), Mode::Plain) }?;
///
/// let order = Order::new(3).unwrap();
/// let block = buddy.allocate_frames(order)?;
/// assert!(block.is_aligned_to(order));
/// assert_eq!(buddy.free_frames_count(), 1024 - 8);
/// buddy.free_frames(block, order)?;
/// assert!(buddy.free_frames(block, order).is_err()); // a double free is a fault, and changes nothing
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// `O` is who hears of splits and merges; nobody by default, see [`Observe`].
#[derive(Debug)]
pub struct Buddy<'m, M, C, O = ()> {
    pub(crate) zone: Zone<'m>,
    pub(crate) map: PageMapArray<'m>,
    /// The frame that the map begins with.
    first_frame: usize,
    pub(crate) phys: M,
    pub(crate) slots: Slots<'m, CpuSlot, C>,
    /// For each slot how many frames it holds, as others may know it.
    pub(crate) kept: &'m [Kept],
    /// Whether slots own areas: there are enough for each.
    pub(crate) has_owners: bool,
    /// How many areas a refill of whole areas claims: an eighth of a slot's share of all, within limits.
    pub(crate) area_batch: usize,
    mode: Mode,
    pub(crate) fault_hook: FaultHook,
    pub(crate) observer: O,
}

impl<'m, M: PhysMap, C: Cpu> Buddy<'m, M, C> {
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
        Plan::new(ranges, room, slots).map(|plan| plan.layout())
    }

    /// Builds the allocator of all frames of `ranges`, with its metadata in `metadata`.
    ///
    /// O(areas); touches 0.15 bytes per frame of the metadata and no frame.
    ///
    /// # Errors
    /// [`BuildError`] as for [`metadata_layout`](Self::metadata_layout).
    ///
    /// # Safety
    /// 1. `metadata` is valid for reads and writes of `metadata_layout(ranges, cpu.slots())` during `'m`, zero, and
    ///    nobody else's.
    /// 2. Nobody else uses the frames; `phys` covers all of them. Where blocks are asked for by address, they are mapped.
    pub unsafe fn new_in(
        metadata: NonNull<u8>,
        ranges: &[FrameRange],
        phys: M,
        cpu: C,
        mode: Mode,
    ) -> Result<Self, BuildError> {
        // SAFETY: the caller's clauses; without room the layouts are the same.
        unsafe { Self::new_with_room(metadata, ranges, FrameRange::default(), phys, cpu, mode) }
    }

    /// The same, with room for frames of `room` to be added later by [`add_section`](Self::add_section).
    ///
    /// # Errors
    /// As for [`new_in`](Self::new_in).
    ///
    /// # Safety
    /// As for [`new_in`](Self::new_in), with `metadata_layout_with_room(ranges, room, cpu.slots())` in clause 1.
    pub unsafe fn new_with_room(
        metadata: NonNull<u8>,
        ranges: &[FrameRange],
        room: FrameRange,
        phys: M,
        cpu: C,
        mode: Mode,
    ) -> Result<Self, BuildError> {
        let plan = Plan::new(ranges, room, cpu.slots())?;
        // SAFETY: clause 1, and the ranges are the planned ones.
        let Carved { zone, slots, kept, map } = unsafe { plan.carve(metadata, ranges, &phys) };
        let is_plain = mode == Mode::Plain;
        let (areas, count) = (zone.frames() / AREA_FRAMES, slots.len());
        let has_owners = is_plain || areas >= OWNER_AREAS * count;
        let area_batch = (areas / (8 * count.max(1))).clamp(1, MOST_AREAS);
        let slots = if is_plain { Slots::closed(slots, cpu) } else { Slots::new(slots, cpu) };
        let fault_hook = panic_on_fault;
        let first_frame = zone.span().start.get();
        Ok(Self {
            zone,
            map,
            first_frame,
            phys,
            slots,
            kept,
            has_owners,
            area_batch,
            mode,
            fault_hook,
            observer: (),
        })
    }

    /// Tells `observer` of each split, merge, claim and hand-over from now on.
    ///
    /// ```
    /// use buddy::{Buddy, EventCounts, Mode};
    /// use page_frame::{DirectMap, FrameNumber, FrameRange, Order, SingleCpu};
    /// # use std::ptr::NonNull;
    /// # let frames = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(16))];
    /// # let layout = Buddy::<DirectMap, SingleCpu>::metadata_layout(&frames, 1)?;
    /// # // SAFETY: the layout is not empty.
    /// # let metadata = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).unwrap();
    /// # let root = NonNull::new(std::ptr::without_provenance_mut(4096)).unwrap();
    /// # // SAFETY: frames are only numbers here.
    /// # let map = unsafe { DirectMap::from_root(root, FrameNumber::new(0)) };
    /// # // SAFETY: the metadata is zero, ours, and leaked.
    /// # let buddy = unsafe { Buddy::new_in(metadata, &frames, map, SingleCpu::new(), Mode::Plain) }?;
    /// let counts = EventCounts::new();
    /// let buddy = buddy.with_observer(&counts); // 16 free frames
    /// let two = buddy.allocate_frames(Order::new(1).unwrap())?;
    /// assert_eq!(counts.splits(), 3); // 16 into 8, 4 and 2
    /// buddy.free_frames(two, Order::new(1).unwrap())?;
    /// assert_eq!(counts.merges(), 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_observer<O: Observe>(self, observer: O) -> Buddy<'m, M, C, O> {
        let Self {
            zone,
            map,
            first_frame,
            phys,
            slots,
            kept,
            has_owners,
            area_batch,
            mode,
            fault_hook,
            observer: (),
        } = self;
        Buddy {
            zone,
            map,
            first_frame,
            phys,
            slots,
            kept,
            has_owners,
            area_batch,
            mode,
            fault_hook,
            observer,
        }
    }
}

impl<'m, M: PhysMap, C: Cpu, O: Observe> Buddy<'m, M, C, O> {
    /// Returns who is told of splits and merges.
    pub const fn observer(&self) -> &O {
        &self.observer
    }

    /// Gives misuse seen by the pointer interfaces to `hook` instead of panicking.
    pub fn with_fault_hook(mut self, hook: FaultHook) -> Self {
        self.fault_hook = hook;
        self
    }

    /// Returns a block of `order`: its first frame.
    ///
    /// A single frame usually comes from the CPU's slot, without an atomic read-modify-write. All else takes bits.
    ///
    /// # Errors
    /// [`OutOfMemory`] when no such block was free although the slots of idle CPUs were taken over and every area was
    /// looked at.
    #[inline]
    pub fn allocate_frames(&self, order: Order) -> Result<FrameNumber, OutOfMemory> {
        self.allocate_hit(order).map_or_else(|| self.allocate_slowly(order), Ok)
    }

    /// Takes a block of `order` that is ready in the CPU's slot.
    #[inline(always)]
    pub(crate) fn allocate_hit(&self, order: Order) -> Option<FrameNumber> {
        let frame = self.pop(order)?;
        // SAFETY: slots keep frames of ours alone, which the map covers.
        unsafe { self.map.set_tag_unchecked(frame.get() - self.first_frame, Tag::block(order)) };
        Some(frame)
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
        if self.free_to_slot(frame, order) { Ok(()) } else { self.free_slowly(frame, order) }
    }

    /// Frees a block into the CPU's slot if it is allocated, belongs there, and there is room; whether that was so.
    #[inline(always)]
    pub(crate) fn free_to_slot(&self, frame: FrameNumber, order: Order) -> bool {
        if O::EXACT_FREES {
            return false;
        }
        // Foreign frames lie beyond the map, and have no tag.
        let Some(tag) = self.map.place_at(self.map_index(frame)) else { return false };
        tag.get() == Tag::block(order) && self.push(frame, order, tag)
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn allocate_slowly(&self, order: Order) -> Result<FrameNumber, OutOfMemory> {
        let frame = match self.mode {
            Mode::Cached => self.allocate_refilling(order),
            Mode::Plain => self.take_best(order),
        };
        let frame = match frame {
            Some(frame) => frame,
            None => self.last_resort(order)?,
        };
        self.set_tag(frame, Tag::block(order));
        Ok(frame)
    }

    #[cold]
    #[inline(never)]
    #[track_caller]
    pub(crate) fn free_slowly(&self, frame: FrameNumber, order: Order) -> Result<(), Fault> {
        if !self.take_tag(frame, Tag::block(order)) {
            return Err(self.misuse(frame, order));
        }
        if self.mode == Mode::Cached && self.free_flushing(frame, order) {
            return Ok(());
        }
        let end = FrameNumber::new(frame.get() + order.pages());
        match self.release(FrameRange::new(frame, end)) {
            Some(true) => Ok(()),
            _ => Err(Fault::new(FaultKind::DoubleFree, frame.get(), order.index(), order.index())),
        }
    }

    /// Returns the tag of `frame`; none for frames that are not ours.
    #[inline]
    pub(crate) fn frame_tag(&self, frame: FrameNumber) -> Tag {
        self.map.tag_at(self.map_index(frame))
    }

    /// Returns where the map has `frame`; beyond its end for frames that are not ours.
    #[inline(always)]
    pub(crate) fn map_index(&self, frame: FrameNumber) -> usize {
        frame.get().wrapping_sub(self.first_frame)
    }

    #[inline]
    pub(crate) fn set_tag(&self, frame: FrameNumber, tag: Tag) {
        self.map.set_tag_at(self.map_index(frame), tag);
    }

    /// Brings the frames that CPU slots keep home, those of idle CPUs by take-over, and what was freed and left in areas; returns
    /// how many.
    ///
    /// CPUs that are inside their slot are skipped. Never waits for a lock, never allocates.
    pub fn drain(&self) -> usize {
        self.drain_until(usize::MAX)
    }

    /// Drains slots one by one, then gathers areas, until `target` frames came home; returns how many did.
    pub(crate) fn drain_until(&self, target: usize) -> usize {
        let mut frames = 0;
        self.slots.take_over(
            |_| true,
            |id, slot| {
                if frames < target {
                    frames += self.drain_slot(slot);
                    let change: isize = (0..=LARGEST).map(|order| slot.change(order)).sum();
                    self.kept[id.index()].add(change);
                }
            },
        );
        if frames < target { frames + self.gather_until(target - frames) } else { frames }
    }

    /// Keeps all CPUs out of their slots while the guard lives, see [`Slots::freeze`]: for whoever is about to `fork`.
    pub fn freeze_slots(&self, own: Option<CpuId>) -> Frozen<'_> {
        self.slots.freeze(own)
    }

    /// Returns how many frames the slots held when each was last filled or drained.
    pub(crate) fn kept_frames(&self) -> usize {
        self.kept.iter().map(Kept::get).sum()
    }

    #[inline]
    pub(crate) fn address(&self, frame: FrameNumber) -> usize {
        self.phys.pointer(frame).addr().get()
    }

    pub(crate) fn take_hinted(&self, order: Order) -> Option<FrameNumber> {
        self.noted(self.zone.take_hinted(order, Mobility::default()), order)
    }

    /// Takes the block that the textbook would.
    fn take_best(&self, order: Order) -> Option<FrameNumber> {
        let fitting = observe::free_blocks(&self.zone).filter(|(_, found)| *found >= order);
        let (frame, _) = fitting.min_by_key(|(_, found)| *found)?;
        self.noted(self.zone.take_at(frame, order).then_some(frame), order)
    }

    /// Passes on what was taken from areas, and tells the observer of it.
    pub(crate) fn noted(&self, taken: Option<FrameNumber>, order: Order) -> Option<FrameNumber> {
        if let Some(frame) = taken {
            self.zone.note_take(&self.observer, frame, order);
        }
        taken
    }

    /// Frees all frames of `range` in its areas; see [`Zone::release`].
    pub(crate) fn release(&self, range: FrameRange) -> Option<bool> {
        let released = self.zone.release(range);
        if released == Some(true) {
            self.zone.note_release(&self.observer, range);
            for (part, frames) in parts(range).filter(|(_, frames)| *frames < AREA_FRAMES) {
                self.note_home(part, frames);
            }
        }
        released
    }

    #[cold]
    pub(crate) fn last_resort(&self, order: Order) -> Result<FrameNumber, OutOfMemory> {
        let found = self.zone.pass(order).0.or_else(|| {
            self.drain();
            self.zone.take_anywhere(order)
        });
        self.noted(found, order).ok_or(OutOfMemory)
    }

    /// Says what is wrong with freeing `order` at `frame`.
    #[cold]
    #[track_caller]
    pub(crate) fn misuse(&self, frame: FrameNumber, order: Order) -> Fault {
        let number = frame.get();
        let one = FrameRange::new(frame, FrameNumber::new(number.saturating_add(1)));
        let span = self.zone.span();
        if !span.contains(frame) {
            return Fault::new(FaultKind::ForeignPointer, number, span.frames(), number);
        }
        if !self.zone.has(one) {
            return Fault::new(FaultKind::ReservedFrame, number, order.index(), 0);
        }
        if !frame.is_aligned_to(order) {
            let beyond = number & (order.pages() - 1);
            return Fault::new(FaultKind::Misaligned, number, order.pages(), beyond);
        }
        let tag = self.frame_tag(frame);
        if tag.as_left().is_some() {
            return Fault::new(FaultKind::DoubleFree, number, order.index(), 0);
        }
        match tag.as_block() {
            Some(real) => Fault::new(FaultKind::WrongOrder, number, real.index(), order.index()),
            None if tag == Tag::NONE && !self.zone.is_taken(frame) => {
                Fault::new(FaultKind::DoubleFree, number, order.index(), 0)
            }
            None if tag == Tag::NONE && !self.lies_in_block(frame, order) => {
                // Taken, but by nobody above: a CPU slot keeps it.
                Fault::new(FaultKind::DoubleFree, number, order.index(), 0)
            }
            None => {
                let expected = Tag::block(order).get().into();
                Fault::new(FaultKind::InteriorPointer, number, expected, tag.get().into())
            }
        }
    }

    /// Whether an allocated block or run of a larger order begins below `frame` and reaches it.
    fn lies_in_block(&self, frame: FrameNumber, order: Order) -> bool {
        Order::all().filter(|larger| *larger > order).any(|larger| {
            let head = frame.align_down(larger);
            if head < self.zone.span().start {
                return false;
            }
            let address = self.address(head);
            let pages = self.map.tag(address).as_block().map(Order::pages);
            let pages = pages.or_else(|| self.map.run_pages(address));
            head < frame && pages.is_some_and(|pages| frame.get() - head.get() < pages)
        })
    }
}
