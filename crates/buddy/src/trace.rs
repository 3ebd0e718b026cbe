//! Watching from inside: an observer is told of each split, merge, claim and hand-over.
//!
//! # Concepts
//! Split and merge are implicit here: setting and clearing bits is all that happens. What an observer hears is what a
//! buddy with lists would have done for the same change of the same bits:
//! - Taking a block of order k out of a canonical block of order n is n - k **splits**.
//! - Freeing a block of order k that then lies in a canonical block of order n is n - k **merges**.
//! - A **claim** is an area taken whole, with or without its neighbours.
//! - A **hand-over** is frames that move between areas and a CPU slot. On the way out a list-based buddy would have split
//!   what it gives into the pieces that the slot keeps, and on the way home merged each of them.
//!
//! What stays inside a slot changes no area, so nobody hears of it. While others change the same area, the numbers are
//! estimates; with one CPU they are exact.
//!
//! # Costs
//! Nothing when the observer is `()`: every call stands behind [`Observe::IS_USED`]. Frames that leave areas and come home
//! cost the call. For the rest each event looks at the buddies of the block up to [`Observe::LARGEST`], unless
//! [`Observe::HEARS_BLOCKS`] says that nobody cares.

use page_frame::sync::{AtomicUsize, Ordering};
use page_frame::{FrameNumber, FrameRange, Order};

use crate::bitmap::Zone;
use crate::bits::{WORD_ORDER, canonical_blocks};

/// Hears what an allocator does: called from within it, on whatever CPU.
///
/// An observer should neither call the allocator nor panic. Neither breaks memory safety:
/// - A call from an observer is like one from an interrupt. It finds the CPU's slot entered and takes bits instead; it is told
///   to the observer again.
/// - A panic unwinds through the call. Frames that the call had taken return to their areas, and the observer is not told;
///   frames that it was freeing are free. A panic while a run shrinks aborts.
pub trait Observe {
    /// Whether anybody listens; where false, nothing is computed and no method is called.
    const IS_USED: bool = true;
    /// Whether splits, merges, claims and hand-overs are of interest; where false, nothing is computed for them.
    const HEARS_BLOCKS: bool = true;
    /// Whether frees are exact, see [`Exact`](crate::Exact).
    const EXACT_FREES: bool = false;
    /// The largest block of the list-based buddy that is compared with.
    const LARGEST: Order = Order::MAX;

    /// `frames` frames at or behind `start` left the areas, for a user or a CPU slot.
    fn take(&self, start: FrameNumber, frames: usize) {
        let _ = (start, frames);
    }

    /// `frames` frames at or behind `start` came home to the areas.
    fn free(&self, start: FrameNumber, frames: usize) {
        let _ = (start, frames);
    }

    /// `count` blocks were split in two.
    fn split(&self, count: usize) {
        let _ = count;
    }

    /// `count` pairs of buddies became one block.
    fn merge(&self, count: usize) {
        let _ = count;
    }

    /// `areas` areas were claimed whole.
    fn claim(&self, areas: usize) {
        let _ = areas;
    }

    /// `frames` frames went to a CPU slot or came home from one.
    fn hand_over(&self, frames: usize) {
        let _ = frames;
    }
}

/// Nobody listens.
impl Observe for () {
    const IS_USED: bool = false;
}

/// Both listen, the first first.
impl<A: Observe, B: Observe> Observe for (A, B) {
    const IS_USED: bool = A::IS_USED || B::IS_USED;
    const HEARS_BLOCKS: bool = A::HEARS_BLOCKS || B::HEARS_BLOCKS;
    const EXACT_FREES: bool = A::EXACT_FREES || B::EXACT_FREES;
    const LARGEST: Order = if A::HEARS_BLOCKS { A::LARGEST } else { B::LARGEST };

    fn take(&self, start: FrameNumber, frames: usize) {
        self.0.take(start, frames);
        self.1.take(start, frames);
    }

    fn free(&self, start: FrameNumber, frames: usize) {
        self.0.free(start, frames);
        self.1.free(start, frames);
    }

    fn split(&self, count: usize) {
        self.0.split(count);
        self.1.split(count);
    }

    fn merge(&self, count: usize) {
        self.0.merge(count);
        self.1.merge(count);
    }

    fn claim(&self, areas: usize) {
        self.0.claim(areas);
        self.1.claim(areas);
    }

    fn hand_over(&self, frames: usize) {
        self.0.hand_over(frames);
        self.1.hand_over(frames);
    }
}

impl<O: Observe + ?Sized> Observe for &O {
    const IS_USED: bool = O::IS_USED;
    const HEARS_BLOCKS: bool = O::HEARS_BLOCKS;
    const EXACT_FREES: bool = O::EXACT_FREES;
    const LARGEST: Order = O::LARGEST;

    fn take(&self, start: FrameNumber, frames: usize) {
        (**self).take(start, frames);
    }

    fn free(&self, start: FrameNumber, frames: usize) {
        (**self).free(start, frames);
    }

    fn split(&self, count: usize) {
        (**self).split(count);
    }

    fn merge(&self, count: usize) {
        (**self).merge(count);
    }

    fn claim(&self, areas: usize) {
        (**self).claim(areas);
    }

    fn hand_over(&self, frames: usize) {
        (**self).hand_over(frames);
    }
}

/// An observer that counts.
///
/// ```
/// use buddy::{EventCounts, Observe};
/// let counts = EventCounts::new();
/// counts.split(3);
/// assert_eq!((counts.splits(), counts.merges()), (3, 0));
/// ```
#[derive(Debug, Default)]
pub struct EventCounts {
    splits: AtomicUsize,
    merges: AtomicUsize,
    claims: AtomicUsize,
    hand_overs: AtomicUsize,
}

