//! Hints: bits that say "look at this area", a bitmap for each kind and degree of fullness.
//!
//! A hint may be stale or double; the area decides. Whoever makes room where there was none sets one, and whoever takes
//! one away looks at the area again; see `section.rs` for the order between the two.

use page_frame::sync::{AtomicUsize, Ordering};

use crate::bitmap::placement::MAPS;
use crate::bitmap::search::Bounds;
use crate::bitmap::section::SECTION_AREAS;
use crate::bits::WORD_BITS;

/// Words of one bitmap: one cache line.
pub(crate) const HINT_WORDS: usize = SECTION_AREAS.div_ceil(WORD_BITS);

/// The bitmaps of a section.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hints<'m> {
    pub(crate) maps: &'m [[AtomicUsize; HINT_WORDS]; MAPS],
    /// Where searches begin, over all sections.
    pub(crate) bounds: &'m Bounds,
    /// The section's index in the zone's table.
    pub(crate) section: usize,
}

impl Hints<'_> {
    /// Sets the hint for `area`, whether or not it is set.
    #[inline]
    pub(crate) fn set(&self, map: usize, area: usize) {
        // SeqCst: as AcqRel pairs with `clear`: whoever clears a hint after this sees the area as it was before this.
        self.maps[map][area / WORD_BITS].fetch_or(bit(area), Ordering::SeqCst);
        self.bounds.lower(map, self.section);
    }

    /// Sets the hints for all areas.
    pub(crate) fn set_all(&self, map: usize) {
        let all = usize::MAX >> (WORD_BITS - SECTION_AREAS.min(WORD_BITS));
        for word in &self.maps[map] {
            // SeqCst: as in `set`.
            word.fetch_or(all, Ordering::SeqCst);
        }
        self.bounds.lower(map, self.section);
    }

    /// Sets the hint for `area` if it is not set. The caller's change was SeqCst.
    #[inline]
    pub(crate) fn ensure(&self, map: usize, area: usize) {
        // SeqCst: after the caller's change of the bits, against the sum of the bits after a `clear`.
        if self.maps[map][area / WORD_BITS].load(Ordering::SeqCst) & bit(area) == 0 {
            self.set(map, area);
        }
    }

    /// Takes the hint for `area` away.
    #[inline]
    pub(crate) fn clear(&self, map: usize, area: usize) {
        // SeqCst: before the caller's sum of the bits; as AcqRel pairs with `set`.
        self.maps[map][area / WORD_BITS].fetch_and(!bit(area), Ordering::SeqCst);
    }

    /// Takes the hints that are set in `areas` of word `word` away.
    pub(crate) fn clear_word(&self, map: usize, word: usize, areas: usize) {
        if areas != 0 {
            // SeqCst: as in `clear`.
            self.maps[map][word].fetch_and(!areas, Ordering::SeqCst);
        }
    }

    /// Returns word `word` of `map`.
    pub(crate) fn word(&self, map: usize, word: usize) -> usize {
        // Relaxed: hints; the areas decide.
        self.maps[map][word].load(Ordering::Relaxed)
    }

    /// Whether some bitmap has a hint for `area`.
    pub(crate) fn has_any(&self, area: usize) -> bool {
        let is_set =
            |map: usize| self.maps[map][area / WORD_BITS].load(Ordering::Relaxed) & bit(area);
        (0..MAPS).any(|map| is_set(map) != 0)
    }

    /// Iterates over the areas hinted in `map`, lowest first, each word as it was when the iteration came to it.
    pub(crate) fn areas(&self, map: usize) -> impl Iterator<Item = usize> {
        let words = &self.maps[map];
        (0..HINT_WORDS).flat_map(move |word| {
            // Relaxed: a hint; the area decides.
            let mut hinted = words[word].load(Ordering::Relaxed);
            core::iter::from_fn(move || {
                let lowest = hinted.trailing_zeros() as usize;
                hinted &= hinted.wrapping_sub(1);
                (lowest < WORD_BITS).then_some(word * WORD_BITS + lowest)
            })
        })
    }
}

#[inline]
fn bit(area: usize) -> usize {
    1 << (area % WORD_BITS)
}
