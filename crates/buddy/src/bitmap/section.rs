//! A section: 1 GiB of areas with their entries and hints.
//!
//! # Concepts
//! The **entry** of an area (`entry.rs`) holds its state: it is open to all CPUs, owned by a
//! CPU slot, being claimed whole, or allocated whole. Ownership is affinity, not a right: searches
//! skip owned areas, but a request that finds nothing else takes from them too.
//!
//! # Invariants
//! - I1: an area whose entry is whole belongs to one block, or has no frames. Its bits are clear,
//!   except for strays about to be undone.
//! - I2: an open area with a free frame has a hint, or a call is between freeing the frame and
//!   publishing. Hints may be stale or double, never missing: every path to an open entry ends in
//!   [`publish`](Section::publish) or in [`open_empty`](Section::open_empty), and so does the free
//!   that first makes room in a full word.
//! - I3: only the holder of the CPU slot that owns an area changes its entry from owned to another
//!   state.
//!
//! # Concurrency
//! Two pairs of locations need one order. All accesses named here are SeqCst, so there is one order
//! of all of them:
//! - claim: store the entry as claiming, load the bits; taker: set bits, load the entry again (the
//!   **second look**). One of the two sees the other and undoes. The owner of an area needs no
//!   second look: owned areas are never claimed.
//! - hints: free bits, load entry and hint; searcher: clear the hint, sum the bits; owner: open the
//!   entry, sum the bits. One of the two sets the hint again.
//!
//! Between the two accesses of each side, `model_fence` is a fence for loom only. Outside loom no
//! fence is needed: bits, entry and hint change by a read-modify-write or a SeqCst store, and no
//! machine lets a later SeqCst load pass those.

use page_frame::sync::{self, AtomicUsize, Lock, Ordering, model_fence, prefetch};

use crate::bitmap::area::{Freed, Line};
use crate::bitmap::bits::{AREA_FRAMES, AREA_WORDS, SECTION_AREAS, set_bits};
use crate::bitmap::entry::{Entries, Entry};
use crate::bitmap::hints::{EMPTIED, EMPTY, HintMaps, Hints, UNUSED, map_for};
use crate::bitmap::home::Homes;
use crate::bitmap::placement::{Mobility, Placement};

/// Maximum number of areas that one refill claims: 16 MiB.
pub(crate) const MAX_CLAIM_BATCH: usize = 8;
/// Maximum number of free frames of a dense area: those of the fullest degree.
const MAX_FREE_IF_DENSE: usize = AREA_FRAMES / 8;
/// Maximum number of attempts to claim an open entry. An attempt fails when the entry's placement
/// or density changes meanwhile.
const CLAIM_RETRIES: usize = if sync::MODELLED { 2 } else { 4 };

/// The lines of a section.
pub(crate) type Lines = [Line; SECTION_AREAS];

/// A section's metadata.
#[derive(Debug)]
pub(crate) struct Section<'m> {
    pub(super) lines: &'m Lines,
    pub(super) entries: &'m Entries,
    pub(super) hints: Hints<'m>,
    pub(super) homes: Homes,
    /// Held during a claim of several areas of the section for one block. A call tries this lock
    /// and never waits for it.
    pub(super) claims: Lock<()>,
    /// Counts takes and claims that were undone. A search that saw no free frame compares the count
    /// before and after, to find out whether some frames were taken only for a moment.
    undos: AtomicUsize,
}

/// Building, before other CPUs can find the section.
impl<'m> Section<'m> {
    /// Makes a section of which all frames are free, and none published.
    pub(crate) fn new(lines: &'m Lines, entries: &'m Entries, hints: Hints<'m>) -> Self {
        let (homes, claims) = (Homes::new(), Lock::new(()));
        Self { lines, entries, hints, homes, claims, undos: AtomicUsize::new(0) }
    }

    /// Returns the sizes of the lines, entries and hint maps of a section, in bytes.
    pub(crate) const fn part_bytes() -> [usize; 3] {
        [size_of::<Lines>(), size_of::<Entries>(), size_of::<HintMaps>()]
    }
}

