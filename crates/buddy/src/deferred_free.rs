//! Blocks that are left where they were freed, and brought home an area at a time.
//!
//! # Concepts
//! - A free of a small block that the slot has no use for changes no bit. It **leaves** the block: says so in the tag of its
//!   head, and counts it for its area. Both are plain stores.
//! - When much was left in an area, whoever did it last **gathers** it: all that was left becomes clear bits, a word in one
//!   atomic operation. Frees at random cost an atomic operation in five or six in this way, and those in order one in 60.
//! - An area is also gathered when nothing else may be in use in it, so that one that is free as a whole is soon known to be;
//!   when its owner finds nothing in it; when it is its turn, as slots acquire areas; and before anybody is told that memory
//!   ran out.
//!
//! # Invariants
//! - I1: the head of each block that was left has a tag that says so, and the bits of its frames are set.
//! - I2: where such a tag is, the area's count is `SOME`, or somebody is between the two, or is gathering.
//!
//! # Concurrency
//! - One at a time gathers an area: the flag is only ever tried. So nobody brings home what was brought home and handed out
//!   again meanwhile.
//! - Leaving is: the tag, then the count. Gathering is: the count to nothing, then a look at the tags. Whoever gathers sees
//!   the tag, or the count says afterwards that something was left.
//! - Of two that count at once one may be lost, and then more is left than was thought; never that something was.
//!
//! # Costs
//! At most [`MOST`] frames of an area, less one, are out of sight of searches, while none is lost from counts. Gathering reads
//! the tags of an area, 512 bytes, and has an atomic operation for each word in which something was left, and three.

use page_frame::sync::{
    self, AtomicU8, AtomicUsize, Ordering, fence, load_eight, model_fence, propagation_fence,
};
use page_frame::{Cpu, DeferredHeads, FrameNumber, Order, TagPlace};

use crate::bitmap::Zone;
use crate::bitmap::area::{AREA_FRAMES, AREA_WORDS, Freed};
use crate::bits::{WORD_BITS, bits, mask};
use crate::{FramePool, Observe};

/// After how many frames left in it an area is gathered: a guess between the cost of gathering and what it keeps out of sight.
const MOST: usize = if sync::MODELLED { 2 } else { 64 };
/// The largest order of blocks that are left: a few of a larger one would fill the count, and each pays for its atomic
/// operation.
const LARGEST: usize = 2;
/// How many areas one turn looks at.
const LOOKS: usize = 64;

/// What a count is above since something was left: it runs over when `MOST` frames were. The rest is how many were, and as many
/// more as bring it to `MOST` when no others are in use.
const SOME: u8 = u8::MAX - (MOST as u8 - 1);

const _: () = assert!(MOST.is_power_of_two(), "`SOME` and the rest are bits of their own");
const _: () = assert!(1 << LARGEST <= SOME as usize, "a count runs over once");

/// Returns the bit of the area of `entry` in its word.
#[inline]
const fn flag(entry: usize) -> usize {
    1 << (entry % WORD_BITS)
}

/// Returns where the first of the blocks of a word begins, given where all begin and all of their frames, and its order.
#[cold]
fn lowest_block((heads, frames): (usize, usize)) -> (usize, Order) {
    let start = heads.trailing_zeros();
    let run = (frames >> start).trailing_ones();
    let next = (heads & heads.wrapping_sub(1)).trailing_zeros();
    let order = Order::new(run.min(next - start).ilog2() as u8);
    (start as usize, order.expect("a block that was left is small"))
}

/// What was left in each area of a zone's span.
#[derive(Debug)]
pub(crate) struct Left<'m> {
    /// The number of the area that the first entry of each stands for.
    pub(crate) first_area: usize,
    pub(crate) counts: &'m [AtomicU8],
    /// A bit for each area, set while somebody gathers it.
    pub(crate) gathering: &'m [AtomicUsize],
    /// Whose turn it is. Advice.
    pub(crate) turn: AtomicUsize,
}

