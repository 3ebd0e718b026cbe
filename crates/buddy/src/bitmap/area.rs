//! An area: 512 frames (2 MiB), one cache line with a bit for each frame.
//!
//! # Concepts
//! A bit is set while its frame is taken. Split and merge inside an area are implicit: a block is
//! free exactly when its aligned run of bits is clear. A free clears bits, and needs no merge loop
//! and no list.
//!
//! # Concurrency
//! Every CPU may take from every area. A take is a read-modify-write that trusts only the old
//! value: a bit that was set before belongs to another owner. The bits that the take set beside it
//! are **stray** bits, which it clears again. So two takers never own the same frame, whatever
//! either of them saw while searching. All read-modify-writes of bits and all loads of whole lines
//! are SeqCst, for the pairs of locations that `section.rs` describes. As Acquire and Release they
//! also hand over the contents of the frames.

use page_frame::sync::{self, SeqCstUsize, Zeroable};

use crate::bitmap::bits::{
    AREA_WORDS, WORD_BITS, WORD_ORDER, best_fit_in_line, free_runs, lowest, mask, spread, words,
};

/// Maximum number of runs that a take tries after losing one to another CPU.
const TAKE_RETRIES: usize = 4;
/// Maximum number of loads of a word with a stray bit before the split of a whole area gives up: a
/// guess, about 1 us.
const STRAY_RETRIES: usize = if sync::MODELLED { 2 } else { 128 };

/// The bits of an area, on one cache line.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Line([SeqCstUsize; AREA_WORDS]);

// SAFETY: clause 1: the line is an array of atomics, and each is valid when zero.
unsafe impl Zeroable for Line {
    fn zero() -> Self {
        Self(Zeroable::zero())
    }
}

/// Two frames of each word. A free of one of them counts the area's free frames again and updates
/// the hint: one free of a single frame in 32.
const COUNTING_FRAMES: usize = 1 << (WORD_BITS - 1) | 1 << (WORD_BITS / 2 - 1);

/// The effect of a free on the hints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freed {
    /// A double free: some of the frames were free already. The other frames are free now.
    Already,
    /// A word was full, so the area may lack a hint; or one of the [`COUNTING_FRAMES`] was freed.
    Notable,
    /// All frames of a word are free now, and perhaps those of the whole area.
    Emptied,
    /// The hints are still right.
    Quiet,
}

impl Line {
    /// Loads the words, each at its own moment.
    #[inline]
    pub(crate) fn load(&self) -> [usize; AREA_WORDS] {
        // SeqCst: after the caller's change of an entry or a hint. Acquire: pairs with frees, for a
        // claim that then owns the frames that it saw clear.
        core::array::from_fn(|index| self.0[index].load())
    }

    /// Returns how many frames are free.
    #[inline]
    pub(crate) fn free_frames(&self) -> usize {
        self.load().iter().map(|word| word.count_zeros() as usize).sum()
    }

    /// Returns whether all frames are free.
    #[inline]
    pub(crate) fn is_clear(&self) -> bool {
        // One test for all words: they are on one cache line.
        self.load().iter().fold(0, |bits, word| bits | word) == 0
    }

    /// Takes the best fit for a block of `order` (below the area's); returns its first frame.
    ///
    /// Returns `None` when it saw no free run, or other CPUs took each run first. Calls `undo`
    /// after each lost run, when the stray bits are clear again.
    pub(crate) fn take(&self, order: u32, mut undo: impl FnMut()) -> Option<usize> {
        for _ in 0..TAKE_RETRIES {
            let line = self.load();
            // A request that fails looks at every area, and most of them are full.
            if line.iter().fold(usize::MAX, |full, word| full & word) == usize::MAX {
                return None;
            }
            let (start, _) = best_fit_in_line(&line, order)?;
            if self.take_at(start, order) {
                return Some(start);
            }
            undo();
        }
        None
    }

    /// Takes the block of `order` at frame `start` if all of it is free; returns whether it was.
    #[inline]
    pub(crate) fn take_at(&self, start: usize, order: u32) -> bool {
        let first = start / WORD_BITS;
        if order < WORD_ORDER {
            let wanted = mask(start % WORD_BITS, order);
            // SeqCst: before the second look at the entry.
            let old = self.0[first].set_bits(wanted);
            if old & wanted != 0 {
                self.clear(first, wanted & !old);
            }
            return old & wanted == 0;
        }
        let words = 1 << (order - WORD_ORDER);
        for word in first..first + words {
            if self.0[word].exchange(0, usize::MAX).is_err() {
                (first..word).for_each(|word| _ = self.clear(word, usize::MAX));
                return false;
            }
        }
        true
    }