/// Taking from an area that is open or owned: the second look follows each take.
impl Section<'_> {
    /// Takes a block of `order` (below an area's) from area `area`; returns its first frame in the
    /// area.
    pub(super) fn take(&self, area: usize, order: u32) -> Option<usize> {
        if !self.allows_takes(area) {
            return None;
        }
        let start = self.lines[area].take(order, || self.finish_undo(area))?;
        self.second_look(area).then_some(start).or_else(|| {
            self.undo(area, |line| line.free(start, order));
            None
        })
    }

    /// Takes all free frames of one word of `area`; returns the word's index and the frames as
    /// bits.
    pub(super) fn take_word(&self, area: usize) -> Option<(usize, usize)> {
        if !self.allows_takes(area) {
            return None;
        }
        let (word, frames) = self.lines[area].take_word()?;
        self.second_look(area).then_some((word, frames)).or_else(|| {
            self.undo(area, |line| line.clear(word, frames));
            None
        })
    }

    /// Takes the block of `order` (below an area's) at frame `start` of `area`, if it is free.
    pub(super) fn take_at(&self, area: usize, start: usize, order: u32) -> bool {
        if !self.allows_takes(area) {
            return false;
        }
        let taken = self.lines[area].take_at(start, order);
        if !taken {
            self.finish_undo(area);
            return false;
        }
        let kept = self.second_look(area);
        if !kept {
            self.undo(area, |line| line.free(start, order));
        }
        kept
    }

    /// Frees by `free` what the caller took from `area` and may not keep, and counts the undo.
    fn undo(&self, area: usize, free: impl FnOnce(&Line) -> Freed) {
        free(&self.lines[area]);
        self.finish_undo(area);
    }

    /// Counts an undo and publishes the area. The caller has cleared its stray bits.
    pub(super) fn finish_undo(&self, area: usize) {
        self.count_undo();
        self.publish(area);
    }

    /// Counts a take or claim that was undone.
    pub(super) fn count_undo(&self) {
        // Release: pairs with the Acquire in `undos`: who sees the count sees the frames that were
        // freed before it.
        self.undos.fetch_add(1, Ordering::Release);
    }

    /// Returns how many takes and claims were undone so far.
    pub(super) fn undos(&self) -> usize {
        // Acquire: as in `count_undo`.
        self.undos.load(Ordering::Acquire)
    }

    /// The second look: returns whether the caller keeps the frames that it has just taken from
    /// `area`.
    #[inline]
    fn second_look(&self, area: usize) -> bool {
        // Orders our bits before our load of the entry; pairs with the `model_fence` in `claim`.
        model_fence();
        self.allows_takes(area)
    }
}

