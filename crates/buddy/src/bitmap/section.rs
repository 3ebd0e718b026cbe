//! A section: 1 GiB of areas with their entries and hints.
//!
//! # Concepts
//! The **entry** of an area says who may use it: open to all, owned by a CPU slot, being claimed whole, or allocated
//! whole; and of which kind it is. Ownership is affinity, not a right: searches pass owned areas by, but whoever finds
//! nothing else takes from them too.
//!
//! # Invariants
//! - I1: an area whose entry is `WHOLE` belongs to one block; its bits are clear but for strays about to be undone.
//! - I2: an open area with a free frame has a hint, or somebody is between freeing the frame and publishing. Hints may be
//!   stale or double, never missing: every way to an open entry ends in [`publish`](Section::publish) or in
//!   [`open_empty`](Section::open_empty), and so does the free that first makes room in a full word.
//! - I3: an entry leaves `OWNED` only through whoever has the slot that owns the area.
//!
//! # Concurrency
//! Two pairs of locations need one order. All accesses named here are SeqCst, so there is one order of them all:
//! - claim: entry `CLAIMING`, load bits; taker: set bits, load the entry again (the **second look**). One of the two sees the
//!   other and undoes. The owner of an area needs no second look: nobody claims what is owned.
//! - hints: free bits, load entry and hint; searcher: clear hint, sum bits; owner: open the entry, sum bits. One of the two
//!   sets the hint again.
//!
//! Between the two accesses of each side stands `model_fence`, for loom. Nothing is fenced outside it: what changes bits,
//! entry or hint is a read-modify-write or a SeqCst store, and no machine lets a SeqCst load pass those.

use page_frame::sync::{self, AtomicU8, AtomicUsize, Lock, Ordering, model_fence, prefetch};

use crate::bitmap::area::{AREA_FRAMES, AREA_WORDS, Freed, Line};
use crate::bitmap::hints::Hints;
use crate::bitmap::placement::{Kind, Mobility, UNTOUCHED, map_for};
use crate::bits;

/// The areas of a section. Smaller under loom.
pub(crate) const SECTION_AREAS: usize = if sync::MODELLED { 2 } else { 512 };
/// The frames of a section.
pub(crate) const SECTION_FRAMES: usize = SECTION_AREAS * AREA_FRAMES;

/// How many free frames an area may have to count as dense: those of the fullest degree.
const MOST_FREE: usize = AREA_FRAMES / 8;
/// How often a claim looks again at an entry that is still open but not as it was: its density may have changed.
const CLAIM_RETRIES: usize = if sync::MODELLED { 2 } else { 4 };

/// How far ahead of a claim lines are prefetched, in areas.
const AHEAD: usize = crate::frame_pool::MOST_AREAS;

/// The part of an entry that says who may use the area.
const STATE: u8 = 3;
/// The area is open: anybody may take frames.
const OPEN: u8 = 0;
/// Somebody is finding out whether all frames are free.
const CLAIMING: u8 = 1;
/// All of the area belongs to one block.
const WHOLE: u8 = 2;
/// A CPU slot takes its frames from here; others only when they find none elsewhere.
const OWNED: u8 = 3;
/// Where the kind begins in an entry.
const KIND_SHIFT: u32 = 2;
/// The part of an entry that says the kind, before it is shifted.
const KIND: u8 = 15;
/// The area was nearly full when its free frames were last counted, or is owned: what is freed in it may stay at hand. Advice.
const DENSE: u8 = 1 << 6;

const _: () = assert!(crate::bitmap::placement::KINDS <= KIND as usize + 1, "a kind is four bits");

/// A section's metadata.
#[derive(Debug)]
pub(crate) struct Section<'m> {
    pub(crate) lines: &'m [Line; SECTION_AREAS],
    pub(crate) entries: &'m [AtomicU8; SECTION_AREAS],
    pub(crate) hints: Hints<'m>,
    /// Held, only by trying, by whoever claims several areas.
    pub(crate) claims: Lock<()>,
    /// Counts every time frames were taken for a moment and given back, so that a search that saw none free can tell
    /// whether some were only on their way.
    pub(crate) undos: AtomicUsize,
}

