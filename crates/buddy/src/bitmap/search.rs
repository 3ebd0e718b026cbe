//! Searches by hints: they choose the area that a block is taken from.
//!
//! # Policy
//! A search prefers the lowest section with a hint, in it the fullest degree, and in that the
//! lowest area. Of empty areas it prefers those whose memory has been used before. A request
//! searches areas of its own placement, then empty areas, then both again from the lowest section
//! on, then the other placements (`placement.rs`).
//!
//! Where several CPU slots have homes, and the memory has words for them (`home.rs`), a slot's
//! request looks at areas of its placement outside of the homes of other slots, then at empty areas
//! of its home, then at empty areas outside of the homes of others. Only then it continues as
//! above.
//!
//! In [`Mode::Dense`](crate::Mode::Dense) memory costs nothing until it is touched. There a request
//! first searches areas of its own placement that are at least half full, then areas that have
//! become empty, then the emptier areas of its placement, then the other placements of its
//! mobility. Only then it opens an area that was never used.
//!
//! # Costs
//! Each of these steps ends after [`MAX_MISSES`] areas without a fitting run; for blocks of several
//! areas and for batches of areas, after as many groups or words. It reads at most two cache
//! lines for each word of hints, 16 in a section. The passes without hints (`claim.rs`) find the
//! blocks that a search misses.

use core::ops::Range;

use page_frame::sync::Ordering;
use page_frame::{FrameNumber, Order};

use crate::bitmap::bits::{
    AREA_FRAMES, AREA_ORDER, WORD_BITS, WORD_ORDER, free_runs, lowest, set_bits,
};
use crate::bitmap::hints::{
    EMPTIED, EMPTY, HINT_WORDS, fuller, is_whole_placement, maps_with_room,
};
use crate::bitmap::home::{Home, Scope};
use crate::bitmap::placement::{Mobility, ORDER_GROUPS, Placement};
use crate::bitmap::section::Section;
use crate::bitmap::{Bitmap, frame};

/// Maximum number of areas without a fitting run that one step of a search looks at: a guess.
const MAX_MISSES: usize = 8;

/// The areas that a step of a search looks at.
enum Areas {
    /// Those of the request's placement, fullest first.
    InUse,
    /// Empty ones.
    Empty,
}

/// The steps of a search. Those of [`HOME_STEPS`] are for slots that have homes.
const STEPS: [(Scope, Areas); 7] = [
    (Scope::Open, Areas::InUse),
    (Scope::Home, Areas::Empty),
    (Scope::Open, Areas::Empty),
    (Scope::Anywhere, Areas::InUse),
    (Scope::Anywhere, Areas::Empty),
    (Scope::FromLowest, Areas::InUse),
    (Scope::FromLowest, Areas::Empty),
];
/// Number of steps at the beginning that are for slots that have homes.
const HOME_STEPS: usize = 3;
/// The scopes in which areas are searched that are hinted as empty. The first [`HOME_SCOPES`] are
/// for slots that have homes.
const SCOPES: [Scope; 4] = [Scope::Home, Scope::Open, Scope::Anywhere, Scope::FromLowest];
const HOME_SCOPES: usize = 2;

/// A block that a search took.
#[derive(Clone, Copy)]
pub(crate) struct Taken {
    pub(crate) start: FrameNumber,
    /// Whether the block is a part of an area that was hinted as empty.
    pub(crate) was_empty_area: bool,
}

/// A word of hints, at least one of which is set.
struct HintedWord<'m> {
    section: &'m Section<'m>,
    /// The first frame of the section.
    base: usize,
    map: usize,
    /// The index of the word in the map.
    word: usize,
    /// The hints, a bit for each area.
    areas: usize,
}

/// An area found by its hint, and the result of the take from it.
struct Found<R> {
    /// The first frame of the section.
    base: usize,
    area: usize,
    got: R,
}

impl<'m> Bitmap<'m> {
    /// Takes a block of `order` from the area that the hints prefer.
    pub(crate) fn take_hinted(
        &self,
        order: Order,
        mobility: Mobility,
        home: &mut Home,
    ) -> Option<Taken> {
        let order = u32::from(order.get());
        if order >= AREA_ORDER {
            let start = match order {
                AREA_ORDER => self.claim_hinted(),
                _ => self.claim_several_hinted(order).or_else(|| self.claim_lowest(order)),
            };
            return start.map(|start| Taken { start, was_empty_area: false });
        }
        let placement = self.placement_for(order, mobility);
        let found = self.search_all(order, placement, home, |section, area, map| {
            let taken = section.take(area, order);
            if taken.is_some() && map >= EMPTIED {
                section.set_placement(area, placement);
            }
            _ = section.check_hint(map, area);
            taken.map(|taken| (taken, map))
        })?;
        let (at, map) = found.got;
        let start = frame(found.base, found.area, at);
        Some(Taken { start, was_empty_area: map >= EMPTIED })
    }