/// Owning an area, and claiming it whole.
impl Section<'_> {
    /// Makes the caller's CPU slot the owner of `area`, for blocks of `placement`, if the area is
    /// open.
    pub(super) fn acquire(&self, area: usize, placement: Placement) -> bool {
        // The exchange decides, and sees all that the owner before did until its `open_as`.
        let entry = self.entries.advice(area);
        entry.is_open() && self.entries.exchange(area, entry, Entry::owned(placement)).is_ok()
    }

    /// Opens `area`, which the caller owns, and publishes it.
    pub(super) fn release_owned(&self, area: usize) {
        self.open_as(area, self.placement(area));
    }

    /// Sets the placement of `area`, which had none.
    pub(super) fn set_placement(&self, area: usize, placement: Placement) {
        // The placement is advice for the next search. If the entry changed meanwhile, the later
        // change wins.
        let entry = self.entries.advice(area);
        if entry.is_open() {
            _ = self.entries.exchange(area, entry, Entry::open(placement));
        }
    }

    /// Claims all of `area`; returns whether all frames were free.
    pub(super) fn claim(&self, area: usize) -> bool {
        // A first look that saves the exchange and the undo; `begin_claim` and `end_claim` decide.
        if !self.lines[area].is_clear() || !self.begin_claim(area) {
            return false;
        }
        // Orders our entry before our load of the bits; pairs with the `model_fence` in
        // `second_look`.
        model_fence();
        self.end_claim(area)
    }

    /// Claims those of `areas`, a bit for each from `first` on, of which all frames are free;
    /// returns them as bits.
    pub(super) fn claim_each(&self, first: usize, areas: usize) -> usize {
        let begun = filter_bits(areas, |area| {
            // The next batch probably follows this one, so its lines are fetched early.
            prefetch(&self.lines[(first + area + MAX_CLAIM_BATCH) % SECTION_AREAS]);
            self.begin_claim(first + area)
        });
        // As in `claim`, once for all areas.
        model_fence();
        filter_bits(begun, |area| self.end_claim(first + area))
    }

    /// First half of a claim; `model_fence` and [`end_claim`](Self::end_claim) follow.
    #[inline]
    fn begin_claim(&self, area: usize) -> bool {
        // The exchange decides.
        let mut entry = self.entries.advice(area);
        for _ in 0..CLAIM_RETRIES {
            if !entry.is_open() {
                return false;
            }
            // SeqCst: before our load of the bits.
            match self.entries.exchange(area, entry, entry.claiming()) {
                Ok(()) => return true,
                Err(found) => entry = found,
            }
        }
        false
    }

    /// Second half of a claim: keeps the area, or opens it again.
    #[inline]
    fn end_claim(&self, area: usize) -> bool {
        if self.lines[area].is_clear() {
            // Release: only our own accesses follow it. Relaxed would do, and Release costs
            // nothing.
            self.entries.release(area, Entry::WHOLE);
            return true;
        }
        self.count_undo();
        self.open(area);
        false
    }

    /// Turns a whole area into an open area with every frame taken, so that parts of it can be
    /// freed; returns whether it did.
    ///
    /// Stray bits of other takers may prevent it. They are cleared soon, and the call retries a
    /// bounded number of times.
    pub(super) fn split_whole(&self, area: usize) -> bool {
        let split = self.lines[area].take_all();
        if split {
            self.open(area);
        }
        split
    }

    /// Opens a claimed or whole area to all CPUs.
    fn open(&self, area: usize) {
        self.open_as(area, self.placement(area));
    }

    fn open_as(&self, area: usize, placement: Placement) {
        // SeqCst: before our sum of the bits in `publish`. Release: hands the content over.
        self.entries.store(area, Entry::open(placement));
        self.publish(area);
    }

    /// Prefetches what [`open_empty`](Self::open_empty) changes.
    #[inline(always)]
    pub(super) fn prefetch_area(&self, area: usize) {
        self.entries.prefetch(area);
        self.hints.prefetch(EMPTIED, area);
    }

    /// Opens an area that was whole, with all frames free.
    ///
    /// The call does not check the bits: the undo of a stray bit publishes the area again. The hint
    /// needs no fence: this call sets the hint even if it is set already, so a later clear of it
    /// has read from this store and sees the open entry.
    #[inline]
    pub(super) fn open_empty(&self, area: usize) {
        // Release: as in `open_as`.
        self.entries.release(area, Entry::EMPTY);
        self.hints.set(EMPTIED, area);
    }
}

