//! Deferred frees: small blocks whose bits stay set until the whole area is reconciled.
//!
//! # Concepts
//! - A free of a small block that the CPU slot does not keep changes no bit. It **defers** the
//!   block: it sets a deferred tag at the block's head, and adds the block's frames to the count of
//!   its area. Both are plain stores.
//! - When the count of an area is full, the CPU whose free filled it **reconciles** the area: it
//!   clears the bits of all deferred blocks, a word in one atomic operation. Random frees then cost
//!   one atomic operation per five or six frees, and frees in the order of allocation one per 60
//!   frees.
//! - An area is also reconciled when its deferred frames may be its last frames in use, so that an
//!   empty area soon has the hint of an empty area. A slot that finds no free frame in its owned
//!   area reconciles the area. A request that would fail reconciles all areas. A refill that needs
//!   another area first reconciles one of the areas that are next in turn.
//!
//! # Invariants
//! - I1: the head of each deferred block has a deferred tag, and the bits of its frames are set.
//! - I2: if an area has such a tag, its count is at or above `PENDING`, or a call is between the
//!   two stores, or the area is being reconciled.
//!
//! # Concurrency
//! - The area's flag lets one call at a time reconcile the area; other calls do not wait. So no
//!   call clears the bits of a block that was reconciled and allocated again meanwhile.
//! - A deferral stores the tag, then the count. A reconciliation clears the count, then loads the
//!   tags. Either it sees the tag, or afterwards the count is at or above `PENDING`.
//! - Two racing increments may count once. The count then under-reports, but it never reads as
//!   empty.
//!
//! # Costs
//! Searches miss fewer than [`RECONCILE_AT`] frames of an area. Reconciling reads the tags of an
//! area, 512 bytes. It costs one atomic operation for each word with a deferred block, and three
//! more.

use page_frame::internals::{DeferredHeads, TagPlace};
use page_frame::sync::{
    self, AtomicU8, AtomicUsize, Ordering, Zeroable, fence, load_eight, model_fence,
    propagation_fence,
};
use page_frame::{FrameNumber, Order};

use crate::bitmap::Bitmap;
use crate::bitmap::area::Freed;
use crate::bitmap::bits::{AREA_FRAMES, AREA_WORDS, WORD_BITS, mask, set_bits};
use crate::frames::tags::Tags;

/// Number of deferred frames at which an area is reconciled: a guess between the cost and the
/// frames that searches miss.
const RECONCILE_AT: usize = if sync::MODELLED { 2 } else { 64 };
/// The largest order that is deferred. A few larger blocks would fill the count, and each is worth
/// its own atomic operation.
const MAX_DEFERRED_ORDER: usize = 2;
/// Maximum number of areas that one turn looks at.
const MAX_AREAS_PER_TURN: usize = 64;

/// Biased count: at or above `PENDING` means that frees are deferred, and the byte overflows at
/// `RECONCILE_AT` deferred frames. The low bits are the number of deferred frames, plus a bias that
/// makes the count full when no other frame is in use.
const PENDING: u8 = u8::MAX - (RECONCILE_AT as u8 - 1);

const _: () = assert!(RECONCILE_AT.is_power_of_two(), "`PENDING` and the number are separate bits");
const _: () = assert!(1 << MAX_DEFERRED_ORDER <= PENDING as usize, "a count overflows only once");

/// Returns whether blocks of `order` are deferred.
#[inline(always)]
pub(crate) fn is_deferrable(order: Order) -> bool {
    order.index() <= MAX_DEFERRED_ORDER
}

/// The deferred frees of all areas of the span. An area is named by its index, counted from the
/// area of the first frame.
#[derive(Debug)]
pub(crate) struct DeferredFrees<'m> {
    /// The number of the first area.
    first_area: usize,
    counts: &'m [AtomicU8],
    flags: &'m [Flags],
    /// The area at which the next turn begins. Advice.
    turn: AtomicUsize,
}

