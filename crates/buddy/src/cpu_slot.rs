//! What a CPU keeps: single frames as bits of words, larger blocks on small stacks, and which areas it owns.
//!
//! # Concepts
//! - The **private word**: the free frames of one word as bits that nobody else touches. A refill takes all free frames of
//!   a word by one swap; allocating is then finding a bit and clearing it.
//! - **Freed words**: frames of other words that came back, as bits too, so that neighbours join before they go home, each
//!   word in one atomic operation. The word that was freed into last can become the private word again.
//! - **Stacks**: for each order from 1 to the area's, the blocks that were freed last, or taken in one go.
//! - **Owned areas**: for each kind the area that refills come from.
//!
//! # Concurrency
//! None of its own: the slot belongs to whoever entered it or took it over. For everybody else what it keeps is taken.

use page_frame::FrameNumber;
use page_frame::sync::{AtomicUsize, Ordering, Zeroable};

use crate::area::{AREA_FRAMES, AREA_ORDER};
use crate::kind::KINDS;
use crate::run::WORD_BITS;

/// The largest order that slots keep.
pub(crate) const LARGEST: usize = AREA_ORDER as usize;
/// How many freed words are kept: a guess; half of them go home at a time.
pub(crate) const FREED_WORDS: usize = 16;
/// Room for blocks of each order: a guess, for the small ones two words' worth of blocks of order 3.
const STACK: usize = 16;

/// A word of single frames: the frame that bit 0 stands for, and the frames that are free.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Word {
    pub(crate) start: usize,
    pub(crate) frames: usize,
}

/// Everything that a CPU keeps.
#[derive(Debug)]
pub(crate) struct CpuSlot {
    private: Word,
    freed_words: usize,
    freed: [Word; FREED_WORDS],
    /// The blocks of order index + 1.
    pub(crate) blocks: [Blocks; LARGEST],
    /// For each kind the first frame of the area that is owned for it.
    pub(crate) owned: [Option<FrameNumber>; KINDS],
}

impl Default for CpuSlot {
    fn default() -> Self {
        Self {
            private: Word::default(),
            freed_words: 0,
            freed: [Word::default(); FREED_WORDS],
            blocks: core::array::from_fn(|index| Blocks::new(index + 1)),
            owned: [None; KINDS],
        }
    }
}

/// Single frames.
impl CpuSlot {
    /// Takes out the lowest frame of the private word.
    #[inline(always)]
    pub(crate) fn pop_frame(&mut self) -> Option<FrameNumber> {
        let frames = self.private.frames;
        if frames == 0 {
            return None;
        }
        self.private.frames = frames & (frames - 1);
        Some(FrameNumber::new(self.private.start + frames.trailing_zeros() as usize))
    }

    /// Keeps `frame`; false when there is no room for its word.
    #[inline(always)]
    pub(crate) fn push_frame(&mut self, frame: FrameNumber) -> bool {
        let bit = frame.get() % WORD_BITS;
        let start = frame.get() - bit;
        if start == self.private.start {
            self.private.frames |= 1 << bit;
            return true;
        }
        self.push_elsewhere(start, bit)
    }

    /// Keeps the frame at `bit` of the word at `start`, which is not the private one.
    #[inline(never)]
    fn push_elsewhere(&mut self, start: usize, bit: usize) -> bool {
        if let Some(last) = self.freed[..self.freed_words].last_mut() {
            if last.start == start {
                last.frames |= 1 << bit;
                return true;
            }
        }
        let Some(place) = self.freed.get_mut(self.freed_words) else { return false };
        *place = Word { start, frames: 1 << bit };
        self.freed_words += 1;
        true
    }

    /// Keeps the free frames of a word as the private one, which is empty.
    pub(crate) fn refill(&mut self, start: FrameNumber, frames: usize) {
        debug_assert!(self.private.frames == 0, "only an empty word is refilled");
        self.private = Word { start: start.get(), frames };
    }