    /// Claims an area that is hinted as empty.
    fn claim_hinted(&self) -> Option<FrameNumber> {
        let mut claim = |section: &Section<'_>, area: usize, map: usize| {
            let claimed = section.claim(area);
            _ = section.check_hint(map, area);
            claimed.then_some(())
        };
        let found = [false, true]
            .into_iter()
            .find_map(|from_lowest| self.search(EMPTY, from_lowest, &mut claim))?;
        Some(frame(found.base, found.area, 0))
    }

    /// Takes a block of `order`, above the area's, whose areas are all hinted as empty and lie in
    /// one word of hints. Gives up after [`MAX_MISSES`] groups of areas that were not empty.
    fn claim_several_hinted(&self, order: u32) -> Option<FrameNumber> {
        let larger = order - AREA_ORDER;
        if larger >= WORD_ORDER {
            return None;
        }
        let (found, _) = self.scan(
            EMPTY,
            0,
            |_, _| false,
            |hinted, misses| {
                let word = |map| hinted.section.hints.word(map, hinted.word);
                let areas = EMPTY.map(word).fold(0, |all, areas| all | areas);
                for start in set_bits(free_runs(!areas, larger)) {
                    let first = hinted.word * WORD_BITS + start;
                    let areas = first..first + (1 << larger);
                    if hinted.section.claim_several(first, 1 << larger) {
                        areas.for_each(|area| hinted.section.clear_empty_hints(area));
                        return Some(frame(hinted.base, first, 0));
                    }
                    areas.for_each(|area| {
                        EMPTY.for_each(|map| _ = hinted.section.check_hint(map, area))
                    });
                    *misses += 1;
                    if *misses == MAX_MISSES {
                        break;
                    }
                }
                None
            },
        );
        found
    }

    /// Takes all free frames of the best word for single frames; returns its first frame, and the
    /// frames as bits.
    pub(crate) fn take_word(
        &self,
        mobility: Mobility,
        home: &mut Home,
    ) -> Option<(FrameNumber, usize)> {
        let placement = self.placement_for(0, mobility);
        let found = self.search_all(0, placement, home, |section, area, map| {
            let taken = section.take_word(area);
            if taken.is_some() && map >= EMPTIED {
                section.set_placement(area, placement);
            }
            _ = section.check_hint(map, area);
            taken
        })?;
        let (word, frames) = found.got;
        Some((frame(found.base, found.area, word * WORD_BITS), frames))
    }

    /// Makes the caller's CPU slot the owner of an area with a free block of `order`, below a
    /// word's; returns the area's first frame.
    pub(crate) fn acquire(
        &self,
        order: u32,
        mobility: Mobility,
        home: &mut Home,
    ) -> Option<FrameNumber> {
        debug_assert!(order < WORD_ORDER);
        let placement = self.placement_for(order, mobility);
        let found = self.search_all(order, placement, home, |section, area, map| {
            if section.lines[area].has_run(order) && section.acquire(area, placement) {
                section.hints.clear(map, area);
                return Some(());
            }
            _ = section.check_hint(map, area);
            None
        })?;
        Some(frame(found.base, found.area, 0))
    }

    /// Claims up to `frames.len()` areas whose hints lie in one word, and writes their first frames
    /// to `frames`; returns the number of claimed areas. Gives up after [`MAX_MISSES`] words of
    /// which no area could be claimed.
    pub(crate) fn claim_batch(&self, frames: &mut [usize], home: &mut Home) -> usize {
        let mut claim = |hinted: &HintedWord<'m>, misses: &mut usize| {
            let areas = lowest(hinted.areas, frames.len());
            let claimed = hinted.section.claim_each(hinted.word * WORD_BITS, areas);
            hinted.section.hints.clear_word(hinted.map, hinted.word, claimed);
            let mut count = 0;
            for bit in set_bits(areas) {
                let area = hinted.word * WORD_BITS + bit;
                if claimed >> bit & 1 == 0 {
                    hinted.section.check_hint(hinted.map, area);
                } else {
                    frames[count] = hinted.base + area * AREA_FRAMES;
                    count += 1;
                }
            }
            *misses += 1;
            (count > 0).then_some(count)
        };
        let scopes = if self.avoids_homes(*home) { &SCOPES[..] } else { &SCOPES[HOME_SCOPES..] };
        let mut scopes = scopes.iter();
        scopes.find_map(|scope| self.scan_in(*scope, EMPTY, home, &mut claim)).unwrap_or(0)
    }

    /// Searches in the order of the policy. Calls `take` with section, area and hint map of each
    /// candidate, until it returns a value.
    fn search_all<R>(
        &self,
        order: u32,
        placement: Placement,
        home: &mut Home,
        mut take: impl FnMut(&Section<'m>, usize, usize) -> Option<R>,
    ) -> Option<Found<R>> {
        if self.fills_used_areas_first {
            if let Some(found) = self.search_used(order, placement, &mut take) {
                return Some(found);
            }
        }
        let steps = if self.avoids_homes(*home) { &STEPS[..] } else { &STEPS[HOME_STEPS..] };
        for (scope, areas) in steps {
            let maps = match areas {
                Areas::InUse => maps_with_room(placement, order),
                Areas::Empty => EMPTY,
            };
            let found = self.scan_in(*scope, maps, home, &mut |hinted, misses| {
                take_from_word(hinted, misses, &mut take)
            });
            if found.is_some() {
                return found;
            }
        }
        self.search_placements(placement.others(), order, &mut take)
    }

    /// Searches areas of `placement` or its mobility whose memory has been used, in the order for
    /// memory that costs nothing until it is touched.
    fn search_used<R>(
        &self,
        order: u32,
        placement: Placement,
        take: &mut impl FnMut(&Section<'m>, usize, usize) -> Option<R>,
    ) -> Option<Found<R>> {
        let own = maps_with_room(placement, order);
        // An area may still have the hint of the time when it was fuller.
        let mut take_checked = |section: &Section<'m>, area: usize, map: usize| {
            section.check_hint(map, area).then(|| take(section, area, map)).flatten()
        };
        for maps in [fuller(own.clone()), EMPTIED..EMPTIED + 1] {
            if let Some(found) = self.search(maps, false, &mut take_checked) {
                return Some(found);
            }
        }
        if let Some(found) = self.search(own, false, take) {
            return Some(found);
        }
        self.search_placements(placement.others().take(ORDER_GROUPS - 1), order, take)
    }

    /// Searches the areas of other placements, from the lowest section on.
    fn search_placements<R>(
        &self,
        mut placements: impl Iterator<Item = Placement>,
        order: u32,
        take: &mut impl FnMut(&Section<'m>, usize, usize) -> Option<R>,
    ) -> Option<Found<R>> {
        if !self.has_placements {
            return None;
        }
        placements.find_map(|other| self.search(maps_with_room(other, order), true, take))
    }

    /// Calls `take` with areas hinted in `maps`, all of one placement, until it returns a value.
    fn search<R>(
        &self,
        maps: Range<usize>,
        from_lowest: bool,
        take: &mut impl FnMut(&Section<'m>, usize, usize) -> Option<R>,
    ) -> Option<Found<R>> {
        self.scan_from_bound(
            maps,
            from_lowest,
            |_, _| false,
            |hinted, misses| take_from_word(&hinted, misses, take),
        )
    }

    /// Calls `visit` with the words of `maps` in `scope`, until it returns a value. The word of the
    /// value becomes the home of the slot.
    fn scan_in<R>(
        &self,
        scope: Scope,
        maps: Range<usize>,
        home: &mut Home,
        visit: &mut impl FnMut(&HintedWord<'m>, &mut usize) -> Option<R>,
    ) -> Option<R> {
        if scope == Scope::Home {
            return self.scan_home(maps, *home, visit);
        }
        let (own, claims) = (*home, scope == Scope::Open);
        let skips =
            |section: &Section<'m>, word| claims && section.homes.belongs_to_other(own, word);
        let take = |hinted: HintedWord<'m>, misses: &mut usize| {
            let homes = &hinted.section.homes;
            if claims && !homes.claim(own, hinted.word) {
                return None;
            }
            let found = visit(&hinted, misses);
            if claims && found.is_none() && !own.is_at(hinted.base, hinted.word) {
                homes.leave(own, hinted.word);
            }
            found.map(|found| (found, hinted))
        };
        let (found, hinted) =
            self.scan_from_bound(maps, scope == Scope::FromLowest, skips, take)?;
        let may_settle = own.start().is_none() || self.has_words_for_homes();
        if own.has_slot() && may_settle && !own.is_at(hinted.base, hinted.word) {
            self.settle(home, &hinted);
        }
        Some(found)
    }

    /// Returns whether searches for the slot of `home` avoid the homes of others.
    fn avoids_homes(&self, home: Home) -> bool {
        // A first home is always claimed: other slots may be looking for theirs. Relaxed, as in
        // `settle`: advice.
        let are_others = || self.slots_with_homes.load(Ordering::Relaxed) > 1;
        let is_useful = || are_others() && self.has_words_for_homes();
        home.has_slot() && (home.start().is_none() || is_useful())
    }

    /// Returns whether there are enough words of hints for the slots that have homes.
    fn has_words_for_homes(&self) -> bool {
        // Relaxed: as above.
        self.slots_with_homes.load(Ordering::Relaxed) <= self.max_slots_with_homes
    }

    /// Moves the home of a slot to the word of `hinted`.
    fn settle(&self, home: &mut Home, hinted: &HintedWord<'m>) {
        match home.start() {
            None => _ = self.slots_with_homes.fetch_add(1, Ordering::Relaxed),
            Some(start) => {
                if let Some((at, section)) = self.table.locate(start) {
                    section.homes.leave(*home, at.area / WORD_BITS);
                }
            }
        }
        hinted.section.homes.share(*home, hinted.word);
        *home = home.moved_to(hinted.base, hinted.word);
    }

    /// Calls `visit` with the words of `maps` at `home`, until it returns a value.
    fn scan_home<R>(
        &self,
        mut maps: Range<usize>,
        home: Home,
        visit: &mut impl FnMut(&HintedWord<'m>, &mut usize) -> Option<R>,
    ) -> Option<R> {
        let start = home.start()?;
        let (at, section) = self.table.locate(start)?;
        let base = start.get() - at.area * AREA_FRAMES;
        let word = at.area / WORD_BITS;
        maps.find_map(|map| {
            let areas = section.hints.word(map, word);
            let hinted = HintedWord { section, base, map, word, areas };
            if areas == 0 { None } else { visit(&hinted, &mut 0) }
        })
    }

    /// Scans `maps`, all of one placement, from the bound of the placement on, or from the lowest
    /// section, as [`scan`](Self::scan) does.
    #[inline]
    fn scan_from_bound<R>(
        &self,
        maps: Range<usize>,
        from_lowest: bool,
        skips: impl Fn(&Section<'m>, usize) -> bool,
        visit: impl FnMut(HintedWord<'m>, &mut usize) -> Option<R>,
    ) -> Option<R> {
        let (first_map, is_whole) = (maps.start, is_whole_placement(&maps));
        let start = if from_lowest { 0 } else { self.bounds.get(first_map) };
        let (found, first_hinted) = self.scan(maps, start, skips, visit);
        // Only a search of all maps of the placement proves that a section has no hint.
        if is_whole {
            self.bounds.raise(first_map, start, first_hinted.unwrap_or(self.table.len()));
        }
        found
    }

    /// Calls `visit` with each word of `maps` that has a hint and that `skips` does not skip, in
    /// the sections from index `start` on, and with a counter of misses. Ends when `visit` returns
    /// a value or the counter reaches [`MAX_MISSES`]. Returns that value, and the index of the
    /// first section with a hint.
    #[inline]
    fn scan<R>(
        &self,
        maps: Range<usize>,
        start: usize,
        skips: impl Fn(&Section<'m>, usize) -> bool,
        mut visit: impl FnMut(HintedWord<'m>, &mut usize) -> Option<R>,
    ) -> (Option<R>, Option<usize>) {
        let (mut first_hinted, mut misses) = (None, 0);
        for (index, base, section) in self.table.sections_from(start) {
            for map in maps.clone() {
                for word in 0..HINT_WORDS {
                    // What is skipped counts as hinted: its line is not read.
                    if skips(section, word) {
                        first_hinted = first_hinted.or(Some(index));
                        continue;
                    }
                    let areas = section.hints.word(map, word);
                    if areas == 0 {
                        continue;
                    }
                    first_hinted = first_hinted.or(Some(index));
                    let hinted = HintedWord { section, base, map, word, areas };
                    let found = visit(hinted, &mut misses);
                    if found.is_some() || misses == MAX_MISSES {
                        return (found, first_hinted);
                    }
                }
            }
        }
        (None, first_hinted)
    }
}

/// Calls `take` with the areas of a word of hints, until it returns a value or the counter of
/// misses reaches [`MAX_MISSES`].
#[inline]
fn take_from_word<'m, R>(
    hinted: &HintedWord<'m>,
    misses: &mut usize,
    take: &mut impl FnMut(&Section<'m>, usize, usize) -> Option<R>,
) -> Option<Found<R>> {
    for bit in set_bits(hinted.areas) {
        let area = hinted.word * WORD_BITS + bit;
        if let Some(got) = take(hinted.section, area, hinted.map) {
            return Some(Found { base: hinted.base, area, got });
        }
        *misses += 1;
        if *misses == MAX_MISSES {
            break;
        }
    }
    None
}
