//! Homes: each CPU slot searches areas of its own first, so that CPUs seldom write to one line.
//!
//! # Concepts
//! The areas of a word of hints are neighbours: their hints, their entries and their counts of
//! deferred frees share cache lines. The word from which a slot took an area last is the slot's
//! **home**. The slot searches the homes of other slots last, and takes empty areas from its own
//! home first. For an area in use it follows the policy of `search.rs`, but skips the homes of
//! others. Decision 40 has the figures: memory stays about as dense.
//!
//! A home is advice, not a right. A slot that finds an area only in the home of another slot has
//! its home there, too; the table names the slot that came last. In a memory of fewer than
//! [`MANY_WORDS`] words of hints, searches ignore all homes once more slots have one than there are
//! words. Requests outside a slot have no home and change none: `search.rs` asks
//! [`Home::has_slot`] first.
//!
//! # Concurrency
//! Two slots that search at the same time find the same words. Each claims the word before it takes
//! an area there, and one of them goes on to another word. All accesses are Relaxed: a wrong answer
//! costs time only.
//!
//! # Source
//! LLFree reserves trees of areas for CPUs (Wrenger, Rommel, Halbuer, Dietrich and Lohmann 2023,
//! "LLFree: Scalable and Optionally-Persistent Page-Frame Allocation").

use page_frame::FrameNumber;
use page_frame::sync::{AtomicUsize, Ordering};

use crate::bitmap::bits::{AREA_FRAMES, WORD_BITS};
use crate::bitmap::hints::HINT_WORDS;

/// Number of frames that a word of hints covers.
const HOME_FRAMES: usize = WORD_BITS * AREA_FRAMES;

/// With at least this many words, homes count for any number of slots. The number is a guess.
const MANY_WORDS: usize = 64;

/// Returns the largest number of slots that can have a whole word of hints each, of those of
/// `areas` areas. When more slots have homes, searches ignore all homes.
pub(super) const fn max_slots(areas: usize) -> usize {
    let words = areas / WORD_BITS;
    if words >= MANY_WORDS { usize::MAX } else { words }
}

/// The words of hints that a step of a search looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The home of the slot.
    Home,
    /// Those that are no other slot's home, from the bound of the placement on.
    Open,
    /// All from the bound of the placement on.
    Anywhere,
    /// All from the lowest section on.
    FromLowest,
}

/// The home of a slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Home {
    /// The slot's number plus one; 0 for a slot that has no homes.
    slot: usize,
    /// The first frame of the home plus one; 0 for no home.
    start: usize,
}

impl Home {
    /// Returns the home of a request that has no slot, or whose slot may not have one: its searches
    /// begin at the lowest section. All bytes are zero, as those of a slot that is not set up.
    pub(crate) const fn none() -> Self {
        Self { slot: 0, start: 0 }
    }

    /// Makes the home of the slot with number `slot`, before the slot has taken an area.
    pub(crate) const fn new(slot: usize) -> Self {
        Self { slot: slot + 1, start: 0 }
    }

    /// Returns whether the slot has homes.
    #[inline]
    pub(super) const fn has_slot(self) -> bool {
        self.slot != 0
    }

    /// Returns the home of the same slot at `word` of the section that begins at frame `base`.
    pub(super) const fn moved_to(self, base: usize, word: usize) -> Self {
        Self { start: base + word * HOME_FRAMES + 1, ..self }
    }

    /// Returns whether the home is `word` of the section that begins at frame `base`.
    pub(super) const fn is_at(self, base: usize, word: usize) -> bool {
        self.start == self.moved_to(base, word).start
    }

    /// Returns the first frame of the home; `None` before the slot has taken an area.
    #[inline]
    pub(super) fn start(self) -> Option<FrameNumber> {
        self.start.checked_sub(1).map(FrameNumber::new)
    }
}

/// For each word of hints of a section the slot whose home it is.
#[derive(Debug)]
pub(super) struct Homes([AtomicUsize; HINT_WORDS]);

impl Homes {
    /// Makes the homes of a section in which no slot has its home.
    pub(super) fn new() -> Self {
        Self(core::array::from_fn(|_| AtomicUsize::new(0)))
    }

    /// Returns whether `word` is the home of another slot than that of `home`.
    #[inline]
    pub(super) fn belongs_to_other(&self, home: Home, word: usize) -> bool {
        let owner = self.0[word].load(Ordering::Relaxed);
        owner != 0 && owner != home.slot
    }

    /// Makes `word` the home of the slot of `home`, unless it is another slot's home; returns
    /// whether the word is now its home. The slot must leave its old home then.
    #[inline]
    pub(super) fn claim(&self, home: Home, word: usize) -> bool {
        // Relaxed, as everywhere in this file: advice.
        let word = &self.0[word];
        let owner = word.load(Ordering::Relaxed);
        owner == home.slot
            || owner == 0
                && word.compare_exchange(0, home.slot, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Makes `word` the home of the slot of `home`, whosever home it is.
    pub(super) fn share(&self, home: Home, word: usize) {
        self.0[word].store(home.slot, Ordering::Relaxed);
    }

    /// Makes `word` no slot's home, if it is that of `home`. Another slot that shares the word at
    /// this moment may lose its home by that, which is harmless.
    pub(super) fn leave(&self, home: Home, word: usize) {
        if self.0[word].load(Ordering::Relaxed) == home.slot {
            self.0[word].store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutations that it catches: a claim of a word that is another slot's home; a slot that ends
    /// the home of another one.
    #[test]
    fn a_word_is_the_home_of_the_slot_that_claimed_or_shared_it_last() {
        let homes = Homes::new();
        let [one, other] = [0, 7].map(Home::new);
        assert!(homes.claim(one, 3) && homes.claim(one, 3) && !homes.claim(other, 3));
        assert!(homes.belongs_to_other(other, 3) && !homes.belongs_to_other(one, 3));
        assert!(homes.claim(other, 2), "another word");
        homes.leave(other, 3);
        assert!(!homes.claim(other, 3), "not the other's to leave");
        homes.share(other, 3);
        homes.leave(one, 3);
        assert!(!homes.claim(one, 3), "the last slot that settled is named");
        homes.leave(other, 3);
        assert!(!homes.belongs_to_other(one, 3) && homes.claim(one, 3));
    }

    #[test]
    fn a_home_is_named_by_its_first_frame() {
        let home = Home::new(0);
        assert!(home.has_slot() && home.start().is_none());
        assert_eq!(home.moved_to(0, 0).start(), Some(FrameNumber::new(0)));
        assert_eq!(home.moved_to(5, 2).start(), Some(FrameNumber::new(5 + 2 * HOME_FRAMES)));
        assert!(!Home::none().has_slot());
    }
}
