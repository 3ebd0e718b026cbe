//! The bitmap: which frames are taken, by bits that are grouped into areas and sections.
//!
//! # Concepts
//! [`Bitmap`] takes and frees frames by number. It does not use tags, CPU slots, traces or fault
//! hooks. Frames of a section that do not exist are taken for ever.
//!
//! # Concurrency
//! No call waits for a lock. This file takes and frees frames that the caller names. `search.rs`
//! and `claim.rs` choose the frames to take.
//!
//! # Layers
//! `section_table` holds sections. A `section` has the lines of `area`, the entries of `entry` and
//! the maps of `hints`, several maps for each `placement`.

use page_frame::sync::AtomicUsize;
use page_frame::{FrameNumber, FrameRange, Order};

use crate::bitmap::area::Freed;
use crate::bitmap::bits::{
    AREA_FRAMES, AREA_ORDER, AREA_WORDS, SECTION_ORDER, WORD_BITS, mask, words,
};
use crate::bitmap::hints::Bounds;
use crate::bitmap::placement::{Mobility, PLACEMENTS, Placement};
use crate::bitmap::section_table::SectionTable;

mod absent;
pub(crate) mod area;
pub(crate) mod bits;
pub(crate) mod check;
mod claim;
mod entry;
pub(crate) mod hints;
pub(crate) mod home;
pub(crate) mod placement;
mod search;
pub(crate) mod section;
pub(crate) mod section_table;

/// Minimum number of areas for each placement, where areas have placements: a guess.
const MIN_AREAS_PER_PLACEMENT: usize = 4;

/// The taken bits of all frames between the first and the last.
#[derive(Debug)]
pub(crate) struct Bitmap<'m> {
    table: SectionTable<'m>,
    /// Where searches begin.
    bounds: &'m Bounds,
    /// Number of slots that have had a home. A slot that is alone has nobody to avoid.
    slots_with_homes: AtomicUsize,
    /// When more slots than this have homes, searches ignore all homes.
    max_slots_with_homes: usize,
    /// Whether areas have placements: there are enough areas for each.
    has_placements: bool,
    /// Whether a search prefers areas that were used, see [`Mode::Dense`](crate::Mode::Dense).
    fills_used_areas_first: bool,
}

impl<'m> Bitmap<'m> {
    /// Makes the bitmap of the sections in `table`. `bounds` are those of their hints.
    pub(crate) fn new(table: SectionTable<'m>, bounds: &'m Bounds) -> Self {
        let has_placements = table.planned_areas() >= PLACEMENTS * MIN_AREAS_PER_PLACEMENT;
        Self {
            slots_with_homes: AtomicUsize::new(0),
            max_slots_with_homes: home::max_slots(table.planned_areas()),
            has_placements,
            fills_used_areas_first: false,
            table,
            bounds,
        }
    }

    /// Sets whether a search prefers areas that were used.
    pub(crate) fn set_fills_used_areas_first(&mut self, first: bool) {
        self.fills_used_areas_first = first;
    }

