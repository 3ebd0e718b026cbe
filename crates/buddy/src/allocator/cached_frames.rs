//! The frames that CPU slots cache, found by visits to all slots. `validate` compares them with the
//! frames that are taken and have no tag.
//!
//! # Costs
//! [`CachedFrames`] has room for the frames of [`WINDOW_AREAS`] areas. So `validate` visits each
//! block of each slot once for each such group of areas that has a cached frame.

use page_frame::{Cpu, FrameNumber, Order, Tag, Violation};

use crate::bitmap::bits::{AREA_FRAMES, AREA_ORDER, WORD_BITS};
use crate::bitmap::block_range;
use crate::bitmap::placement::ORDER_GROUPS;
use crate::frames::Frames;
use crate::percpu::Caches;

/// Number of areas of a window. Its bits take 1 KiB, which fits in the stack of a kernel.
const WINDOW_AREAS: usize = 16;
/// Number of frames of a window.
const WINDOW_FRAMES: usize = WINDOW_AREAS * AREA_FRAMES;

/// Sums over all slots.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SlotTotals {
    /// Number of cached frames.
    pub(super) frames: usize,
    /// Number of areas that slots own.
    pub(super) owned_areas: usize,
}

/// Checks each slot by itself. Returns the totals, or `None` if a CPU is inside its slot, which
/// then cannot be checked.
pub(super) fn check_slots<T, C: Cpu>(
    frames: &Frames<'_, T>,
    caches: &Caches<'_, C>,
) -> Result<Option<SlotTotals>, Violation> {
    let mut totals = SlotTotals::default();
    let mut checked = Ok(());
    let saw_all = caches.look_at_each(|slot, count| {
        if checked.is_err() {
            return;
        }
        checked = (|| {
            if !slot.is_consistent() {
                return Err(Violation::of("CPU slot I1: a stack holds at most its capacity"));
            }
            if slot.reported_frames() != count {
                return Err(Violation::of(
                    "CPU slot: its count is the sum of the changes reported",
                ));
            }
            for (start, order) in slot.blocks() {
                check_cached(frames, start, order)?;
                totals.frames += 1 << order;
            }
            for area in (0..ORDER_GROUPS).filter_map(|group| slot.owned(group)) {
                if !frames.bitmap().is_owned(area) {
                    let invariant = "section I3: the entry of an area that a slot owns says so";
                    return Err(Violation::at(invariant, area));
                }
                totals.owned_areas += 1;
            }
            Ok(())
        })();
    });
    checked.map(|()| saw_all.then_some(totals))
}

/// Checks the block of order number `order` at `start`, which a slot caches: its frames exist, are
/// taken and have no tag.
fn check_cached<T>(
    frames: &Frames<'_, T>,
    start: FrameNumber,
    order: usize,
) -> Result<(), Violation> {
    let broken = |invariant| Err(Violation::at(invariant, start));
    let exists = |order: &Order| {
        start.is_aligned_to(*order)
            && start.checked_add(order.pages()).is_some()
            && frames.bitmap().table().has(block_range(start, *order))
    };
    let Some(order) = Order::all().nth(order).filter(exists) else {
        return broken("CPU slot I1: a slot caches aligned blocks of frames that exist");
    };
    let range = block_range(start, order);
    for frame in (range.start.get()..range.end.get()).map(FrameNumber::new) {
        if !frames.bitmap().is_taken(frame) {
            return Err(Violation::at("I1: a cached frame is taken", frame));
        }
        if frames.tags().get(frame) != Tag::NONE {
            return Err(Violation::at("I5: a cached frame has no tag", frame));
        }
    }
    if frames.bitmap().is_whole(start) != (u32::from(order.get()) == AREA_ORDER) {
        return broken("I2: a cached block is a whole area, or lies in an open one");
    }
    Ok(())
}

/// The cached frames of a window of consecutive areas.
pub(super) struct CachedFrames {
    /// The first frame of the window.
    first: usize,
    /// A bit for each frame.
    bits: [usize; WINDOW_FRAMES / WORD_BITS],
}

impl CachedFrames {
    /// Returns a window that holds no frame number.
    pub(super) const fn none() -> Self {
        Self { first: usize::MAX, bits: [0; WINDOW_FRAMES / WORD_BITS] }
    }

    /// Returns whether a slot caches `frame`. Moves the window first, if the frame lies outside it.
    ///
    /// # Errors
    /// A [`Violation`] when slots hold a frame of the window twice.
    pub(super) fn has<C: Cpu>(
        &mut self,
        caches: &Caches<'_, C>,
        frame: FrameNumber,
    ) -> Result<bool, Violation> {
        let number = frame.get();
        if number < self.first || number - self.first >= WINDOW_FRAMES {
            self.first = number - number % WINDOW_FRAMES;
            self.load(caches)?;
        }
        let at = number - self.first;
        Ok(self.bits[at / WORD_BITS] >> (at % WORD_BITS) & 1 == 1)
    }

    /// Fills the window. If a CPU is inside its slot, any frame of the window may be cached there,
    /// so all of them count as cached.
    fn load<C: Cpu>(&mut self, caches: &Caches<'_, C>) -> Result<(), Violation> {
        self.bits.fill(0);
        let mut twice = None;
        let saw_all = caches.look_at_each(|slot, _| {
            for (start, order) in slot.blocks() {
                let end = start.get().saturating_add(1 << order).min(self.first + WINDOW_FRAMES);
                for number in start.get().max(self.first)..end {
                    let at = number - self.first;
                    let (word, bit) = (at / WORD_BITS, 1 << (at % WORD_BITS));
                    if self.bits[word] & bit != 0 {
                        twice.get_or_insert(FrameNumber::new(number));
                    }
                    self.bits[word] |= bit;
                }
            }
        });
        if !saw_all {
            self.bits.fill(usize::MAX);
        }
        let invariant = "I1: a cached frame is in one slot, once";
        twice.map_or(Ok(()), |frame| Err(Violation::at(invariant, frame)))
    }
}