/// A bit for each area that an index of [`WORD_BITS`] areas stands for, set while the area is being
/// reconciled. Alone on its cache line: areas of different words are often those of different CPUs.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Flags(AtomicUsize);

// SAFETY: clause 1: an atomic word, of which zero bytes are a value.
unsafe impl Zeroable for Flags {
    fn zero() -> Self {
        Self(AtomicUsize::new(0))
    }
}

/// The result of a look at the areas that are next in turn to be reconciled.
pub(crate) struct Turn {
    /// The area with deferred frees, if there is one.
    pub(crate) found: Option<usize>,
    next: usize,
}

/// The result of a reconciliation.
pub(crate) struct Reconciled {
    /// The first frame of the area.
    start: FrameNumber,
    /// Number of frames that are free again.
    pub(crate) frames: usize,
    /// A bit for each word in which a frame was free already.
    freed_twice: usize,
    /// For each such word the heads of its blocks.
    heads: [usize; AREA_WORDS],
}

impl Reconciled {
    /// Iterates over the double frees that were found: the lowest block of each word with one.
    pub(crate) fn double_frees(&self) -> impl Iterator<Item = FrameNumber> {
        set_bits(self.freed_twice).map(|word| {
            let block = self.heads[word].trailing_zeros() as usize;
            FrameNumber::new(self.start.get() + word * WORD_BITS + block)
        })
    }
}

/// Counting.
impl<'m> DeferredFrees<'m> {
    /// Makes the counts of areas from number `first_area` on.
    pub(crate) fn new(first_area: usize, counts: &'m [AtomicU8], flags: &'m [Flags]) -> Self {
        Self { first_area, counts, flags, turn: AtomicUsize::new(0) }
    }

    /// Returns the index of the area of `frame`, which lies in the span.
    #[inline(always)]
    pub(crate) fn area_of(&self, frame: FrameNumber) -> usize {
        frame.get() / AREA_FRAMES - self.first_area
    }

    /// Defers the block of `order` at `frame`, whose tag is at `tag`; returns whether its area must
    /// be reconciled.
    ///
    /// # Safety
    /// 1. `frame` lies in the span.
    #[inline(always)]
    pub(crate) unsafe fn defer(&self, frame: FrameNumber, order: Order, tag: TagPlace<'_>) -> bool {
        tag.defer(order);
        // Orders the tag before the count, even when another CPU overwrites the count. Pairs with
        // the swap in `reconcile`.
        propagation_fence();
        let area = self.area_of(frame);
        debug_assert!(area < self.counts.len(), "clause 1");
        // SAFETY: clause 1: there is a count for each area of the span.
        let count = unsafe { self.counts.get_unchecked(area) };
        let frames = 1_u32.wrapping_shl(order.get().into()) as u8;
        // Relaxed: two racing increments may count once, see the header.
        let (sum, is_full) = (count.load(Ordering::Relaxed) | PENDING).overflowing_add(frames);
        // Release, both: after the tag, for a call that sees the count.
        if is_full {
            count.store(u8::MAX, Ordering::Release);
            return true;
        }
        count.store(sum, Ordering::Release);
        false
    }

    /// Counts `frames` frames of the area of `frame` that were freed directly, if the area has
    /// deferred frees; returns whether it must be reconciled.
    #[inline]
    pub(crate) fn count_direct_free(&self, frame: FrameNumber, frames: usize) -> bool {
        let count = &self.counts[self.area_of(frame)];
        // Relaxed: as in `defer`, and no tag was stored. Without `PENDING` nothing may be stored,
        // as a racing deferral could be overwritten.
        let seen = count.load(Ordering::Relaxed);
        if seen & PENDING == 0 {
            return false;
        }
        let sum = usize::from(seen & !PENDING) + frames;
        count.store(sum.min(RECONCILE_AT - 1) as u8 | PENDING, Ordering::Relaxed);
        sum >= RECONCILE_AT
    }

    /// Sets the bias of the area of `frame` to its maximum, so that the next deferral reconciles
    /// the area. The block at `frame` was taken from an empty area, so its free may empty the area
    /// again.
    pub(crate) fn expect_empty(&self, frame: FrameNumber) {
        self.bias(self.area_of(frame), RECONCILE_AT as u8 - 1);
    }

