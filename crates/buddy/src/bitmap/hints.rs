//! Hints: bits that say "search this area", one map for each placement and degree of fullness.
//!
//! # Concepts
//! A hint may be stale or double; the bits of the area decide. A free that makes room in a full word sets a hint. A search
//! that clears a hint looks at the area again; `section.rs` describes the order between the two.
//!
//! A **bound** says for each placement below which section no hint is expected, so that searches skip sections that are
//! full. A bound is advice. Setting a hint below the bound lowers it, and a search that found nothing above the bound starts
//! again from the lowest section.

use page_frame::sync::{AtomicUsize, Ordering};

use crate::bitmap::placement::{EMPTY_AREAS, HINT_MAPS, PLACEMENTS, Placement};
use crate::bits::{SECTION_AREAS, WORD_BITS};

/// Words of one hint map: one cache line.
pub(crate) const HINT_WORDS: usize = SECTION_AREAS.div_ceil(WORD_BITS);

/// The hint maps of a section.
pub(crate) type HintMaps = [[AtomicUsize; HINT_WORDS]; HINT_MAPS];

/// The hints of a section.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hints<'m> {
    maps: &'m HintMaps,
    /// Shared by all sections of the bitmap.
    bounds: &'m Bounds,
    /// The section's index in the section table.
    section: usize,
}

impl<'m> Hints<'m> {
    /// Returns the hints of the section with index `section`.
    pub(crate) fn new(maps: &'m HintMaps, bounds: &'m Bounds, section: usize) -> Self {
        Self { maps, bounds, section }
    }

    /// Sets the hint for `area`, even if it is set already.
    #[inline]
    pub(super) fn set(&self, map: usize, area: usize) {
        // SeqCst: as AcqRel it pairs with `clear`: a later clear sees the area as it was before this.
        self.maps[map][area / WORD_BITS].fetch_or(bit(area), Ordering::SeqCst);
        self.bounds.lower(map, self.section);
    }

    /// Sets the hints for all areas.
    pub(super) fn set_all(&self, map: usize) {
        let all = usize::MAX >> (WORD_BITS - SECTION_AREAS.min(WORD_BITS));
        for word in &self.maps[map] {
            // SeqCst: as in `set`.
            word.fetch_or(all, Ordering::SeqCst);
        }
        self.bounds.lower(map, self.section);
    }

    /// Sets the hint for `area` if it is not set. The caller's change was SeqCst.
    #[inline]
    pub(super) fn ensure(&self, map: usize, area: usize) {
        // SeqCst: after the caller's change of the bits, against the sum of the bits after a `clear`.
        if self.maps[map][area / WORD_BITS].load(Ordering::SeqCst) & bit(area) == 0 {
            self.set(map, area);
        }
    }

    /// Clears the hint for `area`.
    #[inline]
    pub(super) fn clear(&self, map: usize, area: usize) {
        // SeqCst: before the caller's sum of the bits; as AcqRel it pairs with `set`.
        self.maps[map][area / WORD_BITS].fetch_and(!bit(area), Ordering::SeqCst);
    }

    /// Clears the hints of word `word` that are set in `areas`.
    pub(super) fn clear_word(&self, map: usize, word: usize, areas: usize) {
        if areas != 0 {
            // SeqCst: as in `clear`.
            self.maps[map][word].fetch_and(!areas, Ordering::SeqCst);
        }
    }

    /// Returns word `word` of `map`.
    #[inline]
    pub(super) fn word(&self, map: usize, word: usize) -> usize {
        // Relaxed: a hint; the area decides.
        self.maps[map][word].load(Ordering::Relaxed)
    }

    /// Returns whether some map has a hint for `area`.
    pub(crate) fn has_any(&self, area: usize) -> bool {
        (0..HINT_MAPS).any(|map| self.word(map, area / WORD_BITS) & bit(area) != 0)
    }
}

#[inline]
fn bit(area: usize) -> usize {
    1 << (area % WORD_BITS)
}

/// For each placement, and for empty areas, the lowest section where a hint is expected.
#[derive(Debug)]
pub(crate) struct Bounds([AtomicUsize; PLACEMENTS + 1]);

impl Bounds {
    pub(crate) fn new() -> Self {
        Self(core::array::from_fn(|_| AtomicUsize::new(0)))
    }

    /// Returns the bound for the placement of `map`.
    #[inline]
    fn of(&self, map: usize) -> &AtomicUsize {
        &self.0[if map == EMPTY_AREAS { PLACEMENTS } else { Placement::of_map(map).index() }]
    }

    /// Returns the index of the section where a search of `map` begins.
    pub(super) fn get(&self, map: usize) -> usize {
        // Relaxed, here and below: advice.
        self.of(map).load(Ordering::Relaxed)
    }

    /// Lowers the bound to a section that has a hint in `map`.
    #[inline]
    fn lower(&self, map: usize, section: usize) {
        if self.of(map).load(Ordering::Relaxed) > section {
            self.of(map).fetch_min(section, Ordering::Relaxed);
        }
    }

    /// Raises the bound from `seen` to `first`, the first section that had a hint.
    pub(super) fn raise(&self, map: usize, seen: usize, first: usize) {
        if first > seen {
            _ = self.of(map).compare_exchange(seen, first, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}