impl Left<'_> {
    /// Returns the entry of the area of `frame`, which is one of the zone's.
    #[inline(always)]
    fn entry(&self, frame: FrameNumber) -> usize {
        frame.get() / AREA_FRAMES - self.first_area
    }

    /// Counts `frames` more that were left in an area; false, and nothing is counted, when it is time to gather.
    ///
    /// # Safety
    /// 1. The zone's span has the area.
    #[inline(always)]
    unsafe fn count(&self, entry: usize, frames: u8) -> bool {
        debug_assert!(entry < self.counts.len(), "clause 1");
        // SAFETY: clause 1: there is a count for each area of the span.
        let place = unsafe { self.counts.get_unchecked(entry) };
        // Relaxed: of two at once one may be lost, see above.
        let (now, is_full) = (place.load(Ordering::Relaxed) | SOME).overflowing_add(frames);
        if !is_full {
            // Release: after the tag, for whoever sees the count.
            place.store(now, Ordering::Release);
        }
        !is_full
    }

    /// Counts `frames` that were in use in the area of `frame` and came home by themselves, if something was left there; whether it
    /// is time to gather.
    #[inline]
    pub(crate) fn note(&self, frame: FrameNumber, frames: usize) -> bool {
        let place = &self.counts[self.entry(frame)];
        // Relaxed: as above, and no tag came before. Without `SOME` nothing may be stored, as that may be overwritten.
        let count = place.load(Ordering::Relaxed);
        if count & SOME == 0 {
            return false;
        }
        let now = usize::from(count & !SOME) + frames;
        place.store(now.min(MOST - 1) as u8 | SOME, Ordering::Relaxed);
        now >= MOST
    }

    /// Notes that `frame` is the first of its area that is in use, or one of few: what is left there may be all.
    pub(crate) fn expect(&self, frame: FrameNumber) {
        let count = &self.counts[self.entry(frame)];
        // Relaxed: no tag came before, and who left something meanwhile has changed the count.
        _ = count.compare_exchange(0, MOST as u8 - 1, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether something was left in the area of `frame`, as far as its count knows.
    pub(crate) fn has_some_at(&self, frame: FrameNumber) -> bool {
        self.has_some(self.entry(frame))
    }

    #[inline]
    fn has_some(&self, entry: usize) -> bool {
        // Acquire: pairs with the Release in `count`: the tags are there too.
        self.counts[entry].load(Ordering::Acquire) & SOME != 0
    }

    /// Whether somebody is gathering the area of `frame`; nobody is beyond the zone's span.
    pub(crate) fn is_being_gathered(&self, frame: FrameNumber) -> bool {
        let entry = (frame.get() / AREA_FRAMES).wrapping_sub(self.first_area);
        // Acquire: pairs with the Release at the end of `gather`: what was gathered is clear.
        let bits = self.gathering.get(entry / WORD_BITS);
        bits.is_some_and(|bits| bits.load(Ordering::Acquire) & flag(entry) != 0)
    }

    /// Returns the entry of the next area from `first` to `end` in which something was left.
    fn next_with_some(&self, first: usize, end: usize) -> Option<usize> {
        let mut entry = first;
        while entry < end {
            if entry % 8 == 0 && entry + 8 <= self.counts.len() {
                // SAFETY: there are eight counts from here on, and the first of all is aligned to 64.
                let eight = unsafe { load_eight(self.counts, entry) };
                if eight & u64::from_ne_bytes([SOME; 8]) == 0 {
                    entry += 8;
                    continue;
                }
            }
            if self.has_some(entry) {
                return Some(entry);
            }
            entry += 1;
        }
        None
    }
}

/// An area whose deferred frees the current call reconciles.
struct Reconciling<'z, 'm> {
    zone: &'z Zone<'m>,
    /// The area's first frame.
    start: FrameNumber,
    entry: usize,
}

impl Reconciling<'_, '_> {
    /// Ends it: no free that was counted before it is still deferred.
    #[inline(always)]
    fn end(self) {
        self.open();
        core::mem::forget(self);
    }

    /// Lets other calls reconcile the area.
    #[inline(always)]
    fn open(&self) {
        // Release: pairs with the read-modify-write that set the flag.
        let flags = &self.zone.left.gathering[self.entry / WORD_BITS];
        flags.fetch_and(!flag(self.entry), Ordering::Release);
    }
}

/// The observer panicked: deferred frees, with tags that say so (I1), may remain.
impl Drop for Reconciling<'_, '_> {
    #[cold]
    fn drop(&mut self) {
        if let Some((place, section)) = self.zone.place(self.start) {
            section.publish(place.area);
        }
        // I2. Relaxed: the flag below publishes it.
        self.zone.left.counts[self.entry].fetch_or(SOME, Ordering::Relaxed);
        self.open();
    }
}

impl<C: Cpu, O: Observe> FramePool<'_, C, O> {
    /// Leaves the block of `order` at `frame`, whose tag is at `tag`; whether blocks of that order are left.
    #[inline(always)]
    pub(crate) fn leave(&self, frame: FrameNumber, order: Order, tag: TagPlace<'_>) -> bool {
        let is_small = order.index() <= LARGEST;
        if is_small {
            self.leave_small(frame, order, tag);
        }
        is_small
    }

    #[inline(never)]
    fn leave_small(&self, frame: FrameNumber, order: Order, tag: TagPlace<'_>) {
        tag.defer(order);
        // The tag before the count, also for who overwrites the count; pairs with the swap in `gather`.
        propagation_fence();
        let entry = self.zone.left.entry(frame);
        // SAFETY: the frame has a tag, and the map is that of the zone's span.
        if !unsafe { self.zone.left.count(entry, 1_u32.wrapping_shl(order.get().into()) as u8) } {
            // Release: as in `count`, should somebody else be gathering.
            self.zone.left.counts[entry].store(u8::MAX, Ordering::Release);
            self.gather(entry);
        }
    }

    /// Notes that `frames` frames of the area of `frame` have come home by themselves, and gathers the area if that leaves nothing
    /// else in use.
    #[inline]
    pub(crate) fn note_home(&self, frame: FrameNumber, frames: usize) {
        if self.zone.left.note(frame, frames) {
            self.gather(self.zone.left.entry(frame));
        }
    }

    /// Brings home what was left in the area of `frame`; returns how many frames.
    pub(crate) fn gather_area(&self, frame: FrameNumber) -> usize {
        if self.zone.left.has_some_at(frame) { self.gather(self.zone.left.entry(frame)) } else { 0 }
    }

    /// Brings home what was left in the area whose turn it is: of the next few the first in which there is something.
    pub(crate) fn gather_next(&self) {
        let left = &self.zone.left;
        // Relaxed, here and below: advice.
        let first = left.turn.load(Ordering::Relaxed);
        let end = (first + LOOKS).min(left.counts.len());
        let found = left.next_with_some(first, end);
        if let Some(entry) = found {
            self.gather(entry);
        }
        let next = found.map_or(end, |entry| entry + 1);
        left.turn.store(if next == left.counts.len() { 0 } else { next }, Ordering::Relaxed);
    }

    /// Brings home what was left, area by area, until there are `target` frames; returns how many.
    pub(crate) fn gather_until(&self, target: usize) -> usize {
        let left = &self.zone.left;
        let (mut frames, mut next) = (0, 0);
        while frames < target {
            let Some(entry) = left.next_with_some(next, left.counts.len()) else { break };
            frames += self.gather(entry);
            next = entry + 1;
        }
        frames
    }

    /// Brings home what was left in the area of `entry`, unless somebody is doing so; returns how many frames.
    #[cold]
    #[inline(never)]
    fn gather(&self, entry: usize) -> usize {
        let left = &self.zone.left;
        // SeqCst: Acquire is what it needs: it pairs with the Release below, and sees which tags were cleared.
        let flags = &left.gathering[entry / WORD_BITS];
        if flags.fetch_or(flag(entry), Ordering::SeqCst) & flag(entry) != 0 {
            return 0;
        }
        let start = FrameNumber::new((left.first_area + entry) * AREA_FRAMES);
        let guard = Reconciling { zone: &self.zone, start, entry };
        // SeqCst: before our look at the tags. Acquire: sees the tags of what was counted.
        left.counts[entry].swap(0, Ordering::SeqCst);
        model_fence();
        let mut frames = 0;
        // The words in which a frame was free already, a bit each, and what was brought home in each.
        let (mut twice, mut homes) = (0, [(0, 0); AREA_WORDS]);
        if let Some((place, section)) = self.zone.place(start) {
            // All of them first: the loads overlap, which the atomic operations would prevent.
            let deferred_among = self.map.deferred_among::<AREA_WORDS>(self.map_index(start));
            // Acquire: pairs with the Release of each tag; what the blocks hold is handed over with their bits.
            fence(Ordering::Acquire);
            for (at, left) in deferred_among.iter().enumerate() {
                if left.heads == 0 {
                    continue;
                }
                let word = FrameNumber::new(start.get() + at * WORD_BITS);
                let freed = self.clear_left(word, *left);
                frames += freed.count_ones() as usize;
                if section.lines[place.area].clear(at, freed) == Freed::Already {
                    twice |= 1 << at;
                    homes[at] = (left.heads, freed);
                }
                let blocks = left.heads.count_ones() as usize;
                self.zone.note_clear_word(&self.observer, word, freed, blocks);
            }
            let taken = AREA_FRAMES - section.publish(place.area);
            if taken < MOST {
                // Relaxed: a count without tags; who left something meanwhile has changed it.
                _ = left.counts[entry].compare_exchange(
                    0,
                    (MOST - taken).min(MOST - 1) as u8,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
            }
        }
        guard.end();
        // Last of all: who hears of it may panic.
        for at in bits(twice) {
            let (block, order) = lowest_block(homes[at]);
            self.report_double_free(FrameNumber::new(start.get() + at * WORD_BITS + block), order);
        }
        frames
    }

    /// Clears the tags of the blocks that were left in the word at `word`; returns their frames as bits.
    #[inline(always)]
    fn clear_left(&self, word: FrameNumber, left: DeferredHeads) -> usize {
        let mut frames = left.heads;
        if !left.are_single {
            for bit in bits(left.heads) {
                let order = self.frame_tag(FrameNumber::new(word.get() + bit)).as_deferred();
                frames |= mask(bit, order.map_or(0, |order| order.get().into()));
            }
        }
        // Before the bits: once they are clear, the frames may have other tags.
        self.map.clear_tags_among(self.map_index(word), left.heads);
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_block_of_a_word_ends_where_the_next_begins_or_frames_do() {
        let of = |heads, frames| {
            let (start, order) = lowest_block((heads, frames));
            (start, order.get())
        };
        assert_eq!(of(0b1, 0b1), (0, 0));
        assert_eq!(of(0b11_0000, 0b11_0000), (4, 0), "two single frames");
        assert_eq!(of(0b1_0000, 0b11_0000), (4, 1));
        assert_eq!(of(0b1_0001_0000, 0b11_1111_0000), (4, 2), "and two frames behind it");
        assert_eq!(of(1 << 60, 0b1111 << 60), (60, 2), "at the end of the word");
    }
}
