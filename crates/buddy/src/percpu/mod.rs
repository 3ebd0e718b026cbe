//! The per-CPU caches: blocks that a CPU allocates and frees without an atomic read-modify-write.
//!
//! # Concepts
//! - A hit enters the CPU's slot and pops or pushes one block. It calls nothing except a deferral
//!   as its last step, so hits need no stack frame.
//! - A miss also enters the slot, refills it (`refill.rs`) or makes room in it (`drain.rs`), and
//!   updates the slot's count.
//! - A call that finds the slot entered, because it runs in an interrupt or in a trace, works on
//!   the shared frames instead. So it cannot block.
//! - A slot is **used** from its first miss on. The number of used slots decides whether slots own
//!   areas, and how much a refill takes. A slot that no CPU uses decides nothing.
//!
//! # Costs
//! A hit costs two loads and three stores. `refill.rs` and `drain.rs` say what a miss costs.

use page_frame::internals::TagPlace;
use page_frame::sync::{self, AtomicUsize, Ordering};
use page_frame::{Cpu, CpuId, FrameNumber, Frozen, Order, PerCpu, PerCpuGuard, PerCpuSlot, Tag};

use crate::bitmap::block_range;
use crate::bitmap::home::Home;
use crate::bitmap::placement::Mobility;
use crate::bitmap::section::MAX_CLAIM_BATCH;
use crate::frames::Frames;
use crate::frames::deferred_free::is_deferrable;
use crate::percpu::cached_count::CachedCount;
use crate::percpu::slot::{CpuSlot, MAX_CACHED_ORDER};
use crate::trace::Trace;

pub(crate) mod cached_count;
mod drain;
mod refill;
pub(crate) mod slot;

/// Slots keep the areas that they own only where there are at least this many planned areas for
/// each used slot: 256 MiB. With fewer, kept areas leave fewer whole areas free than a search at
/// each refill does (decision 46). One under loom.
const MIN_AREAS_PER_OWNER: usize = if sync::MODELLED { 1 } else { 128 };
/// Slots cache blocks of this mobility. Requests of another mobility go to the shared frames.
const MOBILITY: Mobility = Mobility::Unmovable;

/// The slots of all CPUs.
#[derive(Debug)]
pub(crate) struct Caches<'m, C> {
    slots: PerCpu<'m, CpuSlot, C>,
    /// For each slot the number of frames in its stacks.
    counts: &'m [CachedCount],
    /// Number of slots that were ever entered for a miss. Each slot adds itself once in its life.
    used: AtomicUsize,
    /// Number of areas that the allocator had when it was made.
    areas: usize,
    /// Number of planned areas, see `SectionTable::planned_areas`.
    planned: usize,
    /// Whether slots have homes: the mode allows it, and there are several slots.
    has_homes: bool,
    /// Whether no call ever enters a slot.
    closed: bool,
}

/// The slot of the current CPU, entered.
type Entered<'s, C> = PerCpuGuard<'s, CpuSlot, C>;

impl<'m, C: Cpu> Caches<'m, C> {
    /// Makes the caches of an allocator that has `areas` areas and plans for `planned`. If
    /// `closed`, no call ever enters a slot.
    pub(crate) fn new(
        slots: &'m mut [PerCpuSlot<CpuSlot>],
        counts: &'m [CachedCount],
        cpu: C,
        [areas, planned]: [usize; 2],
        closed: bool,
    ) -> Self {
        Self {
            slots: if closed { PerCpu::closed(slots, cpu) } else { PerCpu::new(slots, cpu) },
            counts,
            used: AtomicUsize::new(0),
            areas,
            planned,
            has_homes: false,
            closed,
        }
    }

    /// Gives the slots homes if there are several.
    pub(crate) fn with_homes(mut self) -> Self {
        self.has_homes = self.counts.len() > 1;
        self
    }

    /// Pops a block of `order` from the CPU's slot: the hit of an allocation.
    #[inline(always)]
    pub(crate) fn allocate(&self, order: Order) -> Option<FrameNumber> {
        if order.index() > MAX_CACHED_ORDER {
            return None;
        }
        self.slots.enter_known().ok()?.pop(order.index())
    }

    /// Pushes a block to the CPU's slot and clears its tag at `tag`, or defers the block: the hit
    /// of a free. Returns whether it did one of the two.
    ///
    /// Its only call is the deferral, as its last step, so that hits need no stack frame.
    #[inline(always)]
    pub(crate) fn free<T: Trace>(
        &self,
        frames: &Frames<'_, T>,
        frame: FrameNumber,
        order: Order,
        tag: TagPlace<'_>,
    ) -> bool {
        if order.index() > MAX_CACHED_ORDER {
            return false;
        }
        let Ok(mut slot) = self.slots.enter_known() else { return false };
        let keeps = || frames.bitmap().is_worth_keeping(frame, MOBILITY);
        if slot.push_if(frame, order.index(), keeps) {
            // Before the slot is left: afterwards the block may be allocated again, with another
            // tag.
            tag.set(Tag::NONE);
            return true;
        }
        drop(slot);
        let is_deferrable = is_deferrable(order);
        if is_deferrable {
            frames.defer(frame, order, tag);
        }
        is_deferrable
    }

