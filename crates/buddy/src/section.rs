//! A section: 1 GiB of areas with their entries and hints.
//!
//! # Concepts
//! - The **entry** of an area says who may use it: open to all, being claimed whole, or allocated whole.
//! - A **hint** is a bit that says "look at this area". There is a bitmap for each of four degrees of fullness, so that a
//!   search finds the fullest areas first and keeps empty ones whole.
//!
//! # Invariants
//! - I1: an area whose entry is `WHOLE` belongs to one block; its bits are clear but for strays about to be undone.
//! - I2: an open area with a free frame has a hint, or somebody is between freeing the frame and publishing. Hints may be
//!   stale or double, never missing: every way to an open entry ends in [`publish`](Section::publish), and so does the
//!   free that first makes room in a full word.
//!
//! # Concurrency
//! Two pairs of locations need one order, each through a SeqCst fence on both sides:
//! - claim: entry `CLAIMING`, fence, load bits; taker: set bits, fence, load the entry again (the **second look**). One of
//!   the two sees the other and undoes.
//! - hints: free bits, fence, load hint; searcher: clear hint, fence, sum bits. One of the two sets the hint again.

use page_frame::sync::{self, AtomicU32, AtomicUsize, Lock, Ordering, fence};

use crate::area::{AREA_FRAMES, AREA_ORDER, AREA_WORDS, Freed, Line};
use crate::run::WORD_BITS;

/// The areas of a section. Smaller under loom.
pub(crate) const SECTION_AREAS: usize = if sync::MODELLED { 2 } else { 512 };
/// The frames of a section.
pub(crate) const SECTION_FRAMES: usize = SECTION_AREAS * AREA_FRAMES;
/// Degrees of fullness, fullest first; the last is for areas with no frame taken.
pub(crate) const BUCKETS: usize = 4;
/// Words of one hint bitmap.
pub(crate) const HINT_WORDS: usize = SECTION_AREAS.div_ceil(WORD_BITS);
/// The bucket of areas with no frame taken.
const UNTOUCHED: usize = BUCKETS - 1;

/// The area is open: anybody may take frames.
const OPEN: u32 = 0;
/// Somebody is finding out whether all frames are free.
const CLAIMING: u32 = 1;
/// All of the area belongs to one block.
const WHOLE: u32 = 2;

/// A section's metadata.
#[derive(Debug)]
pub(crate) struct Section<'m> {
    pub(crate) lines: &'m [Line],
    pub(crate) entries: &'m [AtomicU32],
    pub(crate) hints: &'m [[AtomicUsize; HINT_WORDS]],
    /// Held, only by trying, by whoever claims several areas.
    pub(crate) claims: Lock<()>,
    /// Counts every time frames were taken for a moment and given back, so that a search that saw none free can tell
    /// whether some were only on their way.
    pub(crate) undos: AtomicUsize,
}