/// Freeing, and the hints that follow from it.
impl Section<'_> {
    /// Frees the frames that are set in `frames` of word `word` of `area`.
    #[inline]
    pub(crate) fn clear(&self, area: usize, word: usize, frames: usize) -> Freed {
        self.update_hint(area, self.lines[area].clear(word, frames))
    }

    /// Frees the frames as [`clear`](Self::clear) does, but leaves it to the caller to publish the
    /// area.
    #[inline]
    pub(crate) fn clear_unpublished(&self, area: usize, word: usize, frames: usize) -> Freed {
        self.lines[area].clear(word, frames)
    }

    /// Frees the block of `order`, below an area's, at frame `start` of `area`.
    #[inline]
    pub(super) fn free(&self, area: usize, start: usize, order: u32) -> Freed {
        self.update_hint(area, self.lines[area].free(start, order))
    }

    #[inline]
    fn update_hint(&self, area: usize, freed: Freed) -> Freed {
        let is_notable = match freed {
            Freed::Notable => true,
            // No fence: two frees that empty the last two words at once may both miss it. The area
            // then keeps its hint, as an area with frames in use.
            Freed::Emptied => self.lines[area].is_clear(),
            Freed::Already | Freed::Quiet => false,
        };
        if is_notable {
            self.publish(area);
        }
        freed
    }

    /// Sets the hint for `area`, if it is open and has a free frame; returns how many free frames
    /// were seen.
    pub(crate) fn publish(&self, area: usize) -> usize {
        // Orders our change of bits, entry or hint before the loads here; pairs with itself and
        // with the `model_fence` in `claim`.
        model_fence();
        // SeqCst: after our change.
        let entry = self.entries.load(area);
        let free = self.lines[area].free_frames();
        if !entry.is_open() {
            return free;
        }
        if let Some(map) = map_for(entry.placement(), free) {
            self.hints.ensure(map, area);
        }
        let counted = entry.with_dense(free <= MAX_FREE_IF_DENSE);
        if entry != counted {
            // Advice. If the entry changed meanwhile, the later change wins.
            _ = self.entries.exchange(area, entry, counted);
        }
        free
    }

    /// Clears the hints that `area`, which the caller has claimed, is empty.
    pub(super) fn clear_empty_hints(&self, area: usize) {
        EMPTY.for_each(|map| self.hints.clear(map, area));
    }

    /// Clears the hint for `area` in `map`, then publishes the area, which sets the right hint.
    fn replace_hint(&self, map: usize, area: usize) {
        self.hints.clear(map, area);
        self.publish(area);
    }

    /// Clears the hint if [`publish`](Self::publish) would not set it; returns whether it stays.
    pub(super) fn check_hint(&self, map: usize, area: usize) -> bool {
        let entry = self.entries.load(area);
        let right = map_for(entry.placement(), self.lines[area].free_frames());
        let is_right = right == Some(map) || (right, map) == (Some(EMPTIED), UNUSED);
        let stays = entry.is_open() && is_right;
        if !stays {
            self.replace_hint(map, area);
        }
        stays
    }
}

/// Reading the state of an area.
impl Section<'_> {
    /// Returns whether a CPU slot of `mobility` should keep a block that is freed in `area`.
    #[inline(always)]
    pub(super) fn is_worth_keeping(&self, area: usize, mobility: Mobility) -> bool {
        self.entries.advice(area).is_worth_keeping(mobility)
    }

    /// Returns whether frames may be taken from `area` at this moment.
    #[inline]
    fn allows_takes(&self, area: usize) -> bool {
        // SeqCst: as a second look, after our bits.
        self.entries.load(area).allows_takes()
    }

    /// Returns whether a CPU slot owns `area` at this moment.
    #[inline]
    pub(crate) fn is_owned(&self, area: usize) -> bool {
        self.entries.advice(area).is_owned()
    }

    /// Returns whether all of `area` belongs to one block. While the caller owns a frame in it, the
    /// answer does not change.
    #[inline]
    pub(super) fn is_whole(&self, area: usize) -> bool {
        self.entries.load(area).is_whole()
    }

    /// Returns whether `area` is being claimed at this moment.
    pub(super) fn is_being_claimed(&self, area: usize) -> bool {
        self.entries.load(area).is_claiming()
    }

    /// Returns the placement that `area` was last used for.
    #[inline]
    pub(super) fn placement(&self, area: usize) -> Placement {
        self.entries.advice(area).placement()
    }

    /// Returns the taken bits of `area`: all set when the area is whole.
    pub(super) fn taken(&self, area: usize) -> [usize; AREA_WORDS] {
        if self.is_whole(area) { [usize::MAX; AREA_WORDS] } else { self.lines[area].load() }
    }
}

/// Returns the bits of `bits` for which `keep` returns true, called from the lowest on.
#[inline(always)]
fn filter_bits(bits: usize, mut keep: impl FnMut(usize) -> bool) -> usize {
    set_bits(bits).fold(0, |kept, bit| kept | usize::from(keep(bit)) << bit)
}

#[cfg(test)]
#[path = "section_tests.rs"]
mod tests;
