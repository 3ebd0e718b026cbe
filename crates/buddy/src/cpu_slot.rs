//! What a CPU keeps of single frames: the free frames of one word, as bits nobody else touches.
//!
//! A refill takes all free frames of a word by one swap. Allocating is then finding a bit and clearing it, freeing into
//! the same word is setting it: no atomic operation. The word goes home in one atomic operation when it is drained.

use page_frame::FrameNumber;
use page_frame::sync::{AtomicUsize, Ordering, Zeroable};

use crate::run::WORD_BITS;

/// The free frames of one word, kept by a CPU. For everybody else they are taken.
#[derive(Debug, Default)]
pub(crate) struct CpuSlot {
    /// The frame that bit 0 stands for.
    word: FrameNumber,
    /// Set while the frame is free.
    frames: usize,
}

impl CpuSlot {
    /// Takes out the lowest frame.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<FrameNumber> {
        let bit = self.frames.trailing_zeros() as usize;
        self.frames &= self.frames.wrapping_sub(1);
        (bit < WORD_BITS).then(|| FrameNumber::new(self.word.get() + bit))
    }

    /// Keeps `frame` if it is of the word that is kept, or none is; whether it was kept.
    #[inline]
    pub(crate) fn push(&mut self, frame: FrameNumber) -> bool {
        let bit = frame.get() % WORD_BITS;
        let word = FrameNumber::new(frame.get() - bit);
        if self.frames == 0 {
            self.word = word;
        }
        let is_ours = self.word == word;
        if is_ours {
            self.frames |= 1 << bit;
        }
        is_ours
    }

    /// Keeps the free frames of another word. The slot is empty.
    pub(crate) fn refill(&mut self, word: FrameNumber, frames: usize) {
        debug_assert!(self.frames == 0, "only an empty slot is refilled");
        (self.word, self.frames) = (word, frames);
    }

    /// Returns how many frames are kept.
    pub(crate) fn frames(&self) -> usize {
        self.frames.count_ones() as usize
    }

    /// Takes out all frames: those of the word at the frame returned that are set in the bits returned.
    pub(crate) fn drain(&mut self) -> (FrameNumber, usize) {
        (self.word, core::mem::take(&mut self.frames))
    }
}

/// How many frames a slot holds, where others may read it. On a line of its own.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Kept(AtomicUsize);

// SAFETY: clause 1: one atomic, valid when zero, and padding.
unsafe impl Zeroable for Kept {
    fn zero() -> Self {
        Self(Zeroable::zero())
    }
}

impl Kept {
    pub(crate) fn get(&self) -> usize {
        // Relaxed: an estimate; nothing is published by it.
        self.0.load(Ordering::Relaxed)
    }

    /// Called by whoever has the slot, its owner or a taker.
    pub(crate) fn set(&self, frames: usize) {
        // Relaxed: as above.
        self.0.store(frames, Ordering::Relaxed);
    }
}