    /// Enters the CPU's slot for a miss; `None` when the slot is entered already, or does not cache
    /// `order`.
    pub(crate) fn enter(&self, order: Order) -> Option<Entered<'_, C>> {
        if order.index() > MAX_CACHED_ORDER {
            return None;
        }
        let mut slot = self.slots.enter().ok()?;
        if !slot.is_set_up() {
            self.set_up(&mut slot);
        }
        Some(slot)
    }

    /// Sets up a slot, and counts it as used.
    #[cold]
    fn set_up(&self, slot: &mut Entered<'_, C>) {
        // Relaxed: as in `used`.
        self.used.fetch_add(1, Ordering::Relaxed);
        let home = if self.has_homes { Home::new(slot.id().index()) } else { Home::none() };
        slot.set_up(home);
    }

    /// Returns the number of used slots, at least one.
    fn used(&self) -> usize {
        // Relaxed: a stale count changes only which policy a refill follows.
        self.used.load(Ordering::Relaxed).max(1)
    }

    /// Returns whether a slot keeps an area after a refill. A slot that acquired an area when fewer
    /// slots were used owns it until its next refill of that order group, or a drain.
    #[inline]
    fn keeps_areas(&self) -> bool {
        self.planned / MIN_AREAS_PER_OWNER >= self.used()
    }

    /// Returns the number of blocks below the area's order that a refill takes: `most`, which is at
    /// least one. In a small memory it takes fewer, so that slots do not hold most of the frames.
    fn block_batch(&self, most: usize) -> usize {
        (self.planned / self.used()).clamp(1, most)
    }

    /// Returns the number of areas that a refill of whole areas claims: an eighth of a used slot's
    /// share of all areas, within limits.
    fn area_batch(&self) -> usize {
        (self.areas / (8 * self.used())).clamp(1, MAX_CLAIM_BATCH)
    }

    /// Allocates a block of `order` from the entered slot, and refills the slot if it has none.
    pub(crate) fn allocate_refilling<T: Trace>(
        &self,
        frames: &Frames<'_, T>,
        mut slot: Entered<'_, C>,
        order: Order,
    ) -> Option<FrameNumber> {
        let frame = slot.pop(order.index()).or_else(|| self.refill(frames, &mut slot, order));
        self.count_change(&mut slot, order);
        frame
    }

    /// Fills `blocks` with blocks from the CPU's slot, which it enters once and refills as needed;
    /// returns their number.
    pub(crate) fn allocate_bulk<T: Trace>(
        &self,
        frames: &Frames<'_, T>,
        order: Order,
        blocks: &mut [FrameNumber],
    ) -> usize {
        let Some(mut slot) = self.enter(order) else { return 0 };
        let mut allocated = frames.bulk_guard(order, blocks, 0);
        while !allocated.is_full() {
            let cached = slot.pop(order.index());
            let Some(frame) = cached.or_else(|| self.refill(frames, &mut slot, order)) else {
                break;
            };
            allocated.push(frame);
        }
        self.count_change(&mut slot, order);
        allocated.forget()
    }

    /// Frees a block, whose tag is cleared, into the CPU's slot after making room for it, or defers
    /// it. Returns false when the caller must return the block to its area.
    pub(crate) fn free_making_room<T: Trace>(
        &self,
        frames: &Frames<'_, T>,
        frame: FrameNumber,
        order: Order,
    ) -> bool {
        let Some(mut slot) = self.enter(order) else { return false };
        let keeps = || frames.bitmap().is_worth_keeping(frame, MOBILITY);
        let mut is_freed = slot.push_if(frame, order.index(), keeps);
        if !is_freed && is_deferrable(order) {
            if let Some(tag) = frames.tags().block_place(frame, order) {
                frames.defer(frame, order, tag);
                is_freed = true;
            }
        }
        if !is_freed && (slot.is_in_refill_area(frame, order.index()) || keeps()) {
            let guard = frames.guard(block_range(frame, order));
            self.drain_older_half(frames, &mut slot, order);
            _ = guard.forget();
            is_freed = slot.push(frame, order.index());
        }
        self.count_change(&mut slot, order);
        is_freed
    }

    /// Keeps all CPUs out of their slots while the guard lives, see [`PerCpu::freeze`].
    pub(crate) fn freeze(&self, own: Option<CpuId>) -> Frozen<'_> {
        self.slots.freeze(own)
    }

    /// Returns the number of frames that the slots held when each was last refilled or drained.
    pub(crate) fn cached_frames(&self) -> usize {
        self.counts.iter().map(CachedCount::get).sum()
    }

    /// Calls `look` with each block that a slot caches.
    pub(crate) fn for_each_cached(&mut self, mut look: impl FnMut(CpuId, FrameNumber, Order)) {
        self.slots.for_each_exclusive(|cpu, slot| {
            for (start, order) in slot.blocks() {
                let order = Order::all().nth(order).expect("a slot caches orders up to the area's");
                look(cpu, start, order);
            }
        });
    }

    /// Calls `look` with the slot of each CPU and the slot's count, one slot after the other;
    /// returns whether it saw all slots that may hold blocks. It takes each slot over, and skips
    /// slots that a CPU is inside of.
    pub(crate) fn look_at_each(&self, mut look: impl FnMut(&CpuSlot, usize)) -> bool {
        if self.closed {
            return true;
        }
        let outcome =
            self.slots.take_over(|_| true, |id, slot| look(slot, self.counts[id.index()].get()));
        outcome.skipped == 0
    }

    /// Changes the slot of the current CPU and its count as a bug would.
    #[cfg(test)]
    pub(crate) fn corrupt(&self, change: impl FnOnce(&mut CpuSlot, &CachedCount)) {
        let mut slot = self.slots.enter().expect("the tests have one CPU");
        let count = &self.counts[slot.id().index()];
        change(&mut slot, count);
    }

    fn count_change(&self, slot: &mut Entered<'_, C>, order: Order) {
        let change = slot.take_change(order.index());
        self.counts[slot.id().index()].add(change);
    }
}