    /// Returns the table of sections.
    #[inline(always)]
    pub(crate) fn table(&self) -> &SectionTable<'m> {
        &self.table
    }

    /// Returns the bounds that the hints of all sections share.
    pub(crate) fn bounds(&self) -> &'m Bounds {
        self.bounds
    }

    /// Takes exactly the block of `order` at `start`; returns whether all of it was free.
    pub(crate) fn take_at(&self, start: FrameNumber, order: Order) -> bool {
        let order = u32::from(order.get());
        let Some((at, section)) = self.table.locate(start) else { return false };
        match order {
            AREA_ORDER => section.claim(at.area),
            _ if order < AREA_ORDER => section.take_at(at.area, at.frame, order),
            _ if order <= SECTION_ORDER => {
                section.claim_several(at.area, 1 << (order - AREA_ORDER))
            }
            _ => self.claim_sections(start, 1 << (order - SECTION_ORDER)),
        }
    }

    /// Frees the block of `order`, at most the area's, at `start`; returns whether it was taken.
    #[inline]
    pub(crate) fn free_block(&self, start: FrameNumber, order: Order) -> bool {
        let order = u32::from(order.get());
        self.table.locate(start).is_some_and(|(at, section)| {
            if order < AREA_ORDER {
                return section.free(at.area, at.frame, order) != Freed::Already;
            }
            let was_whole = section.is_whole(at.area);
            if was_whole {
                section.open_empty(at.area);
            }
            was_whole
        })
    }

    /// Prefetches what a free of the whole area at `start` changes.
    #[inline(always)]
    pub(crate) fn prefetch_area(&self, start: FrameNumber) {
        if let Some((at, section)) = self.table.locate(start) {
            section.prefetch_area(at.area);
        }
    }

    /// Frees the frames that are set in `frames` of the word at `word`; returns whether all of them
    /// were taken.
    #[inline(always)]
    pub(crate) fn free_word(&self, word: FrameNumber, frames: usize) -> bool {
        self.table.locate(word).is_some_and(|(at, section)| {
            section.clear(at.area, at.frame / WORD_BITS, frames) != Freed::Already
        })
    }

    /// Frees all frames of `range`, whatever blocks they were in; returns whether all of them were
    /// taken.
    ///
    /// The call opens whole areas. It first splits a whole area of which it frees only a part. When
    /// the split does not succeed within its bounded retries, the call frees no frame and returns
    /// `None`.
    pub(crate) fn free_range(&self, range: FrameRange) -> Option<bool> {
        let parts = || {
            area_parts(range)
                .filter_map(|(start, frames)| self.table.locate(start).map(|at| (at, frames)))
        };
        for ((at, section), frames) in parts() {
            let is_split = frames < AREA_FRAMES && section.is_whole(at.area);
            if is_split && !section.split_whole(at.area) {
                return None;
            }
        }
        let mut all_taken = true;
        for ((at, section), frames) in parts() {
            if section.is_whole(at.area) {
                section.open_empty(at.area);
                continue;
            }
            for (word, bits) in words(at.frame, at.frame + frames) {
                all_taken &= section.clear(at.area, word, bits) != Freed::Already;
            }
        }
        Some(all_taken)
    }

    /// Turns the whole areas of `range`, which the caller owns, into open areas with every frame
    /// taken, so that parts of them can be freed; returns whether it did for all. Where a stray bit
    /// of another taker prevents it, the areas below stay split.
    pub(crate) fn split_areas(&self, range: FrameRange) -> bool {
        area_parts(range).all(|(start, _)| {
            self.table.locate(start).is_some_and(|(at, section)| {
                !section.is_whole(at.area) || section.split_whole(at.area)
            })
        })
    }

    /// Returns whether `frame` is taken, alone or with its whole area.
    pub(crate) fn is_taken(&self, frame: FrameNumber) -> bool {
        let bit = frame.get() % WORD_BITS;
        self.taken_word(FrameNumber::new(frame.get() - bit)) & mask(bit, 0) != 0
    }

    /// Returns the taken bits of the word at `word`: all set in a whole area, and where no section
    /// exists.
    pub(crate) fn taken_word(&self, word: FrameNumber) -> usize {
        let located = self.table.locate(word);
        located.map_or(usize::MAX, |(at, section)| section.taken(at.area)[at.frame / WORD_BITS])
    }

    /// Returns the taken bits of the area of `frame`, as [`taken_word`](Self::taken_word) does.
    pub(crate) fn taken_area(&self, frame: FrameNumber) -> [usize; AREA_WORDS] {
        let located = self.table.locate(frame);
        located.map_or([usize::MAX; AREA_WORDS], |(at, section)| section.taken(at.area))
    }

    /// Returns whether the whole area of `frame` belongs to one block.
    pub(crate) fn is_whole(&self, frame: FrameNumber) -> bool {
        self.table.locate(frame).is_some_and(|(at, section)| section.is_whole(at.area))
    }

    /// Returns whether a CPU slot owns the area of `frame`.
    pub(crate) fn is_owned(&self, frame: FrameNumber) -> bool {
        self.table.locate(frame).is_some_and(|(at, section)| section.is_owned(at.area))
    }

    /// Returns whether the block of `order` at `start` is free in all its frames.
    pub(crate) fn is_free(&self, start: FrameNumber, order: Order) -> bool {
        if !self.table.has(block_range(start, order)) {
            return false;
        }
        if u32::from(order.get()) > SECTION_ORDER {
            return area_parts(block_range(start, order)).all(|(area, _)| {
                let located = self.table.locate(area);
                located.is_some_and(|(at, section)| section.taken(at.area) == [0; AREA_WORDS])
            });
        }
        let order = u32::from(order.get());
        let Some((at, section)) = self.table.locate(start) else { return false };
        if order >= AREA_ORDER {
            let mut areas = at.area..at.area + (1 << (order - AREA_ORDER));
            return areas.all(|area| section.taken(area) == [0; AREA_WORDS]);
        }
        let words = section.taken(at.area);
        let bits = mask(at.frame % WORD_BITS, order);
        let count = (1_usize << order).div_ceil(WORD_BITS);
        words[at.frame / WORD_BITS..][..count].iter().all(|word| word & bits == 0)
    }

    /// Returns whether a CPU slot of `mobility` should keep a block that is freed at `start`.
    #[inline(always)]
    pub(crate) fn is_worth_keeping(&self, start: FrameNumber, mobility: Mobility) -> bool {
        let located = self.table.locate(start);
        located.is_some_and(|(at, section)| section.is_worth_keeping(at.area, mobility))
    }

    /// Returns the mobility that the area of `frame` was last used for.
    pub(crate) fn mobility(&self, frame: FrameNumber) -> Mobility {
        let located = self.table.locate(frame);
        located.map_or(Mobility::default(), |(at, section)| section.placement(at.area).mobility())
    }

    /// Returns the placement of blocks of `order`, below the area's.
    #[inline]
    pub(crate) fn placement_for(&self, order: u32, mobility: Mobility) -> Placement {
        if self.has_placements { Placement::of(order, mobility) } else { Placement::from_index(0) }
    }
}