    /// Sets the bias of an area without deferred frees.
    fn bias(&self, area: usize, bias: u8) {
        let count = &self.counts[area];
        // Relaxed: no tag was stored, and a racing deferral has changed the count.
        _ = count.compare_exchange(0, bias, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Returns whether the area of `frame` has deferred frees, by its count.
    pub(crate) fn is_pending_at(&self, frame: FrameNumber) -> bool {
        self.is_pending(self.area_of(frame))
    }

    #[inline]
    fn is_pending(&self, area: usize) -> bool {
        // Acquire: pairs with the Release in `defer`: the tags are visible too.
        self.counts[area].load(Ordering::Acquire) & PENDING != 0
    }

    /// Returns whether the area of `frame` is being reconciled; false for a frame outside the span.
    pub(crate) fn is_reconciling(&self, frame: FrameNumber) -> bool {
        let area = (frame.get() / AREA_FRAMES).wrapping_sub(self.first_area);
        // Acquire: pairs with the Release in `Reconciling::open`: the bits of deferred blocks are
        // clear.
        let flags = self.flags.get(area / WORD_BITS);
        flags.is_some_and(|flags| flags.0.load(Ordering::Acquire) & flag(area) != 0)
    }

    /// Returns the next area from `first` to `end` (excluded) with deferred frees.
    fn next_pending(&self, first: usize, end: usize) -> Option<usize> {
        let mut area = first;
        while area < end {
            if area % 8 == 0 && area + 8 <= self.counts.len() {
                // SAFETY: the `if` has checked that there are eight counts from `area` on. `area`
                // is a multiple of eight, and the first count is aligned to 64 bytes.
                let eight = unsafe { load_eight(self.counts, area) };
                if eight & u64::from_ne_bytes([PENDING; 8]) == 0 {
                    area += 8;
                    continue;
                }
            }
            if self.is_pending(area) {
                return Some(area);
            }
            area += 1;
        }
        None
    }

    /// Returns the next area from `first` on with deferred frees.
    pub(crate) fn next_pending_from(&self, first: usize) -> Option<usize> {
        self.next_pending(first, self.counts.len())
    }

    /// Begins a turn: looks at the next few areas for one with deferred frees.
    pub(crate) fn begin_turn(&self) -> Turn {
        // Relaxed: advice.
        let first = self.turn.load(Ordering::Relaxed);
        let end = (first + MAX_AREAS_PER_TURN).min(self.counts.len());
        let found = self.next_pending(first, end);
        Turn { found, next: found.map_or(end, |area| area + 1) }
    }

    /// Ends a turn: the next one begins after its areas.
    pub(crate) fn end_turn(&self, turn: Turn) {
        // Relaxed: advice.
        let next = if turn.next == self.counts.len() { 0 } else { turn.next };
        self.turn.store(next, Ordering::Relaxed);
    }
}

/// Reconciling.
impl DeferredFrees<'_> {
    /// Frees the deferred blocks of `area`, or returns `None` if another call is doing so. Calls
    /// `on_free` for each word with its first frame, the freed frames as bits, and the number of
    /// blocks.
    #[inline(always)]
    pub(crate) fn reconcile(
        &self,
        area: usize,
        bitmap: &Bitmap<'_>,
        tags: &Tags<'_>,
        on_free: impl Fn(FrameNumber, usize, usize),
    ) -> Option<Reconciled> {
        let flags = &self.flags[area / WORD_BITS].0;
        // SeqCst, though Acquire would be enough: it pairs with the Release in `open`, and sees
        // which tags were cleared.
        if flags.fetch_or(flag(area), Ordering::SeqCst) & flag(area) != 0 {
            return None;
        }
        let start = FrameNumber::new((self.first_area + area) * AREA_FRAMES);
        let guard = Reconciling { deferred: self, bitmap, start, area };
        // SeqCst: before our loads of the tags. Acquire: sees the tags of the blocks that were
        // counted.
        self.counts[area].swap(0, Ordering::SeqCst);
        model_fence();
        let no_heads = [0; AREA_WORDS];
        let mut reconciled = Reconciled { start, frames: 0, freed_twice: 0, heads: no_heads };
        if let Some((at, section)) = bitmap.table().locate(start) {
            // Loads the tags of all words first: these loads overlap, which the atomic operations
            // would prevent.
            let deferred = tags.deferred_heads::<AREA_WORDS>(start);
            // Acquire: pairs with the Release of each tag; the content of the blocks is handed over
            // with their bits.
            fence(Ordering::Acquire);
            for (index, heads) in deferred.iter().enumerate().filter(|(_, word)| word.heads != 0) {
                let word = FrameNumber::new(start.get() + index * WORD_BITS);
                let freed = clear_tags(tags, word, *heads);
                reconciled.frames += freed.count_ones() as usize;
                if section.clear_unpublished(at.area, index, freed) == Freed::Already {
                    reconciled.freed_twice |= 1 << index;
                    reconciled.heads[index] = heads.heads;
                }
                on_free(word, freed, heads.heads.count_ones() as usize);
            }
            let taken = AREA_FRAMES - section.publish(at.area);
            if taken < RECONCILE_AT {
                self.bias(area, (RECONCILE_AT - taken).min(RECONCILE_AT - 1) as u8);
            }
        }
        guard.end();
        Some(reconciled)
    }
}

#[cfg(test)]
impl DeferredFrees<'_> {
    /// Sets the flag of the area of `frame`, as if a reconciliation never ended.
    pub(crate) fn set_reconciling(&self, frame: FrameNumber) {
        let area = self.area_of(frame);
        self.flags[area / WORD_BITS].0.fetch_or(flag(area), Ordering::Relaxed);
    }
}