impl Section<'_> {
    /// Takes a block of `order` (below an area's) from area `area`; returns its first frame in the area.
    pub(crate) fn take(&self, area: usize, order: u32) -> Option<usize> {
        if self.entries[area].load(Ordering::Relaxed) != OPEN {
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
        if self.entries[area].load(Ordering::Relaxed) != OPEN {
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
        if self.entries[area].load(Ordering::Relaxed) != OPEN {
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
    fn undone(&self, area: usize) {
        // Relaxed: the fence in `publish` orders it after the bits.
        self.undos.fetch_add(1, Ordering::Relaxed);
        self.publish(area);
    }

    /// The second look: whether what was just taken from `area` is ours to keep.
    fn is_open_after_take(&self, area: usize) -> bool {
        // SeqCst: our bits before our look at the entry; pairs with the fence in `claim`.
        fence(Ordering::SeqCst);
        // Acquire: pairs with the Release of the entry in `open`.
        self.entries[area].load(Ordering::Acquire) == OPEN
    }

    /// Frees the frames that are set in `frames` of word `word` of `area`.
    pub(crate) fn clear(&self, area: usize, word: usize, frames: usize) -> Freed {
        let freed = self.lines[area].clear(word, frames);
        if freed == Freed::Notable {
            self.publish(area);
        }
        freed
    }

    /// Claims all of `area`; whether all frames were free.
    pub(crate) fn claim(&self, area: usize) -> bool {
        // Relaxed: a look that spares the exchange and the undo; `claim` decides below.
        let looks_free = self.entries[area].load(Ordering::Relaxed) == OPEN;
        if !looks_free || !self.lines[area].is_clear() {
            return false;
        }
        let claimed = self.entries[area].compare_exchange(
            OPEN,
            CLAIMING,
            Ordering::SeqCst,
            Ordering::Relaxed,
        );
        if claimed.is_err() {
            return false;
        }
        // SeqCst: our entry before our look at the bits; pairs with the fence of the second look.
        fence(Ordering::SeqCst);
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
        // Release: pairs with the Acquire of `is_open_after_take`; hands the content over.
        self.entries[area].store(OPEN, Ordering::Release);
        self.publish(area);
    }

    /// Sets the hint for what is seen of `area`, if it is open and has a free frame.
    pub(crate) fn publish(&self, area: usize) {
        // SeqCst: what we did to bits or entry before what we read here; pairs with `unhint` and the claim's fence.
        fence(Ordering::SeqCst);
        if self.entries[area].load(Ordering::Acquire) != OPEN {
            return;
        }
        if let Some(bucket) = bucket(self.lines[area].free_frames()) {
            let (word, bit) = (area / WORD_BITS, 1 << (area % WORD_BITS));
            let hint = &self.hints[bucket][word];
            // Relaxed: the fences order it, and a hint carries nothing.
            if hint.load(Ordering::Relaxed) & bit == 0 {
                hint.fetch_or(bit, Ordering::Relaxed);
            }
        }
    }

    /// Takes a hint away that led nowhere, and sets the right one if there is one.
    fn unhint(&self, bucket: usize, area: usize) {
        let bit = 1 << (area % WORD_BITS);
        self.hints[bucket][area / WORD_BITS].fetch_and(!bit, Ordering::Relaxed);
        self.publish(area);
    }

    /// Calls `take` on hinted areas, fullest first and then lowest first, until it returns something.
    pub(crate) fn search<R>(
        &self,
        order: u32,
        mut take: impl FnMut(usize) -> Option<R>,
    ) -> Option<R> {
        let fullest = if order >= AREA_ORDER { UNTOUCHED } else { 0 };
        (fullest..BUCKETS).find_map(|bucket| {
            (0..HINT_WORDS).find_map(|word| {
                // Relaxed: a hint; the area decides.
                let mut hinted = self.hints[bucket][word].load(Ordering::Relaxed);
                while hinted != 0 {
                    let area = word * WORD_BITS + hinted.trailing_zeros() as usize;
                    hinted &= hinted - 1;
                    let got = take(area);
                    if self::bucket(self.lines[area].free_frames()) != Some(bucket)
                        || !self.is_open(area)
                    {
                        self.unhint(bucket, area);
                    }
                    if got.is_some() {
                        return got;
                    }
                }
                None
            })
        })
    }

    /// Whether `area` is open at this moment.
    pub(crate) fn is_open(&self, area: usize) -> bool {
        self.entries[area].load(Ordering::Acquire) == OPEN
    }

    /// Whether all of `area` belongs to one block. For the owner of a frame in it the answer does not change.
    pub(crate) fn is_whole(&self, area: usize) -> bool {
        self.entries[area].load(Ordering::Acquire) == WHOLE
    }

    /// Whether somebody is claiming `area` at this moment.
    pub(crate) fn is_being_claimed(&self, area: usize) -> bool {
        self.entries[area].load(Ordering::Acquire) == CLAIMING
    }

    /// Whether some bitmap has a hint for `area`.
    pub(crate) fn is_hinted(&self, area: usize) -> bool {
        let bit = 1 << (area % WORD_BITS);
        self.hints.iter().any(|map| map[area / WORD_BITS].load(Ordering::Relaxed) & bit != 0)
    }

    /// Returns the taken bits of `area` as a user sees them: all set when the area is whole.
    pub(crate) fn taken(&self, area: usize) -> [usize; AREA_WORDS] {
        if self.is_whole(area) { [usize::MAX; AREA_WORDS] } else { self.lines[area].load() }
    }
}

/// Returns the degree of fullness of an area with `free` free frames, or `None` when it is full.
fn bucket(free: usize) -> Option<usize> {
    match free {
        0 => None,
        AREA_FRAMES => Some(UNTOUCHED),
        free if free >= AREA_FRAMES / 2 => Some(2),
        free if free >= AREA_FRAMES / 8 => Some(1),
        _ => Some(0),
    }
}
