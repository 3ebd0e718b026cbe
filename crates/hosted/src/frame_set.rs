//! Which frames the system has put memory behind: a bit each.
//!
//! # Concepts
//! A frame of fresh address space costs nothing and reads as zero. It is **set** from the moment it is first handed out
//! until it is given back to the system. A block of which no frame is set is zero; a free frame that is set is what
//! there is to give back.
//!
//! # Concurrency
//! Bits are changed by whoever owns the frame. Relaxed: the frame's own hand-over orders them.

use core::ptr::NonNull;

use page_frame::sync::{AtomicUsize, Ordering, slice_in};
use page_frame::{FrameNumber, FrameRange};

const WORD_BITS: usize = usize::BITS as usize;

/// A bit for each frame of a range.
#[derive(Debug)]
pub(crate) struct FrameSet {
    first: usize,
    words: &'static [AtomicUsize],
}

impl FrameSet {
    /// Returns how many bytes the bits of `frames` take, a multiple of 64.
    pub(crate) fn bytes(frames: FrameRange) -> usize {
        (Self::words(frames) * size_of::<AtomicUsize>()).next_multiple_of(64)
    }

    /// Makes the bits of `frames`, all clear, without touching memory.
    ///
    /// # Safety
    /// 1. `memory` is zero, aligned to 64, valid for so many [`bytes`](Self::bytes), nobody else's, and lives as long as the value.
    pub(crate) unsafe fn new_in(memory: NonNull<u8>, frames: FrameRange) -> Self {
        // SAFETY: clause 1: zero, which is what an atomic word may be, and ours for as long.
        let words = unsafe { slice_in(memory, Self::words(frames)) };
        Self { first: Self::first(frames), words }
    }

    /// From a whole word on, so that a word is an aligned block of frames.
    fn first(frames: FrameRange) -> usize {
        frames.start.get() & !(WORD_BITS - 1)
    }

    fn words(frames: FrameRange) -> usize {
        (frames.end.get() - Self::first(frames)).div_ceil(WORD_BITS)
    }

    /// Marks the frames of `range`; returns how many were marked before.
    #[inline]
    pub(crate) fn mark(&self, range: FrameRange) -> usize {
        self.each(range, |word, bits| {
            // A load first: most frames are handed out again and again.
            let before = word.load(Ordering::Relaxed);
            if before & bits != bits {
                word.fetch_or(bits, Ordering::Relaxed);
            }
            before & bits
        })
    }

    /// Unmarks the frames of `range`; returns how many were marked.
    pub(crate) fn clear(&self, range: FrameRange) -> usize {
        self.each(range, |word, bits| word.fetch_and(!bits, Ordering::Relaxed) & bits)
    }

    /// Returns how many frames of `range` are marked.
    #[inline]
    pub(crate) fn count(&self, range: FrameRange) -> usize {
        self.each(range, |word, bits| word.load(Ordering::Relaxed) & bits)
    }

    #[inline]
    fn each(&self, range: FrameRange, look: impl Fn(&AtomicUsize, usize) -> usize) -> usize {
        let (mut at, end) = (range.start.get() - self.first, range.end.get() - self.first);
        let mut marked = 0;
        while at < end {
            let bit = at % WORD_BITS;
            let count = (WORD_BITS - bit).min(end - at);
            let bits = if count == WORD_BITS { usize::MAX } else { ((1 << count) - 1) << bit };
            marked += look(&self.words[at / WORD_BITS], bits).count_ones() as usize;
            at += count;
        }
        marked
    }

    /// Returns the aligned blocks of `frames` frames (a power of two) of `range` in which any is marked.
    pub(crate) fn blocks(
        &self,
        range: FrameRange,
        frames: usize,
    ) -> impl Iterator<Item = FrameRange> {
        let first = range.start.get().next_multiple_of(frames);
        (first..range.end.get() + 1 - frames.min(range.frames())).step_by(frames).filter_map(
            move |start| {
                let end = FrameNumber::new(start + frames);
                let block = FrameRange::new(FrameNumber::new(start), end);
                (block.end <= range.end && self.count(block) > 0).then_some(block)
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: usize, end: usize) -> FrameRange {
        FrameRange::new(FrameNumber::new(start), FrameNumber::new(end))
    }

    #[test]
    fn marks_are_counted_across_words() {
        let memory = crate::Mapped::reserve(FrameSet::bytes(range(100, 1000))).expect("a page");
        // SAFETY: fresh, so zero, and dropped last.
        let set = unsafe { FrameSet::new_in(memory.start(), range(100, 1000)) };
        assert_eq!(set.mark(range(100, 300)), 0);
        assert_eq!(set.mark(range(250, 310)), 50);
        assert_eq!(set.count(range(100, 1000)), 210);
        assert_eq!(set.clear(range(128, 192)), 64);
        assert_eq!(set.count(range(100, 1000)), 146);
        let starts: Vec<_> =
            set.blocks(range(100, 1000), 64).map(|block| block.start.get()).collect();
        assert_eq!(starts, [192, 256]);
    }
}
