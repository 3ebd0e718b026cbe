//! The entry of an area: a byte with the area's state and placement. The state says which calls may
//! use the area.
//!
//! ```text
//!     bit   7     6      5 4 3 2     1 0
//!           -   dense   placement   state
//! ```

use page_frame::sync::{SeqCstU8, Zeroable, prefetch};

use crate::bitmap::bits::SECTION_AREAS;
use crate::bitmap::placement::{Mobility, PLACEMENTS, Placement};

/// The bits that hold the state.
const STATE: u8 = 3;
/// State: every CPU may take frames.
const OPEN: u8 = 0;
/// State: a claim is finding out whether all frames are free.
const CLAIMING: u8 = 1;
/// State: the whole area belongs to one block.
const WHOLE: u8 = 2;
/// State: a CPU slot refills from the area. Other CPUs take from it only when they find nothing
/// elsewhere.
const OWNED: u8 = 3;
/// The lowest bit of the placement.
const PLACEMENT_SHIFT: u32 = 2;
/// The mask of the placement, before the shift left by [`PLACEMENT_SHIFT`].
const PLACEMENT: u8 = 15;
/// The area was nearly full when its free frames were last counted, or is owned. A CPU slot may
/// keep a block that is freed in a dense area. The bit is advice and may be stale.
const DENSE: u8 = 1 << 6;

const _: () = assert!(PLACEMENTS <= PLACEMENT as usize + 1, "a placement is four bits");

/// The entry of an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(u8);

impl Entry {
    /// Open, without placement: all frames are free.
    pub(super) const EMPTY: Self = Self(OPEN);
    /// Allocated whole.
    pub(super) const WHOLE: Self = Self(WHOLE);

    /// Returns the entry of an open area of `placement`.
    #[inline]
    pub(super) fn open(placement: Placement) -> Self {
        Self(OPEN | (placement.index() as u8) << PLACEMENT_SHIFT)
    }

    /// Returns the entry of an area that a CPU slot owns for `placement`.
    #[inline]
    pub(super) fn owned(placement: Placement) -> Self {
        Self(OWNED | DENSE | (placement.index() as u8) << PLACEMENT_SHIFT)
    }

    /// Returns the same entry in the state of an area that is being claimed.
    #[inline]
    pub(super) fn claiming(self) -> Self {
        Self(self.0 & !STATE | CLAIMING)
    }

    /// Returns the same entry, with the area marked as dense or not.
    #[inline]
    pub(super) fn with_dense(self, is_dense: bool) -> Self {
        Self(if is_dense { self.0 | DENSE } else { self.0 & !DENSE })
    }

    /// Returns whether the area is open, and neither owned nor claimed nor whole.
    #[inline]
    pub(super) fn is_open(self) -> bool {
        self.0 & STATE == OPEN
    }

    /// Returns whether frames may be taken: the area is open or owned.
    #[inline]
    pub(super) fn allows_takes(self) -> bool {
        matches!(self.0 & STATE, OPEN | OWNED)
    }

    /// Returns whether a CPU slot owns the area.
    #[inline]
    pub(super) fn is_owned(self) -> bool {
        self.0 & STATE == OWNED
    }

    /// Returns whether the whole area belongs to one block.
    #[inline]
    pub(super) fn is_whole(self) -> bool {
        self.0 & STATE == WHOLE
    }

    /// Returns whether the area is being claimed.
    #[inline]
    pub(super) fn is_claiming(self) -> bool {
        self.0 & STATE == CLAIMING
    }

    /// Returns the entry with this value, for tests that corrupt one.
    #[cfg(test)]
    pub(super) const fn from_byte(byte: u8) -> Self {
        Self(byte)
    }

    /// Returns whether a function of this type makes such an entry.
    pub(super) fn is_valid(self) -> bool {
        let placement = usize::from(self.0 >> PLACEMENT_SHIFT & PLACEMENT);
        let has_no_other_bits = self.0 & !(STATE | DENSE | PLACEMENT << PLACEMENT_SHIFT) == 0;
        has_no_other_bits
            && placement < PLACEMENTS
            && (!self.is_whole() || self == Self::WHOLE)
            && (!self.is_owned() || self.0 & DENSE != 0)
    }

    /// Returns the placement that the area was last used for.
    #[inline]
    pub(super) fn placement(self) -> Placement {
        Placement::from_index((self.0 >> PLACEMENT_SHIFT & PLACEMENT) as usize)
    }

    /// Returns whether a CPU slot should keep a block that is freed in the area: the area has the
    /// slot's mobility, and is dense or owned. A block in a sparse area is returned to the area, so
    /// that the area can become empty.
    #[inline(always)]
    pub(super) fn is_worth_keeping(self, mobility: Mobility) -> bool {
        // One comparison for both questions: the placements of a mobility are consecutive.
        let placements = Placement::all_of(mobility);
        let first = DENSE | (placements.start as u8) << PLACEMENT_SHIFT;
        let beyond = (self.0 & (DENSE | PLACEMENT << PLACEMENT_SHIFT)).wrapping_sub(first);
        beyond < (placements.len() as u8) << PLACEMENT_SHIFT
    }
}

/// The entries of a section's areas.
#[derive(Debug)]
pub(crate) struct Entries([SeqCstU8; SECTION_AREAS]);

// SAFETY: clause 1: the entries are an array of atomics, and each is valid when zero.
unsafe impl Zeroable for Entries {
    fn zero() -> Self {
        Self(Zeroable::zero())
    }
}

impl Entries {
    /// Returns the entry of `area` (SeqCst).
    #[inline(always)]
    pub(super) fn load(&self, area: usize) -> Entry {
        Entry(self.0[area].load())
    }