    /// Returns the word that was freed into last.
    pub(crate) fn last_freed(&self) -> Option<Word> {
        self.freed[..self.freed_words].last().copied()
    }

    /// Makes the word that was freed into last the private word, which is empty; whether there was one.
    pub(crate) fn recycle(&mut self) -> bool {
        debug_assert!(self.private.frames == 0, "only an empty word is replaced");
        let last = self.last_freed();
        if let Some(last) = last {
            self.freed_words -= 1;
            self.private = last;
        }
        last.is_some()
    }

    /// Takes out the older half of a full list of freed words.
    pub(crate) fn older_words(&mut self) -> [Word; FREED_WORDS / 2] {
        debug_assert!(self.freed_words == FREED_WORDS, "only a full list is halved");
        let older = core::array::from_fn(|index| self.freed[index]);
        self.freed.copy_within(FREED_WORDS / 2.., 0);
        self.freed_words = FREED_WORDS / 2;
        older
    }

    /// Takes out one word of frames, until there is none.
    pub(crate) fn drain_word(&mut self) -> Option<Word> {
        if self.private.frames != 0 {
            let word = self.private;
            self.private.frames = 0;
            return Some(word);
        }
        let last = self.last_freed()?;
        self.freed_words -= 1;
        Some(last)
    }

    /// Returns about how many frames are kept: freed words count as one frame each.
    pub(crate) fn estimate(&self) -> usize {
        let blocks: usize = self.blocks.iter().zip(1..).map(|(b, order)| b.count << order).sum();
        self.private.frames.count_ones() as usize + self.freed_words + blocks
    }
}

/// A stack of blocks of one order, by first frame.
#[derive(Debug)]
pub(crate) struct Blocks {
    count: usize,
    capacity: usize,
    /// The first frame of the area that was last refilled from.
    home: usize,
    /// The bits of a frame number that name its area; none for whole areas, which are at home anywhere.
    area_bits: usize,
    starts: [usize; STACK],
}

impl Blocks {
    fn new(order: usize) -> Self {
        let is_area = order == LARGEST;
        let (home, area_bits) = if is_area { (0, 0) } else { (usize::MAX, !(AREA_FRAMES - 1)) };
        Self { count: 0, capacity: Self::capacity(order), home, area_bits, starts: [0; STACK] }
    }

    /// How many blocks of `order` are kept at most.
    pub(crate) const fn capacity(order: usize) -> usize {
        if order <= 3 { STACK } else { STACK / 2 }
    }

    /// Notes that blocks come from the area of `frame`.
    pub(crate) fn settle_in(&mut self, frame: FrameNumber) {
        self.home = frame.get() & self.area_bits;
    }

    /// Whether `frame` lies in the area that blocks were last taken from, where freed ones are as good as at home.
    #[inline(always)]
    pub(crate) fn is_at_home(&self, frame: FrameNumber) -> bool {
        frame.get() & self.area_bits == self.home
    }

    /// Takes out the block that came last.
    #[inline(always)]
    pub(crate) fn pop(&mut self) -> Option<FrameNumber> {
        let below = self.count.checked_sub(1)?;
        let start = *self.starts.get(below)?;
        self.count = below;
        Some(FrameNumber::new(start))
    }

    /// Keeps the block at `start`; false when there is no room.
    #[inline(always)]
    pub(crate) fn push(&mut self, start: FrameNumber) -> bool {
        match self.starts.get_mut(self.count) {
            Some(place) if self.count < self.capacity => {
                *place = start.get();
                self.count += 1;
                true
            }
            _ => false,
        }
    }

    /// Takes out the `number` blocks that came first, into `older`; returns how many there were.
    pub(crate) fn older(&mut self, number: usize, older: &mut [usize; STACK / 2]) -> usize {
        let number = number.min(self.count).min(older.len());
        older[..number].copy_from_slice(&self.starts[..number]);
        self.starts.copy_within(number..self.count, 0);
        self.count -= number;
        number
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
