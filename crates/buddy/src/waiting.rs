//! Freed blocks of one order that wait in a CPU slot until it is decided where they go, as bits of words.
//!
//! # Concepts
//! The word that was freed into **last** is kept apart: the next block freed beside it joins it by one operation on its bits.
//! A block of another word moves it behind the others.
//!
//! # Invariants
//! - I1: `count <= limit < WORDS`: there is always a place for the last word behind the others.
//!
//! # Concurrency
//! None of its own: the slot belongs to whoever entered it or took it over.

use crate::run::{WORD_BITS, WORD_ORDER, mask};

/// How many orders wait: those below a word's. The others cannot be brought home together.
pub(crate) const WAITING: usize = WORD_ORDER as usize;
/// Room for words of an order that wait, the last one included: a guess.
const WORDS: usize = 16;
/// How many words of `order` wait at most, beside the last, so that no order keeps more than 2 MiB of them.
pub(crate) const fn waiting(order: usize) -> usize {
    if order < 4 { WORDS - 1 } else { 3 }
}

/// Single frames of a word, or blocks: the frame that bit 0 stands for, and the frames as bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word {
    pub(crate) start: usize,
    pub(crate) frames: usize,
}

impl Word {
    pub(crate) const NONE: Self = Self { start: usize::MAX, frames: 0 };
    pub(crate) const ZERO: Self = Self { start: 0, frames: 0 };
}

/// The blocks of one order that wait.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Waiting {
    /// The word that was freed into last.
    last: Word,
    count: usize,
    limit: usize,
    /// The bits of a block at the start of a word.
    block: usize,
    words: [Word; WORDS],
}

impl Waiting {
    pub(crate) const ZERO: Self =
        Self { last: Word::ZERO, count: 0, limit: 0, block: 0, words: [Word::ZERO; WORDS] };

    pub(crate) fn new(order: usize) -> Self {
        const { assert!(waiting(0) < WORDS, "I1") };
        Self { last: Word::NONE, limit: waiting(order), block: mask(0, order as u32), ..Self::ZERO }
    }

    /// Returns the words, the first first.
    #[inline]
    pub(crate) fn words(&mut self) -> &[Word] {
        // I1: there is room behind the last of `count`.
        self.words[self.count] = self.last;
        &self.words[..self.count + usize::from(self.last.frames != 0)]
    }

    /// Forgets all of them.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.count = 0;
        self.last = Word::NONE;
    }

    /// Whether no block waits.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.last.frames == 0
    }

    /// How many words wait, beside the last.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Keeps the block at `start`; false when there is no room, or it waits already.
    #[inline(always)]
    pub(crate) fn push(&mut self, start: usize) -> bool {
        let bit = start % WORD_BITS;
        let (word, frames) = (start - bit, self.block << bit);
        if self.last.start == word {
            // A slot that is not set up: a block has no bits then, and then this is false.
            let is_new = self.last.frames & frames < frames;
            self.last.frames |= frames;
            return is_new;
        }
        if self.count == self.limit {
            return false;
        }
        if self.last.frames != 0 {
            self.words[self.count] = self.last;
            self.count += 1;
        }
        self.last = Word { start: word, frames };
        true
    }
}