/// Returns the bit of `area` in its word of flags.
#[inline]
const fn flag(area: usize) -> usize {
    1 << (area % WORD_BITS)
}

/// Clears the tags of the deferred blocks in the word at `word`; returns their frames as bits.
#[inline(always)]
fn clear_tags(tags: &Tags<'_>, word: FrameNumber, heads: DeferredHeads) -> usize {
    let mut frames = heads.heads;
    if !heads.are_single {
        for bit in set_bits(heads.heads) {
            let order = tags.get(FrameNumber::new(word.get() + bit)).as_deferred();
            frames |= mask(bit, order.map_or(0, |order| order.get().into()));
        }
    }
    // The tags before the bits: once the bits are clear, the frames may get other tags.
    tags.clear_word(word, heads.heads);
    frames
}

/// An area that the current call reconciles.
struct Reconciling<'d, 'b> {
    deferred: &'d DeferredFrees<'d>,
    bitmap: &'d Bitmap<'b>,
    /// The area's first frame.
    start: FrameNumber,
    area: usize,
}

impl Reconciling<'_, '_> {
    /// Ends the reconciliation: no free that was counted before it is still deferred.
    #[inline(always)]
    fn end(self) {
        self.open();
        core::mem::forget(self);
    }

    /// Lets other calls reconcile the area.
    #[inline(always)]
    fn open(&self) {
        // Release: pairs with the read-modify-write that set the flag.
        let flags = &self.deferred.flags[self.area / WORD_BITS].0;
        flags.fetch_and(!flag(self.area), Ordering::Release);
    }
}

/// Runs when the trace panicked: blocks may still be deferred, with deferred tags (I1).
impl Drop for Reconciling<'_, '_> {
    #[cold]
    fn drop(&mut self) {
        if let Some((at, section)) = self.bitmap.table().locate(self.start) {
            section.publish(at.area);
        }
        // I2. Relaxed: the flag below publishes it.
        self.deferred.counts[self.area].fetch_or(PENDING, Ordering::Relaxed);
        self.open();
    }
}

#[cfg(test)]
#[path = "deferred_free_tests.rs"]
mod tests;