    /// Takes all free frames of the first word that has any; returns the word's index and the
    /// frames as bits.
    #[inline]
    pub(crate) fn take_word(&self) -> Option<(usize, usize)> {
        (0..AREA_WORDS).find_map(|word| {
            // A first look; the swap decides.
            if self.0[word].advice() == usize::MAX {
                return None;
            }
            // SeqCst: as in `take_at`.
            let got = !self.0[word].swap(usize::MAX);
            (got != 0).then_some((word, got))
        })
    }

    /// Takes up to `limit` blocks of `order` (below a word's) from the first word that has any;
    /// returns the word's index and the starts of the blocks as bits. Calls `undo` after clearing
    /// stray bits, which it sets when other CPUs take a part of a block first.
    pub(crate) fn take_runs(
        &self,
        order: u32,
        limit: usize,
        mut undo: impl FnMut(),
    ) -> Option<(usize, usize)> {
        (0..AREA_WORDS).find_map(|word| {
            // A first look; the read-modify-write decides.
            let seen = free_runs(self.0[word].advice(), order);
            let starts = lowest(seen, limit);
            if starts == 0 {
                return None;
            }
            let wanted = spread(starts, order);
            // SeqCst: as in `take_at`.
            let old = self.0[word].set_bits(wanted);
            let won = starts & free_runs(old, order);
            let stray = wanted & !old & !spread(won, order);
            if stray != 0 {
                self.clear(word, stray);
                undo();
            }
            (won != 0).then_some((word, won))
        })
    }

    /// Returns whether some block of `order` (below a word's) is free.
    pub(crate) fn has_run(&self, order: u32) -> bool {
        self.0.iter().any(|word| free_runs(word.advice(), order) != 0)
    }