/// Owned areas, named by their first frame. The caller holds the CPU slot that owns the area.
impl Bitmap<'_> {
    /// Takes all free frames of one word of an owned area; returns the word's first frame, and the
    /// frames as bits.
    pub(crate) fn take_owned_word(&self, area: FrameNumber) -> Option<(FrameNumber, usize)> {
        let (at, section) = self.table.locate(area)?;
        let (word, frames) = section.lines[at.area].take_word()?;
        Some((FrameNumber::new(area.get() + word * WORD_BITS), frames))
    }

    /// Takes up to `limit` blocks of `order`, below a word's, from one word of an owned area;
    /// returns the word's first frame, and the starts of the blocks as bits.
    pub(crate) fn take_owned_runs(
        &self,
        area: FrameNumber,
        order: u32,
        limit: usize,
    ) -> Option<(FrameNumber, usize)> {
        let (at, section) = self.table.locate(area)?;
        let undo = || section.finish_undo(at.area);
        let (word, starts) = section.lines[at.area].take_runs(order, limit, undo)?;
        Some((FrameNumber::new(area.get() + word * WORD_BITS), starts))
    }

    /// Opens an owned area to all CPUs.
    pub(crate) fn release_owned(&self, area: FrameNumber) {
        if let Some((at, section)) = self.table.locate(area) {
            section.release_owned(at.area);
        }
    }
}

/// Cuts a range at the borders of areas; returns the first frame and the number of frames of each
/// part.
pub(crate) fn area_parts(range: FrameRange) -> impl Iterator<Item = (FrameNumber, usize)> {
    let mut next = range.start.get();
    core::iter::from_fn(move || {
        let start = next;
        // The last area of all frame numbers ends with the last of them.
        let end = (start - start % AREA_FRAMES).saturating_add(AREA_FRAMES).min(range.end.get());
        next = end;
        (start < end).then(|| (FrameNumber::new(start), end - start))
    })
}

/// Returns frame `at` of area `area` of the section that begins at `base`.
#[inline]
fn frame(base: usize, area: usize, at: usize) -> FrameNumber {
    FrameNumber::new(base + area * AREA_FRAMES + at)
}

/// Returns the frames of the block of `order` at `start`.
#[inline]
pub(crate) fn block_range(start: FrameNumber, order: Order) -> FrameRange {
    FrameRange::new(start, FrameNumber::new(start.get() + order.pages()))
}