impl EventCounts {
    page_frame::const_unless_loom! {
        /// Counts from zero.
        pub fn new() -> Self {
            Self {
                splits: AtomicUsize::new(0),
                merges: AtomicUsize::new(0),
                claims: AtomicUsize::new(0),
                hand_overs: AtomicUsize::new(0),
            }
        }
    }

    /// Returns how many blocks were split in two.
    pub fn splits(&self) -> usize {
        // Relaxed, here and below: statistics; nothing is published by them.
        self.splits.load(Ordering::Relaxed)
    }

    /// Returns how many pairs of buddies became one block.
    pub fn merges(&self) -> usize {
        self.merges.load(Ordering::Relaxed)
    }

    /// Returns how many areas were claimed whole.
    pub fn claims(&self) -> usize {
        self.claims.load(Ordering::Relaxed)
    }

    /// Returns how many frames went to CPU slots or came home from them.
    pub fn hand_overs(&self) -> usize {
        self.hand_overs.load(Ordering::Relaxed)
    }
}

impl Observe for EventCounts {
    fn split(&self, count: usize) {
        self.splits.fetch_add(count, Ordering::Relaxed);
    }

    fn merge(&self, count: usize) {
        self.merges.fetch_add(count, Ordering::Relaxed);
    }

    fn claim(&self, areas: usize) {
        self.claims.fetch_add(areas, Ordering::Relaxed);
    }

    fn hand_over(&self, frames: usize) {
        self.hand_overs.fetch_add(frames, Ordering::Relaxed);
    }
}

/// What the list-based buddy would have done, seen after the change.
impl Zone<'_> {
    /// Tells `observer` that the block of `order` at `start` was taken.
    pub(crate) fn note_take(&self, observer: &impl Observe, start: FrameNumber, order: Order) {
        note(observer, |observer| observer.take(start, order.pages()));
        note_blocks(observer, |observer| {
            observer.split(self.levels_around(start, order, largest(observer), |_| true));
            let areas = order.pages() / crate::bitmap::area::AREA_FRAMES;
            if areas > 0 {
                observer.claim(areas);
            }
        });
    }

    /// Tells `observer` that all frames of `range` were freed, as the fewest blocks, lowest first.
    pub(crate) fn note_release(&self, observer: &impl Observe, range: FrameRange) {
        note(observer, |observer| observer.free(range.start, range.frames()));
        note_blocks(observer, |observer| {
            let merges = range.blocks().map(|(start, order)| {
                // A buddy of which a part is freed after this block was not free yet.
                let end = start.get() + order.pages();
                let was_free = |buddy: FrameNumber| buddy.get() < end || buddy >= range.end;
                self.levels_around(start, order, largest(observer), was_free)
            });
            observer.merge(merges.sum());
        });
    }

    /// Tells `observer` that the frames set in `frames` of the word at `word` went to a slot, in `pieces` blocks.
    pub(crate) fn note_take_word(
        &self,
        observer: &impl Observe,
        word: FrameNumber,
        frames: usize,
        pieces: usize,
    ) {
        note(observer, |observer| observer.take(word, frames.count_ones() as usize));
        note_blocks(observer, |observer| {
            let taken = self.taken_word(word);
            let before = taken & !frames;
            let around = if before == 0 { self.levels_around_word(observer, word) } else { 0 };
            let blocks = canonical_blocks(taken) + pieces + around;
            observer.split(blocks.saturating_sub(canonical_blocks(before)));
            observer.hand_over(frames.count_ones() as usize);
        });
    }

    /// Tells `observer` that the frames set in `frames` of the word at `word`, which are `pieces` blocks, came home.
    pub(crate) fn note_clear_word(
        &self,
        observer: &impl Observe,
        word: FrameNumber,
        frames: usize,
        pieces: usize,
    ) {
        note(observer, |observer| observer.free(word, frames.count_ones() as usize));
        note_blocks(observer, |observer| {
            let taken = self.taken_word(word);
            let around = if taken == 0 { self.levels_around_word(observer, word) } else { 0 };
            let before = canonical_blocks(taken | frames);
            observer.merge((before + pieces + around).saturating_sub(canonical_blocks(taken)));
            observer.hand_over(frames.count_ones() as usize);
        });
    }

    fn levels_around_word<O: Observe>(&self, observer: &O, word: FrameNumber) -> usize {
        let order = Order::new(WORD_ORDER as u8).expect("a word is smaller than the largest block");
        self.levels_around(word, order, largest(observer), |_| true)
    }

    /// Returns by how many orders the canonical block around the block of `order` at `start` is larger than it, when that
    /// block counts as free itself, and of its buddies only those that `counts` agrees to.
    fn levels_around(
        &self,
        mut start: FrameNumber,
        order: Order,
        largest: Order,
        counts: impl Fn(FrameNumber) -> bool,
    ) -> usize {
        let mut around = order;
        while around < largest {
            let buddy = start.buddy(around);
            if !counts(buddy) || !self.is_free(buddy, around) {
                break;
            }
            start = start.min(buddy);
            around = around.larger().expect("below the largest by the loop's condition");
        }
        around.index() - order.index()
    }
}

/// Calls `tell` if anybody listens.
#[inline(always)]
fn note<O: Observe>(observer: &O, tell: impl FnOnce(&O)) {
    if O::IS_USED {
        tell(observer);
    }
}

/// Calls `tell` if anybody wants to hear of splits, merges, claims and hand-overs.
#[inline(always)]
fn note_blocks<O: Observe>(observer: &O, tell: impl FnOnce(&O)) {
    if O::IS_USED && O::HEARS_BLOCKS {
        tell(observer);
    }
}

/// Returns the order of the largest block that `observer` compares with.
fn largest<O: Observe>(_: &O) -> Order {
    O::LARGEST
}