    /// Takes every frame of a line that is clear except for stray bits; returns whether it did.
    /// When a stray bit stays, it takes nothing.
    pub(crate) fn take_all(&self) -> bool {
        for word in 0..AREA_WORDS {
            let won = (0..STRAY_RETRIES).any(|_| {
                let exchange = self.0[word].exchange(0, usize::MAX);
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
        let old = self.0[word].clear_bits(frames);
        if old & frames != frames {
            Freed::Already
        } else if old == usize::MAX || frames & COUNTING_FRAMES != 0 {
            Freed::Notable
        } else if old == frames {
            Freed::Emptied
        } else {
            Freed::Quiet
        }
    }

    /// Marks the frames from `start` to `end` (excluded) as taken for ever, before the line is
    /// published.
    pub(crate) fn reserve(&self, start: usize, end: usize) {
        for (word, frames) in words(start, end) {
            self.0[word].set_bits(frames);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitmap::bits::AREA_FRAMES;

    /// Makes a line in which only word `word` has free frames, those that are clear in `taken`.
    fn line(word: usize, taken: usize) -> Line {
        let line = Line::zero();
        line.reserve(0, AREA_FRAMES);
        line.clear(word, !taken);
        line
    }

    /// Returns the lowest aligned free runs of a word, found by trying each, and the word after
    /// they are taken.
    fn lowest_runs(taken: usize, order: u32, limit: usize) -> (usize, usize) {
        let starts = (0..WORD_BITS).step_by(1 << order);
        let free = starts.filter(|start| taken & mask(*start, order) == 0);
        free.take(limit).fold((0, taken), |(runs, taken), start| {
            (runs | 1 << start, taken | mask(start, order))
        })
    }

    fn takes_the_lowest_runs(word: usize, taken: usize, order: u32, limit: usize) {
        let line = line(word, taken);
        let undo = || panic!("there is no other thread");
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

    #[test]
    fn a_free_says_what_it_means_for_the_hints() {
        let freed = |taken: usize, frames: usize| {
            let line = Line::zero();
            line.0[1].swap(taken);
            let freed = line.clear(1, frames);
            assert_eq!(line.load()[1], taken & !frames);
            freed
        };
        assert_eq!(freed(usize::MAX, 0b100), Freed::Notable, "the word was full");
        assert_eq!(freed(0b1100, 0b100), Freed::Quiet);
        assert_eq!(freed(0b1100, 0b1100), Freed::Emptied);
        assert_eq!(freed(0b1100, 0b10), Freed::Already);
        assert_eq!(freed(0b1100, 0b110), Freed::Already, "and the other frame is free");
        assert_eq!(freed(usize::MAX - 1, 1), Freed::Already);
        for counting in [WORD_BITS - 1, WORD_BITS / 2 - 1] {
            assert_eq!(freed(1 << counting | 1, 1 << counting), Freed::Notable);
            assert_eq!(freed(1 << counting, 1 << counting), Freed::Notable, "also the last one");
        }
        assert_eq!(freed(1 << (WORD_BITS - 2) | 1, 1 << (WORD_BITS - 2)), Freed::Quiet);
    }

    #[test]
    fn a_take_that_loses_leaves_the_bits_of_others_and_no_stray_ones() {
        let line = Line::zero();
        assert!(line.take_at(5, 0) && !line.take_at(5, 0));
        assert!(!line.take_at(4, 2), "of four frames one is taken");
        assert_eq!(line.load()[0], 1 << 5);
        assert!(line.take_at(8, 3));
        assert_eq!(line.load()[0], 1 << 5 | 0xff << 8);
        // Blocks of whole words.
        assert!(!line.take_at(0, WORD_ORDER) && line.take_at(WORD_BITS, WORD_ORDER));
        assert!(line.take_at(5 * WORD_BITS, WORD_ORDER));
        assert!(!line.take_at(4 * WORD_BITS, WORD_ORDER + 1), "the second word is taken");
        let full = usize::MAX;
        let words = [1 << 5 | 0xff << 8, full, 0, 0, 0, full, 0, 0];
        assert_eq!(line.load()[..8], words);
        assert!(line.take_at(2 * WORD_BITS, WORD_ORDER + 1));
        assert_eq!(line.load()[2..4], [full; 2]);
        assert_eq!(line.free(2 * WORD_BITS, WORD_ORDER + 1), Freed::Notable);
        assert_eq!(line.free(2 * WORD_BITS, WORD_ORDER + 1), Freed::Already);
        assert_eq!((line.load()[2..4].to_vec(), line.free(8, 3)), ([0; 2].to_vec(), Freed::Quiet));
        assert_eq!(line.load()[0], 1 << 5);
    }

    #[test]
    fn a_take_finds_the_best_fit_or_nothing() {
        let undo = || panic!("there is no other thread");
        let line = Line::zero();
        line.reserve(0, AREA_FRAMES);
        assert_eq!((line.take(0, undo), line.free_frames(), line.take_word()), (None, 0, None));
        line.clear(6, 0b1111_0000_0001);
        assert_eq!((line.free_frames(), line.is_clear()), (5, false));
        assert_eq!(line.take(2, undo), Some(6 * WORD_BITS + 8));
        assert_eq!(line.take(1, undo), None);
        assert_eq!(line.take(0, undo), Some(6 * WORD_BITS));
        line.clear(2, 0b101);
        line.clear(3, 1);
        assert_eq!(line.take_word(), Some((2, 0b101)), "all of the first word with any");
        assert_eq!(line.load()[2], usize::MAX);
        assert_eq!(line.take_word(), Some((3, 1)));
        assert_eq!(line.take_word(), None);
    }

    #[test]
    fn a_whole_line_is_taken_only_without_stray_bits() {
        let line = Line::zero();
        assert!(line.is_clear());
        assert!(line.take_at(3 * WORD_BITS + 9, 0));
        assert!(!line.is_clear() && !line.take_all());
        assert_eq!(line.free_frames(), AREA_FRAMES - 1, "it took nothing");
        line.free(3 * WORD_BITS + 9, 0);
        assert!(line.take_all());
        assert_eq!(line.free_frames(), 0);
        assert!(!line.take_all());
    }

    #[test]
    fn a_range_is_reserved_across_words() {
        let line = Line::zero();
        line.reserve(WORD_BITS - 1, 2 * WORD_BITS + 2);
        assert_eq!(line.load()[..4], [1 << (WORD_BITS - 1), usize::MAX, 0b11, 0]);
    }
}