/// Taking from an area that is open, or owned by anybody: each take is followed by the second look.
impl Section<'_> {
    /// Takes a block of `order` (below an area's) from area `area`; returns its first frame in the area.
    pub(crate) fn take(&self, area: usize, order: u32) -> Option<usize> {
        if !self.is_open(area) {
            return None;
        }
        let start = self.lines[area].take(order, || self.undone(area))?;
        self.is_open_after_take(area).then_some(start).or_else(|| {
            self.lines[area].free(start, order);
            self.undone(area);
            None
        })
    }

    /// Takes all free frames of one word of `area`: the word's number and the frames as bits.
    pub(crate) fn take_word(&self, area: usize) -> Option<(usize, usize)> {
        if !self.is_open(area) {
            return None;
        }
        let (word, frames) = self.lines[area].take_word()?;
        self.is_open_after_take(area).then_some((word, frames)).or_else(|| {
            self.lines[area].clear(word, frames);
            self.undone(area);
            None
        })
    }

    /// Takes the block of `order` (below an area's) at frame `start` of `area` if it is free.
    pub(crate) fn take_at(&self, area: usize, start: usize, order: u32) -> bool {
        if !self.is_open(area) {
            return false;
        }
        let taken = self.lines[area].take_at(start, order);
        let kept = taken && self.is_open_after_take(area);
        if taken && !kept {
            self.lines[area].free(start, order);
        }
        if !kept {
            self.undone(area);
        }
        kept
    }

    /// Ends every undo: what was set by mistake is clear again, and the area has its hint.
    pub(crate) fn undone(&self, area: usize) {
        // Relaxed: the fence in `publish` orders it after the bits.
        self.undos.fetch_add(1, Ordering::Relaxed);
        self.publish(area);
    }

    /// The second look: whether what was just taken from `area` is ours to keep.
    #[inline]
    fn is_open_after_take(&self, area: usize) -> bool {
        // Our bits before our look at the entry; pairs with the one in `claim`.
        model_fence();
        self.is_open(area)
    }
}

