//! A set of frames: one bit for each frame of a range.
//!
//! There is one for the committed frames, one for the open units of the space, and two for areas;
//! units and areas are numbered like frames.
//!
//! # Concurrency
//! Two threads never change the bit of one frame at the same time: only its owner does, or the
//! holder of a lock. All accesses are Relaxed, as the transfer of the frame, or the lock, orders
//! them. Different bits of a word may change at the same time.

use core::ptr::NonNull;

use page_frame::sync::{AtomicUsize, Ordering, slice_in};
use page_frame::{FrameNumber, FrameRange};

/// Frames in a word of a set: a group.
pub(crate) const WORD_BITS: usize = usize::BITS as usize;

/// A set of frames of one range.
#[derive(Debug)]
pub(crate) struct FrameSet {
    first: usize,
    words: &'static [AtomicUsize],
}

impl FrameSet {
    /// Returns the bytes that a set for `frames` needs: whole cache lines of 64 bytes.
    pub(crate) fn bytes(frames: FrameRange) -> usize {
        (Self::words(frames) * size_of::<AtomicUsize>()).next_multiple_of(64)
    }

    /// Makes an empty set for `frames`. Writes no memory.
    ///
    /// # Safety
    /// 1. `memory` is zero, aligned to 64 bytes, and valid for reads and writes of
    ///    [`bytes(frames)`](Self::bytes) bytes as long as the value lives. No other code uses it.
    ///    (`'static` in the type stands for that lifetime; the words never leave this module.)
    pub(crate) unsafe fn new_in(memory: NonNull<u8>, frames: FrameRange) -> Self {
        // SAFETY: clauses 1 and 2 of `slice_in` follow from clause 1.
        let words = unsafe { slice_in(memory, Self::words(frames)) };
        Self { first: Self::first(frames), words }
    }

    /// Returns the frame of the first bit: a multiple of the bits in a word, so that each word
    /// covers an aligned block of frames.
    fn first(frames: FrameRange) -> usize {
        frames.start.get() & !(WORD_BITS - 1)
    }

    fn words(frames: FrameRange) -> usize {
        (frames.end.get() - Self::first(frames)).div_ceil(WORD_BITS)
    }

    /// Adds the frames of `range`; returns how many were in the set before.
    #[inline]
    pub(crate) fn insert(&self, range: FrameRange) -> usize {
        self.each(range, |word, bits| {
            // A load first: most frames are in the set already.
            let before = word.load(Ordering::Relaxed);
            if before & bits != bits {
                word.fetch_or(bits, Ordering::Relaxed);
            }
            before & bits
        })
    }

    /// Removes the frames of `range`; returns how many were in the set.
    pub(crate) fn remove(&self, range: FrameRange) -> usize {
        self.each(range, |word, bits| word.fetch_and(!bits, Ordering::Relaxed) & bits)
    }

    /// Returns how many frames of `range` are in the set.
    #[inline]
    pub(crate) fn count(&self, range: FrameRange) -> usize {
        self.each(range, |word, bits| word.load(Ordering::Relaxed) & bits)
    }

    #[inline]
    fn each(&self, range: FrameRange, visit: impl Fn(&AtomicUsize, usize) -> usize) -> usize {
        let (mut at, end) = (range.start.get() - self.first, range.end.get() - self.first);
        let mut found = 0;
        while at < end {
            let bit = at % WORD_BITS;
            let count = (WORD_BITS - bit).min(end - at);
            let bits = if count == WORD_BITS { usize::MAX } else { ((1 << count) - 1) << bit };
            let in_set = visit(&self.words[at / WORD_BITS], bits);
            // Usually all bits are set. Without an instruction that counts bits, counting takes
            // about twenty.
            found += if in_set == bits { count } else { in_set.count_ones() as usize };
            at += count;
        }
        found
    }

    /// Returns the part of `range` from its first frame in the set to its last one, or to the
    /// `most`-th of those in the set. Empty if `range` has none, or `most` is zero.
    pub(crate) fn span_of(&self, range: FrameRange, most: usize) -> FrameRange {
        let is_in = |frame: &usize| {
            let frame = FrameNumber::new(*frame);
            self.count(FrameRange::new(frame, FrameNumber::new(frame.get() + 1))) == 1
        };
        let mut members = (range.start.get()..range.end.get()).filter(is_in).take(most);
        let Some(first) = members.next() else { return FrameRange::new(range.start, range.start) };
        let last = members.last().unwrap_or(first);
        FrameRange::new(FrameNumber::new(first), FrameNumber::new(last + 1))
    }

    /// Iterates over the aligned groups of [`WORD_BITS`] frames that overlap `range` and of which
    /// the set has any frame, also one outside of `range`; returns the first frame of each, which
    /// may lie before `range`. A load for each group.
    pub(crate) fn groups(&self, range: FrameRange) -> impl Iterator<Item = FrameNumber> {
        let first = (range.start.get() - self.first) / WORD_BITS;
        let end = (range.end.get() - self.first).div_ceil(WORD_BITS);
        let end = if range.is_empty() { first } else { end };
        (first..end)
            .filter(|index| self.words[*index].load(Ordering::Relaxed) != 0)
            .map(|index| FrameNumber::new(self.first + index * WORD_BITS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: usize, end: usize) -> FrameRange {
        FrameRange::new(FrameNumber::new(start), FrameNumber::new(end))
    }

    #[test]
    fn frames_are_counted_across_words() {
        let memory = crate::Mapped::reserve(FrameSet::bytes(range(100, 1000))).expect("a page");
        // SAFETY: clause 1: a fresh mapping of that size: zero, and dropped after the set.
        let set = unsafe { FrameSet::new_in(memory.start(), range(100, 1000)) };
        assert_eq!(set.insert(range(100, 300)), 0);
        assert_eq!(set.insert(range(250, 310)), 50);
        assert_eq!(set.count(range(100, 1000)), 210);
        assert_eq!(set.remove(range(128, 192)), 64);
        assert_eq!(set.count(range(100, 1000)), 146);
        let starts: Vec<_> = set.groups(range(100, 1000)).map(|first| first.get()).collect();
        assert_eq!(starts, [64, 192, 256]);
        assert_eq!(set.groups(range(256, 300)).count(), 1);
        assert_eq!(set.span_of(range(120, 220), 1000), range(120, 220));
        assert_eq!(set.span_of(range(128, 300), 10), range(192, 202));
        assert_eq!(set.span_of(range(120, 300), 9), range(120, 193));
        assert_eq!(set.span_of(range(305, 1000), 1000), range(305, 310));
        assert!(set.span_of(range(310, 1000), 1000).is_empty());
        assert!(set.span_of(range(100, 300), 0).is_empty());
        assert_eq!(set.groups(range(200, 200)).count(), 0);
    }
}
