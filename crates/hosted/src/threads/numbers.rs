//! The set of numbers that threads have.
//!
//! # Concurrency
//! A bit for each number, in a few atomic words. All changes that take a number and all loads are
//! SeqCst: they are in one order with the accesses of the fork lock, and with the fence of
//! `Threads::fence_all`.

use core::sync::atomic::{AtomicU64, Ordering};

/// Maximum number of threads that have numbers of their own at the same time.
pub(crate) const OWN: usize = 111;
/// While fewer threads have numbers, each gets one at once. Later, only threads that allocate much.
pub(crate) const AT_ONCE: usize = 32;
/// The numbers after them, which threads without a number borrow.
pub(crate) const SHARED: usize = 16;
/// All numbers.
pub(crate) const ALL: usize = OWN + SHARED;

const WORD_BITS: usize = u64::BITS as usize;
const WORDS: usize = ALL.div_ceil(WORD_BITS);

/// A set of numbers.
#[derive(Debug)]
pub(crate) struct Numbers([AtomicU64; WORDS]);

impl Numbers {
    /// Makes an empty set.
    pub(crate) const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; WORDS])
    }

    /// Takes the lowest free number below [`OWN`].
    pub(crate) fn take_lowest(&self) -> Option<usize> {
        self.0.iter().enumerate().find_map(|(index, word)| {
            let first = index * WORD_BITS;
            let count = OWN.saturating_sub(first).min(WORD_BITS);
            let lowest_free = |taken: u64| {
                let free = taken.trailing_ones() as usize;
                (free < count).then(|| taken | 1 << free)
            };
            // Includes the Acquire that pairs with the Release in `free`.
            let before =
                word.fetch_update(Ordering::SeqCst, Ordering::Relaxed, lowest_free).ok()?;
            Some(first + before.trailing_ones() as usize)
        })
    }

    /// Returns how many numbers below [`OWN`] are taken at the moment.
    pub(crate) fn own_taken(&self) -> usize {
        let of_word = |(index, word): (usize, &AtomicU64)| {
            let beyond = (index * WORD_BITS + WORD_BITS).saturating_sub(OWN).min(WORD_BITS);
            // Relaxed: advice. No shift is by a whole word.
            let own = u64::MAX.checked_shr(beyond as u32).unwrap_or(0);
            (word.load(Ordering::Relaxed) & own).count_ones() as usize
        };
        self.0.iter().enumerate().map(of_word).sum()
    }

    /// Adds `number`; returns whether it was not in the set. Another thread may add it meanwhile.
    pub(crate) fn insert(&self, number: usize) -> bool {
        let (word, bit) = self.place(number);
        word.load(Ordering::SeqCst) & bit == 0 && word.fetch_or(bit, Ordering::SeqCst) & bit == 0
    }

    /// Frees `number`.
    pub(crate) fn free(&self, number: usize) {
        let (word, bit) = self.place(number);
        // Release: pairs with the Acquire in `take_lowest`; publishes the slots to the next thread.
        word.fetch_and(!bit, Ordering::Release);
    }

    /// Returns whether the set has any number but `own`.
    pub(crate) fn has_others(&self, own: Option<usize>) -> bool {
        self.0
            .iter()
            .enumerate()
            .any(|(index, word)| word.load(Ordering::SeqCst) & !Self::bit_in(index, own) != 0)
    }

    /// Removes all numbers but `own`, in a process with one thread.
    pub(crate) fn keep_only(&self, own: Option<usize>) {
        for (index, word) in self.0.iter().enumerate() {
            word.fetch_and(Self::bit_in(index, own), Ordering::SeqCst);
        }
    }

    fn place(&self, number: usize) -> (&AtomicU64, u64) {
        (&self.0[number / WORD_BITS], 1 << (number % WORD_BITS))
    }

    /// Returns the bit of `own` in word `index`, or zero.
    fn bit_in(index: usize, own: Option<usize>) -> u64 {
        own.filter(|own| own / WORD_BITS == index).map_or(0, |own| 1 << (own % WORD_BITS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_numbers_are_taken_and_the_shared_ones_are_not() {
        let numbers = Numbers::new();
        assert!((0..OWN).all(|number| numbers.take_lowest() == Some(number)));
        assert!(numbers.insert(OWN), "a shared number");
        assert!(numbers.own_taken() == OWN && numbers.take_lowest().is_none());
        numbers.free(70);
        numbers.free(3);
        assert_eq!(numbers.own_taken(), OWN - 2);
        assert_eq!([(); 3].map(|()| numbers.take_lowest()), [Some(3), Some(70), None]);
    }

    #[test]
    fn others_are_all_but_the_own_number() {
        let numbers = Numbers::new();
        assert!(!numbers.has_others(None));
        assert!(numbers.insert(OWN) && !numbers.insert(OWN));
        assert!(numbers.has_others(None) && numbers.has_others(Some(0)));
        assert!(!numbers.has_others(Some(OWN)));
        assert_eq!(numbers.take_lowest(), Some(0));
        assert!(numbers.has_others(Some(OWN)));
        numbers.keep_only(Some(OWN));
        assert!(!numbers.has_others(Some(OWN)) && numbers.has_others(None));
    }
}
