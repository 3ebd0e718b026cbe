//! An area: 512 frames, 2 MiB, one line of bits.
//!
//! # Concepts
//! A bit is set while its frame is taken. Split and merge inside an area are implicit: a block is free exactly when its
//! aligned run of bits is clear, so freeing clears bits, and there is no merge loop and no list.
//!
//! # Concurrency
//! Anybody may take from any area. Each take is a read-modify-write that believes only its old value: bits that were set
//! before belong to somebody else, and those set by mistake are cleared again. So two takers never own the same frame,
//! whatever either of them saw while searching. All read-modify-writes of bits and all loads of whole lines are SeqCst, for
//! the pairs of locations that `section.rs` describes; as Acquire and Release they hand the frames' content over.

use page_frame::sync::{self, AtomicUsize, Ordering, Zeroable};

use crate::bits::{WORD_BITS, WORD_ORDER, best_fit_in_line, free_runs, lowest, mask, spread};

/// Words in a line. Smaller under loom, where a model can afford few locations.
pub(crate) const AREA_WORDS: usize = if sync::MODELLED { 2 } else { 512 / WORD_BITS };
/// The order of an area.
pub(crate) const AREA_ORDER: u32 = WORD_ORDER + AREA_WORDS.ilog2();
/// The frames of an area.
pub(crate) const AREA_FRAMES: usize = 1 << AREA_ORDER;

/// How often a take looks for another run after losing one to somebody else.
const TAKE_RETRIES: usize = 4;
/// How often splitting a whole area looks again at a word with a stray bit: a guess, about a microsecond.
const STRAY_RETRIES: usize = if sync::MODELLED { 2 } else { 128 };

/// The bits of an area, on one cache line.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Line([AtomicUsize; AREA_WORDS]);

// SAFETY: clause 1: an array of atomics, each valid when zero.
unsafe impl Zeroable for Line {
    fn zero() -> Self {
        Self(Zeroable::zero())
    }
}

/// The frames of a word whose free makes the area count its free ones again, so that its hint follows: two of each word, so
/// one free in 32 counts.
const COUNTED: usize = 1 << (WORD_BITS - 1) | 1 << (WORD_BITS / 2 - 1);

/// What a free changed, as far as hints care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freed {
    /// Some bit was clear already: somebody freed these frames before. Nothing was changed that was not taken.
    Already,
    /// A word left full: there may be no hint. Or it is time to count again.
    Notable,
    /// A word became empty: maybe all of the area is.
    Emptied,
    /// Hints still hold.
    Quiet,
}

impl Line {
    /// Returns the words as they are, each at its own moment.
    #[inline]
    pub(crate) fn load(&self) -> [usize; AREA_WORDS] {
        // SeqCst: after the caller's change of an entry or a hint. Acquire: pairs with frees, for claims that go on to own
        // what they saw clear.
        core::array::from_fn(|index| self.0[index].load(Ordering::SeqCst))
    }

    /// Returns how many frames are free.
    #[inline]
    pub(crate) fn free_frames(&self) -> usize {
        self.load().iter().map(|word| word.count_zeros() as usize).sum()
    }

    /// Whether all frames are free.
    #[inline]
    pub(crate) fn is_clear(&self) -> bool {
        // All of them, without a branch for each: they are on one cache line.
        self.load().iter().fold(0, |bits, word| bits | word) == 0
    }

    /// Takes the best fit for a block of `order` (below the area's); returns its first frame.
    ///
    /// # Errors
    /// Returns `None` when no run was seen, or each one seen was lost to somebody else; `undo` was called for what was
    /// set by mistake.
    pub(crate) fn take(&self, order: u32, mut undo: impl FnMut()) -> Option<usize> {
        (0..TAKE_RETRIES).find_map(|_| {
            let (start, _) = best_fit_in_line(&self.load(), order)?;
            let won = self.take_at(start, order);
            if !won {
                undo();
            }
            won.then_some(start)
        })
    }

    /// Takes the block of `order` at frame `start` if all of it is free; whether it was.
    #[inline]
    pub(crate) fn take_at(&self, start: usize, order: u32) -> bool {
        let first = start / WORD_BITS;
        if order < WORD_ORDER {
            let wanted = mask(start % WORD_BITS, order);
            // SeqCst: before the second look at the entry.
            let old = self.0[first].fetch_or(wanted, Ordering::SeqCst);
            if old & wanted != 0 {
                self.clear(first, wanted & !old);
            }
            return old & wanted == 0;
        }
        let words = 1 << (order - WORD_ORDER);
        for word in first..first + words {
            let empty =
                self.0[word].compare_exchange(0, usize::MAX, Ordering::SeqCst, Ordering::Relaxed);
            if empty.is_err() {
                (first..word).for_each(|word| _ = self.clear(word, usize::MAX));
                return false;
            }
        }
        true
    }

    /// Takes all free frames of the first word that has any; returns the word's number and the frames as bits.
    #[inline]
    pub(crate) fn take_word(&self) -> Option<(usize, usize)> {
        (0..AREA_WORDS).find_map(|word| {
            // Relaxed: a look; the swap decides.
            if self.0[word].load(Ordering::Relaxed) == usize::MAX {
                return None;
            }
            // SeqCst: as in `take_at`.
            let got = !self.0[word].swap(usize::MAX, Ordering::SeqCst);
            (got != 0).then_some((word, got))
        })
    }

