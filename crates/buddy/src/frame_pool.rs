//! The pool of frames: all that an allocator does with frame numbers, but taking blocks back from its callers.
//!
//! # Concepts
//! - [`FramePool`] holds the zone, the tags, the CPU slots, and the observer. It makes no pointer.
//! - Its safe methods allocate by number, look, and keep house. None of them frees a block that somebody holds, so they stay
//!   safe where blocks of the same frames are lent by address.
//! - Two types own a pool and add the frees. [`FrameAllocator`](crate::FrameAllocator) frees by number, and lends nothing by
//!   address. [`Buddy`](crate::Buddy) frees what it lent as blocks and runs, and frees by number only in `unsafe` functions.

use core::alloc::Layout;
use core::ptr::NonNull;

use page_frame::{
    Cpu, CpuId, Fault, FaultHook, FaultKind, FrameNumber, FrameRange, Frozen, Order, OutOfMemory,
    PAGE_SIZE, PageMap, PageMapArray, PerCpu, Tag, panic_on_fault,
};

use crate::bitmap::area::AREA_FRAMES;
use crate::bitmap::placement::Mobility;
use crate::bitmap::{Zone, parts};
use crate::blocks;
use crate::build::{BuildError, Carved, Plan};
use crate::percpu::slot::{CpuSlot, Kept, LARGEST};
use crate::trace::Observe;
use crate::unwind::FreeOnUnwind;
use crate::zeroed_memory::ZeroedMemory;

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

/// Page frames by number, without a way to free them.
///
/// [`FrameAllocator`](crate::FrameAllocator) and [`Buddy`](crate::Buddy) dereference to it. All methods take `&self` and may be
/// called from every CPU, and from interrupts. No frame is ever read or written.
#[derive(Debug)]
pub struct FramePool<'m, C, O = ()> {
    pub(crate) zone: Zone<'m>,
    /// Tags, and for runs the page counts. Its pointers are the business of `Buddy`.
    pub(crate) map: PageMapArray<'m>,
    /// The address that the map has its first page at.
    map_start: usize,
    /// The frame that the map begins with.
    first_frame: usize,
    pub(crate) slots: PerCpu<'m, CpuSlot, C>,
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

/// Building, for the types that own a pool.
impl<'m, C: Cpu> FramePool<'m, C> {
    /// Returns size and alignment of the metadata for `ranges`, `room` and `slots` CPU slots.
    pub(crate) fn metadata_layout(
        ranges: &[FrameRange],
        room: FrameRange,
        slots: usize,
    ) -> Result<Layout, BuildError> {
        Plan::new(ranges, room, slots).map(|plan| plan.layout())
    }

    /// Builds the pool of all frames of `ranges`. `map_start` says at which address the map has the first frame of the span.
    ///
    /// # Safety
    /// 1. The pointer that `map_start` returns is page-aligned. Whoever asks the map for pointers may use it for all memory
    ///    behind the frames of the span.
    pub(crate) unsafe fn new_in(
        metadata: ZeroedMemory<'m>,
        ranges: &[FrameRange],
        room: FrameRange,
        map_start: impl FnOnce(FrameNumber) -> NonNull<u8>,
        cpu: C,
        mode: Mode,
    ) -> Result<Self, BuildError> {
        let plan = Plan::new(ranges, room, cpu.slots())?;
        let needed = plan.layout().size();
        if metadata.bytes() < needed {
            return Err(BuildError::MetadataTooSmall { needed, given: metadata.bytes() });
        }
        let map_start = map_start(plan.span().start);
        // SAFETY: clause 1 of `carve`: `ZeroedMemory` is zero, aligned to 64 and ours during `'m`, and large enough, as was
        // checked above. Clause 2: the ranges are the planned ones. Clause 3: clause 1 of this function.
        let Carved { zone, slots, kept, map } =
            unsafe { plan.carve(metadata.start(), ranges, map_start) };
        let is_plain = mode == Mode::Plain;
        let (areas, count) = (zone.frames() / AREA_FRAMES, slots.len());
        let has_owners = is_plain || areas >= OWNER_AREAS * count;
        let area_batch = (areas / (8 * count.max(1))).clamp(1, MOST_AREAS);
        let slots = if is_plain { PerCpu::closed(slots, cpu) } else { PerCpu::new(slots, cpu) };
        let first_frame = zone.span().start.get();
        Ok(Self {
            zone,
            map,
            map_start: map_start.addr().get(),
            first_frame,
            slots,
            kept,
            has_owners,
            area_batch,
            mode,
            fault_hook: panic_on_fault,
            observer: (),
        })
    }

    /// Tells `observer` of each split, merge, claim and hand-over from now on.
    pub(crate) fn with_observer<O: Observe>(self, observer: O) -> FramePool<'m, C, O> {
        let Self { zone, map, map_start, first_frame, slots, kept, .. } = self;
        let Self { has_owners, area_batch, mode, fault_hook, .. } = self;
        FramePool {
            zone,
            map,
            map_start,
            first_frame,
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

impl<C: Cpu, O: Observe> FramePool<'_, C, O> {
    /// Returns who is told of splits and merges.
    pub const fn observer(&self) -> &O {
        &self.observer
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
    pub(crate) fn free_frames(&self, frame: FrameNumber, order: Order) -> Result<(), Fault> {
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

    /// Keeps all CPUs out of their slots while the guard lives, see [`PerCpu::freeze`]: for whoever is about to `fork`.
    pub fn freeze_slots(&self, own: Option<CpuId>) -> Frozen<'_> {
        self.slots.freeze(own)
    }

    /// Returns how many frames the slots held when each was last filled or drained.
    pub(crate) fn kept_frames(&self) -> usize {
        self.kept.iter().map(Kept::get).sum()
    }

    /// Returns the page count of the run that begins at `frame`, or `None` where none begins.
    pub(crate) fn run_pages(&self, frame: FrameNumber) -> Option<usize> {
        let address = self.map_start.wrapping_add(self.map_index(frame).wrapping_mul(PAGE_SIZE));
        self.map.run_pages(address)
    }

    pub(crate) fn take_hinted(&self, order: Order) -> Option<FrameNumber> {
        self.noted(self.zone.take_hinted(order, Mobility::default()), order)
    }

    /// Takes the block that the textbook would.
    fn take_best(&self, order: Order) -> Option<FrameNumber> {
        let fitting = blocks::free_blocks(&self.zone).filter(|(_, found)| *found >= order);
        let (frame, _) = fitting.min_by_key(|(_, found)| *found)?;
        self.noted(self.zone.take_at(frame, order).then_some(frame), order)
    }

    /// Passes on what was taken from areas, and tells the observer of it.
    pub(crate) fn noted(&self, taken: Option<FrameNumber>, order: Order) -> Option<FrameNumber> {
        if let Some(frame) = taken {
            let end = FrameNumber::new(frame.get() + order.pages());
            let undo = FreeOnUnwind::new(&self.zone, FrameRange::new(frame, end));
            self.zone.note_take(&self.observer, frame, order);
            undo.forget();
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
        if tag.as_deferred().is_some() {
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
            let pages = self.frame_tag(head).as_block().map(Order::pages);
            let pages = pages.or_else(|| self.run_pages(head));
            head < frame && pages.is_some_and(|pages| frame.get() - head.get() < pages)
        })
    }
}
