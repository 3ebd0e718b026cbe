//! Hints: bits that say "search this area", one map for each placement and degree of fullness.
//!
//! # Concepts
//! A hint may be stale or double; the bits of the area decide. A free that makes room in a full
//! word sets a hint. A search that clears a hint looks at the area again; `section.rs` describes
//! the order between the two.
//!
//! The **bound** of a placement is the lowest section where a hint is expected, so that searches
//! skip the full sections before it. A bound is advice. Setting a hint in a section before the
//! bound lowers it. A search that finds nothing from the bound on starts again from the lowest
//! section.

use core::ops::Range;

use page_frame::sync::{AtomicUsize, Ordering, SeqCstUsize, Zeroable, prefetch};

use crate::bitmap::bits::{AREA_FRAMES, SECTION_AREAS, WORD_BITS};
use crate::bitmap::placement::{PLACEMENTS, Placement};

/// Number of degrees of fullness of areas with a placement. Degree 0 is the fullest.
const DEGREES: usize = 3;
/// Number of hint maps of a section: one for each placement and degree of fullness, and two for
/// empty areas.
pub(crate) const HINT_MAPS: usize = PLACEMENTS * DEGREES + 2;
/// The hint map of areas that have become empty: their memory has been used.
pub(crate) const EMPTIED: usize = HINT_MAPS - 2;
/// The hint map of areas of which no frame was ever taken.
pub(super) const UNUSED: usize = HINT_MAPS - 1;
/// The hint maps of areas with all frames free: those whose memory has been used come first.
pub(super) const EMPTY: Range<usize> = EMPTIED..UNUSED + 1;
/// Words of one hint map.
pub(crate) const HINT_WORDS: usize = SECTION_AREAS.div_ceil(WORD_BITS);

/// The hint maps of a section. The words for the same areas lie together, on cache lines of their
/// own: areas of different words are often those of different CPUs.
pub(crate) type HintMaps = [HintWord; HINT_WORDS];

/// The word of each map for the same areas.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct HintWord([SeqCstUsize; HINT_MAPS]);

// SAFETY: clause 1: an array of atomic words, of which zero bytes are values.
unsafe impl Zeroable for HintWord {
    fn zero() -> Self {
        Self(Zeroable::zero())
    }
}

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
        // SeqCst: as AcqRel it pairs with `clear`: a later clear sees all changes to the area that
        // precede this call.
        self.maps[area / WORD_BITS].0[map].set_bits(bit(area));
        self.bounds.lower(map, self.section);
    }

    /// Prefetches the hint for `area`.
    #[inline(always)]
    pub(super) fn prefetch(&self, map: usize, area: usize) {
        prefetch(&self.maps[area / WORD_BITS].0[map]);
    }

    /// Sets the hints for all areas.
    pub(super) fn set_all(&self, map: usize) {
        let all = usize::MAX >> (WORD_BITS - SECTION_AREAS.min(WORD_BITS));
        for word in self.maps {
            // SeqCst: as in `set`.
            word.0[map].set_bits(all);
        }
        self.bounds.lower(map, self.section);
    }

    /// Sets the hint for `area` if it is not set. The caller has changed the area by a SeqCst
    /// access.
    #[inline]
    pub(super) fn ensure(&self, map: usize, area: usize) {
        // SeqCst: after the caller's change of the bits, against the sum of the bits after a
        // `clear`.
        if self.maps[area / WORD_BITS].0[map].load() & bit(area) == 0 {
            self.set(map, area);
        }
    }

    /// Clears the hint for `area`.
    #[inline]
    pub(super) fn clear(&self, map: usize, area: usize) {
        // SeqCst: before the caller's sum of the bits; as AcqRel it pairs with `set`.
        self.maps[area / WORD_BITS].0[map].clear_bits(bit(area));
    }

    /// Clears the hints of word `word` that are set in `areas`.
    pub(super) fn clear_word(&self, map: usize, word: usize, areas: usize) {
        if areas != 0 {
            // SeqCst: as in `clear`.
            self.maps[word].0[map].clear_bits(areas);
        }
    }

    /// Returns word `word` of `map`.
    #[inline]
    pub(super) fn word(&self, map: usize, word: usize) -> usize {
        // A hint; the area decides.
        self.maps[word].0[map].advice()
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

/// Returns the hint maps of `placement` whose areas may have room for `order`, fullest first.
#[inline]
pub(super) fn maps_with_room(placement: Placement, order: u32) -> Range<usize> {
    let first = placement.index() * DEGREES;
    first + degree_with_room(order)..first + DEGREES
}

/// Returns the hint map for an area of `placement` with `free` free frames, or `None` when the area
/// is full.
#[inline]
pub(super) fn map_for(placement: Placement, free: usize) -> Option<usize> {
    let degree = match free {
        0 => return None,
        AREA_FRAMES => return Some(EMPTIED),
        free if free >= AREA_FRAMES / 2 => 2,
        free if free >= AREA_FRAMES / 8 => 1,
        _ => 0,
    };
    Some(placement.index() * DEGREES + degree)
}

/// Returns the part of `maps`, of one placement, whose areas are at least half full.
pub(super) fn fuller(maps: Range<usize>) -> Range<usize> {
    maps.start..maps.end - 1
}

/// Returns whether `maps` are all hint maps of a placement, or all of empty areas.
pub(super) fn is_whole_placement(maps: &Range<usize>) -> bool {
    *maps == EMPTY || maps.start % DEGREES == 0 && maps.len() == DEGREES
}

/// Returns the fullest degree at which `2^order` frames can still be free.
fn degree_with_room(order: u32) -> usize {
    match 1 << order {
        frames if frames >= AREA_FRAMES / 2 => 2,
        frames if frames >= AREA_FRAMES / 8 => 1,
        _ => 0,
    }
}

/// Returns the placement that hint map `map` belongs to. Those of empty areas belong to none.
#[inline]
fn placement_of(map: usize) -> Placement {
    Placement::from_index(map / DEGREES)
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
        &self.0[if map >= EMPTIED { PLACEMENTS } else { placement_of(map).index() }]
    }

    /// Returns the index of the section where a search of `map` begins.
    pub(super) fn get(&self, map: usize) -> usize {
        // Relaxed, as in `lower` and `raise`: advice.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitmap::placement::Mobility;

    #[test]
    fn an_area_with_room_for_an_order_is_in_a_map_that_is_searched_for_that_order() {
        for order in 0..crate::bitmap::bits::AREA_ORDER {
            let placement = Placement::of(order, Mobility::Movable);
            for free in 1 << order..AREA_FRAMES {
                let map = map_for(placement, free).expect("not full");
                assert!(
                    maps_with_room(placement, order).contains(&map),
                    "{free} free for order {order}"
                );
            }
        }
    }
}