    /// Takes up to `limit` blocks of `order`, below a word's, from the first word that has any: the word's number, the
    /// blocks' starts as bits. `undo` was called if some were lost to others and what was set of them is clear again.
    pub(crate) fn take_runs(
        &self,
        order: u32,
        limit: usize,
        mut undo: impl FnMut(),
    ) -> Option<(usize, usize)> {
        (0..AREA_WORDS).find_map(|word| {
            // Relaxed: a look; the read-modify-write decides.
            let seen = free_runs(self.0[word].load(Ordering::Relaxed), order);
            let starts = lowest(seen, limit);
            if starts == 0 {
                return None;
            }
            let wanted = spread(starts, order);
            // SeqCst: as in `take_at`.
            let old = self.0[word].fetch_or(wanted, Ordering::SeqCst);
            let won = starts & free_runs(old, order);
            let stray = wanted & !old & !spread(won, order);
            if stray != 0 {
                self.clear(word, stray);
                undo();
            }
            (won != 0).then_some((word, won))
        })
    }

    /// Whether a block of `order`, below a word's, is free somewhere.
    pub(crate) fn has_run(&self, order: u32) -> bool {
        // Relaxed: a look.
        self.0.iter().any(|word| free_runs(word.load(Ordering::Relaxed), order) != 0)
    }

    /// Takes every frame of a line that is clear but for strays; gives up, with nothing taken, when a stray stays.
    pub(crate) fn take_all(&self) -> bool {
        for word in 0..AREA_WORDS {
            let won = (0..STRAY_RETRIES).any(|_| {
                let exchange = self.0[word].compare_exchange(
                    0,
                    usize::MAX,
                    Ordering::SeqCst,
                    Ordering::Relaxed,
                );
                exchange.inspect_err(|_| sync::spin_hint()).is_ok()
            });
            if !won {
                (0..word).for_each(|word| _ = self.clear(word, usize::MAX));
                return false;
            }
        }
        true
    }

    /// Frees the block of `order` (below the area's) at frame `start`.
    #[inline]
    pub(crate) fn free(&self, start: usize, order: u32) -> Freed {
        if order < WORD_ORDER {
            return self.clear(start / WORD_BITS, mask(start % WORD_BITS, order));
        }
        let first = start / WORD_BITS;
        let words = first..first + (1 << (order - WORD_ORDER));
        let freed = words.map(|word| self.clear(word, usize::MAX));
        freed.fold(Freed::Notable, |all, one| if one == Freed::Already { one } else { all })
    }

    /// Frees the frames that are set in `frames` of word `word`.
    #[inline]
    pub(crate) fn clear(&self, word: usize, frames: usize) -> Freed {
        // SeqCst: before the look at entry and hint in `publish`.
        let old = self.0[word].fetch_and(!frames, Ordering::SeqCst);
        if old & frames != frames {
            Freed::Already
        } else if old == usize::MAX || frames & COUNTED != 0 {
            Freed::Notable
        } else if old == frames {
            Freed::Emptied
        } else {
            Freed::Quiet
        }
    }

    /// Marks the frames `start` to `end` (excluded) as taken for ever, while nobody else uses the line.
    pub(crate) fn withhold(&self, start: usize, end: usize) {
        let mut at = start;
        while at < end {
            let bit = at % WORD_BITS;
            let count = (WORD_BITS - bit).min(end - at);
            let frames = if count == WORD_BITS { usize::MAX } else { ((1 << count) - 1) << bit };
            // Relaxed: the line is published when the section is.
            self.0[at / WORD_BITS].fetch_or(frames, Ordering::Relaxed);
            at += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a line in which only word `word` has free frames, those that are clear in `taken`.
    fn line(word: usize, taken: usize) -> Line {
        let line = Line::zero();
        line.withhold(0, AREA_FRAMES);
        line.clear(word, !taken);
        line
    }

    /// The lowest aligned free runs of a word, found by trying each, and what is taken then.
    fn lowest_runs(taken: usize, order: u32, limit: usize) -> (usize, usize) {
        let starts = (0..WORD_BITS).step_by(1 << order);
        let free = starts.filter(|start| taken & mask(*start, order) == 0);
        free.take(limit).fold((0, taken), |(runs, taken), start| {
            (runs | 1 << start, taken | mask(start, order))
        })
    }

    fn takes_the_lowest_runs(word: usize, taken: usize, order: u32, limit: usize) {
        let line = line(word, taken);
        let undo = || panic!("nobody else is there");
        let (runs, after) = lowest_runs(taken, order, limit);
        assert_eq!(line.has_run(order), runs != 0);
        let got = line.take_runs(order, limit, undo);
        assert_eq!(got, (runs != 0).then_some((word, runs)), "{taken:#b}, {order}, {limit}");
        assert_eq!(line.load()[word], after, "{taken:#b}: what was taken is those runs");
        let others = (0..AREA_WORDS).filter(|other| *other != word);
        assert!(others.into_iter().all(|other| line.load()[other] == usize::MAX));
    }

    #[test]
    fn the_lowest_runs_are_taken_of_all_16_bit_words_and_of_random_ones() {
        for low in 0..=u16::MAX {
            let taken = usize::from(low) | usize::MAX << 16;
            for order in 0..=4 {
                takes_the_lowest_runs(AREA_WORDS - 1, taken, order, 1 + usize::from(low) % 5);
            }
        }
        let mut random = testkit::Random::new(2);
        for _ in 0..20_000 {
            let taken = (random.number() & random.number()) as usize;
            let order = random.below(WORD_ORDER as usize) as u32;
            takes_the_lowest_runs(random.below(AREA_WORDS), taken, order, 1 + random.below(17));
        }
    }
}