    /// Returns the entry of `area` at some moment (Relaxed), for decisions that a later access
    /// checks.
    #[inline(always)]
    pub(super) fn advice(&self, area: usize) -> Entry {
        Entry(self.0[area].advice())
    }

    /// Prefetches the entry of `area`.
    #[inline(always)]
    pub(super) fn prefetch(&self, area: usize) {
        prefetch(&self.0[area]);
    }

    /// Sets the entry of `area` (SeqCst).
    #[inline(always)]
    pub(super) fn store(&self, area: usize, entry: Entry) {
        self.0[area].store(entry.0);
    }

    /// Sets the entry of `area` in a section that no other CPU sees yet.
    pub(super) fn set_unpublished(&self, area: usize, entry: Entry) {
        self.0[area].store_unpublished(entry.0);
    }

    /// Sets the entry of `area` as the last access of a claim or a free (Release).
    #[inline(always)]
    pub(super) fn release(&self, area: usize, entry: Entry) {
        self.0[area].release(entry.0);
    }

    /// Exchanges the entry of `area` (SeqCst).
    ///
    /// # Errors
    /// The entry of `area`, when it is not `from`.
    #[inline(always)]
    pub(super) fn exchange(&self, area: usize, from: Entry, to: Entry) -> Result<(), Entry> {
        self.0[area].exchange(from.0, to.0).map_err(Entry)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::BTreeSet;

    use super::*;

    fn placements() -> impl Iterator<Item = Placement> {
        (0..PLACEMENTS).map(Placement::from_index)
    }

    /// Mutations that it catches: a state whose bits are those of another one; a placement or a
    /// density that changes with the state.
    #[test]
    fn an_entry_has_one_state_and_keeps_placement_and_density() {
        let states = |entry: Entry| {
            [entry.is_open(), entry.is_owned(), entry.is_claiming(), entry.is_whole()]
        };
        for placement in placements() {
            let (open, owned) = (Entry::open(placement), Entry::owned(placement));
            assert_eq!(open.with_dense(false), open);
            let dense = open.with_dense(true);
            assert_ne!(dense, open);
            assert_eq!((dense.with_dense(true), dense.with_dense(false)), (dense, open));
            for entry in [open, dense] {
                assert_eq!(states(entry), [true, false, false, false]);
                let claiming = entry.claiming();
                assert_eq!(states(claiming), [false, false, true, false]);
                assert_eq!(claiming.with_dense(true), dense.claiming(), "the density stays");
                assert_eq!(claiming.claiming(), claiming);
                assert!(entry.allows_takes() && !claiming.allows_takes());
                assert_eq!((entry.placement(), claiming.placement()), (placement, placement));
            }
            assert_ne!(open.claiming(), dense.claiming());
            assert_eq!(
                (states(owned), owned.placement()),
                ([false, true, false, false], placement)
            );
            assert!(owned.allows_takes());
        }
        assert_eq!(states(Entry::WHOLE), [false, false, false, true]);
        assert!(!Entry::WHOLE.allows_takes());
        assert_eq!(Entry::EMPTY, Entry::open(Placement::from_index(0)));
    }

    /// Tries every byte. Mutations that it catches: each condition of `is_valid` left out or turned
    /// round.
    #[test]
    fn the_valid_entries_are_those_that_functions_make() {
        let mut made = BTreeSet::from([Entry::WHOLE.0]);
        for placement in placements() {
            let open = Entry::open(placement);
            for entry in [open, open.with_dense(true)] {
                made.extend([entry.0, entry.claiming().0]);
            }
            made.insert(Entry::owned(placement).0);
        }
        assert_eq!(made.len(), 1 + 5 * PLACEMENTS);
        for byte in 0..=u8::MAX {
            assert_eq!(Entry::from_byte(byte).is_valid(), made.contains(&byte), "{byte:#010b}");
        }
    }

    /// Mutations that it catches: a block kept in a sparse area, in one of another mobility, or in
    /// a whole area. The first or the last placement of a mobility taken for one of its neighbour.
    #[test]
    fn blocks_are_kept_in_dense_areas_of_the_same_mobility() {
        let is_worth_it =
            |entry: Entry| Mobility::ALL.map(|mobility| entry.is_worth_keeping(mobility));
        for placement in placements() {
            let open = Entry::open(placement);
            let of_placement = Mobility::ALL.map(|mobility| mobility == placement.mobility());
            assert_eq!(is_worth_it(open), [false; 3]);
            assert_eq!(is_worth_it(open.with_dense(true)), of_placement);
            assert_eq!(is_worth_it(Entry::owned(placement)), of_placement);
        }
        assert_eq!(is_worth_it(Entry::WHOLE), [false; 3]);
    }

    /// Mutations that it catches: an access that does nothing or goes to another area; an exchange
    /// that does not compare.
    #[test]
    fn each_area_has_an_entry_of_its_own() {
        let entries: std::boxed::Box<Entries> = std::boxed::Box::new(Zeroable::zero());
        let of = |index| Entry::owned(Placement::from_index(index));
        entries.store(0, of(1));
        entries.release(SECTION_AREAS - 1, of(2));
        let loaded = |area| (entries.load(area), entries.advice(area));
        assert_eq!((loaded(0), loaded(1)), ((of(1), of(1)), (Entry::EMPTY, Entry::EMPTY)));
        assert_eq!(loaded(SECTION_AREAS - 1), (of(2), of(2)));
        assert_eq!(entries.exchange(0, of(2), of(3)), Err(of(1)));
        assert_eq!(entries.exchange(0, of(1), of(3)), Ok(()));
        assert_eq!(loaded(0), (of(3), of(3)));
    }
}