/// Owning an area, and claiming it whole.
impl Section<'_> {
    /// Makes `area` the caller's, of `kind`, if it is open.
    pub(crate) fn acquire(&self, area: usize, kind: Kind) -> bool {
        // Relaxed: the exchange decides.
        let entry = self.entries[area].load(Ordering::Relaxed);
        entry & STATE == OPEN
            && self.entries[area]
                // AcqRel: pairs with the Release in `open` of the owner before.
                .compare_exchange(
                    entry,
                    OWNED | DENSE | (kind.index() as u8) << KIND_SHIFT,
                    Ordering::AcqRel,
                    Ordering::Relaxed,
                )
                .is_ok()
    }

    /// Opens `area`, which the caller owns, and publishes it.
    pub(crate) fn release_owned(&self, area: usize) {
        let kind = self.kind(area);
        self.open_as(area, kind);
    }

    /// Notes that `area`, which had no kind, is used for `kind` from now on.
    pub(crate) fn adopt(&self, area: usize, kind: Kind) {
        // Relaxed: the kind is advice for the next search; who changed the entry meanwhile knows better.
        let entry = self.entries[area].load(Ordering::Relaxed);
        if entry & STATE == OPEN {
            let adopted = OPEN | (kind.index() as u8) << KIND_SHIFT;
            _ = self.entries[area].compare_exchange(
                entry,
                adopted,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
    }

    /// Claims all of `area`; whether all frames were free.
    pub(crate) fn claim(&self, area: usize) -> bool {
        // A look that spares the exchange and the undo; `begin_claim` and `end_claim` decide.
        if !self.lines[area].is_clear() || !self.begin_claim(area) {
            return false;
        }
        // Our entry before our look at the bits; pairs with the one of the second look.
        model_fence();
        self.end_claim(area)
    }

    /// Claims those areas that are free in all their frames, of those that are set in `areas`, where bit 0 stands for `first`;
    /// returns them as bits.
    pub(crate) fn claim_each(&self, first: usize, areas: usize) -> usize {
        let begun = filter_bits(areas, |area| {
            // The next batch is likely to be what follows: its lines are on their way meanwhile.
            prefetch(&self.lines[(first + area + AHEAD) % SECTION_AREAS]);
            self.begin_claim(first + area)
        });
        // As in `claim`, once for all.
        model_fence();
        filter_bits(begun, |area| self.end_claim(first + area))
    }

    /// First half of a claim; `model_fence` and [`end_claim`](Self::end_claim) follow.
    #[inline]
    fn begin_claim(&self, area: usize) -> bool {
        // Relaxed: the exchange decides.
        let mut entry = self.entries[area].load(Ordering::Relaxed);
        for _ in 0..CLAIM_RETRIES {
            if entry & STATE != OPEN {
                return false;
            }
            let claiming = entry & !STATE | CLAIMING;
            // SeqCst: before our look at the bits.
            let exchange = self.entries[area].compare_exchange(
                entry,
                claiming,
                Ordering::SeqCst,
                Ordering::Relaxed,
            );
            match exchange {
                Ok(_) => return true,
                Err(found) => entry = found,
            }
        }
        false
    }

    /// Second half: keeps the area, or opens it again.
    #[inline]
    fn end_claim(&self, area: usize) -> bool {
        if self.lines[area].is_clear() {
            // Release: nothing but our own later accesses follow it; Relaxed would do, and Release costs nothing.
            self.entries[area].store(WHOLE, Ordering::Release);
            return true;
        }
        self.undos.fetch_add(1, Ordering::Relaxed);
        self.open(area);
        false
    }

    /// Turns a whole area into an open one with every frame taken, so that parts of it can be freed; whether that worked.
    ///
    /// Strays of other takers may stand in the way; each is undone soon, and is waited for a bounded time.
    pub(crate) fn split_whole(&self, area: usize) -> bool {
        let split = self.lines[area].take_all();
        if split {
            self.open(area);
        }
        split
    }

    /// Opens a claimed or whole area to all.
    pub(crate) fn open(&self, area: usize) {
        self.open_as(area, self.kind(area));
    }

    fn open_as(&self, area: usize, kind: Kind) {
        let entry = OPEN | (kind.index() as u8) << KIND_SHIFT;
        // SeqCst: before our sum of the bits in `publish`. Release: hands the content over.
        self.entries[area].store(entry, Ordering::SeqCst);
        self.publish(area);
    }

    /// Opens an area that was whole, as one with no frame taken.
    ///
    /// Its bits need no look: a stray that is set in them publishes when it is undone. And the hint needs no fence: it is
    /// set whether or not it was, so who clears it later has read from this, and sees the open entry.
    #[inline]
    pub(crate) fn open_empty(&self, area: usize) {
        // Release: as in `open`.
        self.entries[area].store(OPEN, Ordering::Release);
        self.hints.set(UNTOUCHED, area);
    }
}

/// Freeing, and the hints that follow from it.
impl Section<'_> {
    /// Frees the frames that are set in `frames` of word `word` of `area`.
    #[inline]
    pub(crate) fn clear(&self, area: usize, word: usize, frames: usize) -> Freed {
        self.settle(area, self.lines[area].clear(word, frames))
    }

    /// Frees the block of `order`, below an area's, at frame `start` of `area`.
    #[inline]
    pub(crate) fn free(&self, area: usize, start: usize, order: u32) -> Freed {
        self.settle(area, self.lines[area].free(start, order))
    }

    #[inline]
    fn settle(&self, area: usize, freed: Freed) -> Freed {
        let is_notable = match freed {
            Freed::Notable => true,
            // No fence: should two free the last frames of two words at once and neither see it, the area keeps the hint that it
            // has, as one with frames in use.
            Freed::Emptied => self.lines[area].is_clear(),
            Freed::Already | Freed::Quiet => false,
        };
        if is_notable {
            self.publish(area);
        }
        freed
    }

    /// Sets the hint for what is seen of `area`, if it is open and has a free frame; returns how many free frames were seen.
    pub(crate) fn publish(&self, area: usize) -> usize {
        // What we did to bits, entry or hint before what we read here; pairs with itself and with the one in `claim`.
        model_fence();
        // SeqCst: after what we did.
        let entry = self.entries[area].load(Ordering::SeqCst);
        let free = self.lines[area].free_frames();
        if entry & STATE != OPEN {
            return free;
        }
        if let Some(map) = map_for(kind_of(entry), free) {
            self.hints.ensure(map, area);
        }
        let dense = if free <= MOST_FREE { DENSE } else { 0 };
        if entry & DENSE != dense {
            // Relaxed: advice; who changed the entry meanwhile knows better.
            _ = self.entries[area].compare_exchange(
                entry,
                entry ^ DENSE,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
        free
    }

    /// Takes a hint away that led nowhere, and sets the right one if there is one.
    pub(crate) fn unhint(&self, map: usize, area: usize) {
        self.hints.clear(map, area);
        self.publish(area);
    }

    /// Takes the hint away if it is not the one that [`publish`](Self::publish) would set.
    pub(crate) fn check_hint(&self, map: usize, area: usize) {
        let entry = self.entries[area].load(Ordering::Acquire);
        let right = map_for(kind_of(entry), self.lines[area].free_frames());
        if entry & STATE != OPEN || right != Some(map) {
            self.unhint(map, area);
        }
    }
}

/// Looks.
impl Section<'_> {
    /// Whether what is freed in `area` is better kept by a slot of `mobility` than sent home.
    #[inline(always)]
    pub(crate) fn is_worth_keeping(&self, area: usize, mobility: Mobility) -> bool {
        // Relaxed: advice.
        is_worth_keeping(self.entries[area].load(Ordering::Relaxed), mobility)
    }

    /// Whether frames may be taken from `area` at this moment: it is open, or owned.
    #[inline]
    pub(crate) fn is_open(&self, area: usize) -> bool {
        // SeqCst: as a second look, after our bits.
        matches!(self.entries[area].load(Ordering::SeqCst) & STATE, OPEN | OWNED)
    }

    /// Whether a CPU slot owns `area` at this moment.
    #[inline]
    pub(crate) fn is_owned(&self, area: usize) -> bool {
        // Relaxed: advice.
        self.entries[area].load(Ordering::Relaxed) & STATE == OWNED
    }

    /// Whether all of `area` belongs to one block. For the owner of a frame in it the answer does not change.
    #[inline]
    pub(crate) fn is_whole(&self, area: usize) -> bool {
        self.entries[area].load(Ordering::Acquire) & STATE == WHOLE
    }

    /// Whether somebody is claiming `area` at this moment.
    pub(crate) fn is_being_claimed(&self, area: usize) -> bool {
        self.entries[area].load(Ordering::Acquire) & STATE == CLAIMING
    }

    /// Returns the kind that `area` was last used for.
    #[inline]
    pub(crate) fn kind(&self, area: usize) -> Kind {
        // Relaxed: advice.
        kind_of(self.entries[area].load(Ordering::Relaxed))
    }

    /// Returns the taken bits of `area` as a user sees them: all set when the area is whole.
    pub(crate) fn taken(&self, area: usize) -> [usize; AREA_WORDS] {
        if self.is_whole(area) { [usize::MAX; AREA_WORDS] } else { self.lines[area].load() }
    }
}

/// Returns the bits of `bits` that `keep` agrees to, asked from the lowest on.
#[inline(always)]
fn filter_bits(bits: usize, mut keep: impl FnMut(usize) -> bool) -> usize {
    bits::bits(bits).fold(0, |kept, bit| kept | usize::from(keep(bit)) << bit)
}

/// Whether what is freed in an area with this entry is better kept by a slot than sent home: it is of the slot's mobility, and
/// the area dense or owned. What lies where memory is sparse goes home, so that the area can empty.
#[inline(always)]
fn is_worth_keeping(entry: u8, mobility: Mobility) -> bool {
    // Both questions are one comparison: the kinds of a mobility follow one another.
    let kinds = Kind::all_of(mobility);
    let first = DENSE | (kinds.start as u8) << KIND_SHIFT;
    let beyond = (entry & (DENSE | KIND << KIND_SHIFT)).wrapping_sub(first);
    beyond < (kinds.len() as u8) << KIND_SHIFT
}

#[inline]
fn kind_of(entry: u8) -> Kind {
    Kind::from_index((entry >> KIND_SHIFT & KIND) as usize)
}
