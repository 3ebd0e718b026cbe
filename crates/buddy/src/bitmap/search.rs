//! Searches: which area a block is taken from.
//!
//! # Policy
//! The lowest section with a hint, in it the fullest degree, in that the lowest area; first areas of the request's kind,
//! then areas with no frame taken, then those two again from the lowest section on, then the other kinds (`kind.rs`).
//!
//! # Costs
//! Each of these steps looks at no more than [`LOOKS`] areas that turn out to have no fitting run, and reads at most
//! three cache lines of hints in each section. What they miss the last resort finds (`claim.rs`).
//!
//! # Concurrency
//! For each kind a **bound** says below which section no hint is expected, so that searches do not begin with sections
//! that are full. A bound is advice: whoever sets a hint below lowers it, and a search that found nothing above begins
//! again from the lowest section.

use core::ops::Range;

use page_frame::sync::{AtomicUsize, Ordering};
use page_frame::{FrameNumber, Order};

use crate::bitmap::Zone;
use crate::bitmap::area::{AREA_FRAMES, AREA_ORDER};
use crate::bitmap::hints::HINT_WORDS;
use crate::bitmap::placement::{KINDS, Kind, Mobility, UNTOUCHED, begins_kind};
use crate::bitmap::section::{SECTION_FRAMES, Section};
use crate::bits::{WORD_BITS, WORD_ORDER, bits, free_runs, lowest};

/// How many areas without a fitting run one step of a search looks at: a guess.
const LOOKS: usize = 8;

/// For each kind, and for empty areas, the lowest section where a hint is expected.
#[derive(Debug)]
pub(crate) struct Bounds([AtomicUsize; KINDS + 1]);

impl Bounds {
    pub(crate) fn new() -> Self {
        Self(core::array::from_fn(|_| AtomicUsize::new(0)))
    }

    /// Returns the bound for the kind that `map` is of.
    #[inline]
    fn of(&self, map: usize) -> &AtomicUsize {
        &self.0[if map == UNTOUCHED { KINDS } else { Kind::of_map(map).index() }]
    }

    /// Notes a hint in `map` of section `section`.
    #[inline]
    pub(crate) fn lower(&self, map: usize, section: usize) {
        // Relaxed, here and below: advice.
        if self.of(map).load(Ordering::Relaxed) > section {
            self.of(map).fetch_min(section, Ordering::Relaxed);
        }
    }
}

/// An area found, and what was taken from it.
struct Found<R> {
    /// The first frame of the section.
    base: usize,
    area: usize,
    got: R,
}

impl<'m> Zone<'m> {
    /// Takes a block of `order` from the area that the hints say is best.
    pub(crate) fn take_hinted(&self, order: Order, mobility: Mobility) -> Option<FrameNumber> {
        let order = u32::from(order.get());
        if order > AREA_ORDER {
            return self.take_several_hinted(order).or_else(|| {
                self.sections().find_map(|(base, section)| {
                    section.claim_aligned(order).map(|area| frame(base, area, 0))
                })
            });
        }
        if order == AREA_ORDER {
            let mut claim = |section: &Section<'_>, area: usize, map: usize| {
                let claimed = section.claim(area);
                section.check_hint(map, area);
                claimed.then_some(0)
            };
            let untouched = UNTOUCHED..UNTOUCHED + 1;
            let found = self.search(untouched.clone(), false, &mut claim);
            let found = found.or_else(|| self.search(untouched, true, &mut claim))?;
            return Some(frame(found.base, found.area, 0));
        }
        let kind = self.kind_for(order, mobility);
        let found = self.ladder(order, kind, |section, area, map| {
            let taken = section.take(area, order);
            if taken.is_some() && map == UNTOUCHED {
                section.adopt(area, kind);
            }
            section.check_hint(map, area);
            taken.map(|taken| (taken, map))
        })?;
        let (at, map) = found.got;
        let start = frame(found.base, found.area, at);
        if map == UNTOUCHED {
            self.left.expect(start);
        }
        Some(start)
    }

    /// Takes a block of `order`, above the area's, of which all areas are hinted to be empty and within one word of hints; gives
    /// up after [`LOOKS`] that were not.
    fn take_several_hinted(&self, order: u32) -> Option<FrameNumber> {
        let (larger, mut looks) = (order - AREA_ORDER, 0);
        if larger >= WORD_ORDER {
            return None;
        }
        for (base, section) in self.sections() {
            for word in 0..HINT_WORDS {
                let mut starts = free_runs(!section.hints.word(UNTOUCHED, word), larger);
                while starts != 0 {
                    let first = word * WORD_BITS + starts.trailing_zeros() as usize;
                    starts &= starts - 1;
                    let areas = first..first + (1 << larger);
                    if section.claim_several(first, 1 << larger) {
                        areas.for_each(|area| section.hints.clear(UNTOUCHED, area));
                        return Some(frame(base, first, 0));
                    }
                    areas.for_each(|area| section.check_hint(UNTOUCHED, area));
                    looks += 1;
                    if looks == LOOKS {
                        return None;
                    }
                }
            }
        }
        None
    }

    /// Takes all free frames of the best word for single frames: its first frame, and the frames as bits.
    pub(crate) fn take_word(&self, mobility: Mobility) -> Option<(FrameNumber, usize)> {
        let kind = self.kind_for(0, mobility);
        let found = self.ladder(0, kind, |section, area, map| {
            let taken = section.take_word(area);
            if taken.is_some() && map == UNTOUCHED {
                section.adopt(area, kind);
            }
            section.check_hint(map, area);
            taken
        })?;
        let (word, frames) = found.got;
        Some((frame(found.base, found.area, word * WORD_BITS), frames))
    }

    /// Makes an area with a block of `order`, below a word's, the caller's; returns its first frame.
    pub(crate) fn acquire(&self, order: u32, mobility: Mobility) -> Option<FrameNumber> {
        debug_assert!(order < WORD_ORDER);
        let kind = self.kind_for(order, mobility);
        let found = self.ladder(order, kind, |section, area, map| {
            if section.lines[area].has_run(order) && section.acquire(area, kind) {
                section.hints.clear(map, area);
                return Some(());
            }
            section.check_hint(map, area);
            None
        })?;
        Some(frame(found.base, found.area, 0))
    }

    /// Claims up to `frames.len()` areas whose hints lie in one word and puts their first frames into `frames`; returns how many.
    /// Looks at no more than [`LOOKS`] words of which none could be claimed.
    pub(crate) fn claim_batch(&self, frames: &mut [usize]) -> usize {
        for from_lowest in [false, true] {
            let start = if from_lowest { 0 } else { self.bound(UNTOUCHED) };
            let (mut first_hinted, mut looks, mut claimed) = (None, 0, 0);
            'search: for (index, place) in self.table.iter().enumerate().skip(start) {
                let Some(section) = place.get() else { continue };
                for word in 0..HINT_WORDS {
                    let hinted = lowest(section.hints.word(UNTOUCHED, word), frames.len());
                    if hinted == 0 {
                        continue;
                    }
                    first_hinted = first_hinted.or(Some(index));
                    let areas = section.claim_each(word * WORD_BITS, hinted);
                    section.hints.clear_word(UNTOUCHED, word, areas);
                    let base = (self.first_section + index) * SECTION_FRAMES;
                    for area in bits(hinted) {
                        let at = word * WORD_BITS + area;
                        if areas >> area & 1 == 0 {
                            section.check_hint(UNTOUCHED, at);
                        } else {
                            frames[claimed] = base + at * AREA_FRAMES;
                            claimed += 1;
                        }
                    }
                    looks += 1;
                    if claimed > 0 || looks == LOOKS {
                        break 'search;
                    }
                }
            }
            self.raise(UNTOUCHED, start, first_hinted);
            if claimed > 0 {
                return claimed;
            }
        }
        0
    }

    /// Whether a freed block at `start` is better kept by a slot of `mobility` than sent home.
    #[inline(always)]
    pub(crate) fn is_worth_keeping(&self, start: FrameNumber, mobility: Mobility) -> bool {
        let place = self.place(start);
        place.is_some_and(|(place, section)| section.is_worth_keeping(place.area, mobility))
    }

    /// Returns the kind of areas for blocks of `order`, below the area's.
    #[inline]
    pub(crate) fn kind_for(&self, order: u32, mobility: Mobility) -> Kind {
        if self.has_kinds { Kind::of(order, mobility) } else { Kind::from_index(0) }
    }

    /// Goes through the steps of the policy with `take`, which is given section, area and bitmap.
    fn ladder<R>(
        &self,
        order: u32,
        kind: Kind,
        mut take: impl FnMut(&Section<'m>, usize, usize) -> Option<R>,
    ) -> Option<Found<R>> {
        for from_lowest in [false, true] {
            for maps in [kind.maps(order), UNTOUCHED..UNTOUCHED + 1] {
                if let Some(found) = self.search(maps, from_lowest, &mut take) {
                    return Some(found);
                }
            }
        }
        kind.others()
            .take_while(|_| self.has_kinds)
            .find_map(|other| self.search(other.maps(order), true, &mut take))
    }

    /// Calls `take` on areas hinted in `maps`, all of one kind, until it returns something.
    fn search<R>(
        &self,
        maps: Range<usize>,
        from_lowest: bool,
        take: &mut impl FnMut(&Section<'m>, usize, usize) -> Option<R>,
    ) -> Option<Found<R>> {
        let start = if from_lowest { 0 } else { self.bound(maps.start) };
        let mut first_hinted = None;
        let mut looks = 0;
        let mut found = None;
        'search: for (index, place) in self.table.iter().enumerate().skip(start) {
            let Some(section) = place.get() else { continue };
            for map in maps.clone() {
                for area in section.hints.areas(map) {
                    first_hinted = first_hinted.or(Some(index));
                    if let Some(got) = take(section, area, map) {
                        let base = (self.first_section + index) * SECTION_FRAMES;
                        found = Some(Found { base, area, got });
                        break 'search;
                    }
                    looks += 1;
                    if looks == LOOKS {
                        break 'search;
                    }
                }
            }
        }
        // Only a search of all of the kind's bitmaps knows that a section has none.
        if begins_kind(maps.start) {
            self.raise(maps.start, start, first_hinted);
        }
        found
    }

    fn bound(&self, map: usize) -> usize {
        self.bounds.of(map).load(Ordering::Relaxed)
    }

    /// Raises a bound from `seen` to the first section that had a hint.
    fn raise(&self, map: usize, seen: usize, first_hinted: Option<usize>) {
        let first = first_hinted.unwrap_or(self.table.len());
        if first > seen {
            let bound = self.bounds.of(map);
            _ = bound.compare_exchange(seen, first, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// Owned areas, named by their first frame. The caller has the slot that owns the area.
impl Zone<'_> {
    /// Takes all free frames of one word of an owned area: the word's first frame, and the frames as bits.
    pub(crate) fn take_owned_word(&self, area: FrameNumber) -> Option<(FrameNumber, usize)> {
        let (place, section) = self.place(area)?;
        let (word, frames) = section.lines[place.area].take_word()?;
        Some((FrameNumber::new(area.get() + word * WORD_BITS), frames))
    }

    /// Takes up to `limit` blocks of `order`, below a word's, from one word of an owned area: the word's first frame, and
    /// the starts as bits.
    pub(crate) fn take_owned_runs(
        &self,
        area: FrameNumber,
        order: u32,
        limit: usize,
    ) -> Option<(FrameNumber, usize)> {
        let (place, section) = self.place(area)?;
        let undo = || section.undone(place.area);
        let (word, starts) = section.lines[place.area].take_runs(order, limit, undo)?;
        Some((FrameNumber::new(area.get() + word * WORD_BITS), starts))
    }

    /// Opens an owned area to all.
    pub(crate) fn release_owned(&self, area: FrameNumber) {
        if let Some((place, section)) = self.place(area) {
            section.release_owned(place.area);
        }
    }
}

/// Returns frame `at` of area `area` of the section that begins at `base`.
#[inline]
pub(crate) fn frame(base: usize, area: usize, at: usize) -> FrameNumber {
    FrameNumber::new(base + area * AREA_FRAMES + at)
}
