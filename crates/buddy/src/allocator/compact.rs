//! Compaction: a large block from memory whose free frames are scattered, by moving blocks that
//! their owners can move.
//!
//! # Concepts
//! - A **candidate** is an aligned range of the wanted size with few frames in use. One pass over
//!   the bitmap finds those with the fewest.
//! - The call **isolates** the candidate: it takes all free frames of it, so that nobody allocates
//!   there. Then it asks the owners of the allocated blocks, one by one, to **relocate** each to a
//!   block elsewhere. A block that was relocated stays taken, and is isolated too.
//! - When all frames of the candidate are isolated, they are freed together and taken as one block.
//! - If an owner refuses, or a frame belongs to no block that can move, the isolated frames become
//!   free again, and the next candidate is tried. Blocks that were relocated stay where they are.
//!   So it is if another CPU takes a frame after all were freed together.
//!
//! Destinations are found as for any request: in the fullest areas first. No area is empty, or the
//! request would have got it.
//!
//! # Sources
//! Linux's memory compaction (Gorman 2010) walks a zone with two scanners, one for blocks to move
//! and one for free frames. Here the bitmap already counts the frames in use of an area, so the
//! cheapest one is known.

use page_frame::{Cpu, FrameNumber, FrameRange, Order, OutOfMemory};

use crate::allocator::frame_pool::FramePool;
use crate::bitmap::bits::{AREA_FRAMES, AREA_ORDER, AREA_WORDS, WORD_BITS, words};
use crate::bitmap::block_range;
use crate::bitmap::home::Home;
use crate::frames::Frames;
use crate::trace::Trace;

/// The maximum number of candidates that one call finds and tries.
const MAX_CANDIDATES: usize = 16;
/// The maximum number of blocks taken to find a destination. Those that lie in the candidate, as
/// their owners freed them meanwhile, are isolated instead.
const MAX_DESTINATIONS: usize = 4;

/// A block to move, and where. Example: see
/// [`FrameAllocator::allocate_compacting`](crate::FrameAllocator::allocate_compacting).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relocation {
    /// The first frame of the allocated block that is in the way.
    pub from: FrameNumber,
    /// The first frame of a block of the same order, which was allocated for this call.
    pub to: FrameNumber,
    /// The order of both. An owner whose block at `from` has another order refuses.
    pub order: Order,
}

/// What the owner of a block did with a [`Relocation`]. Example: see
/// [`FrameAllocator::allocate_compacting`](crate::FrameAllocator::allocate_compacting).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relocated {
    /// The content and all references have moved. The owner has `to`, and no longer `from`.
    Moved,
    /// The block is not the caller's, or cannot move now. Nothing has changed.
    Refused,
}

/// Allocates a block of `order` in `pool`; if none is free, tries to make one by relocating blocks,
/// see [`FrameAllocator::allocate_compacting`](crate::FrameAllocator::allocate_compacting).
pub(crate) fn allocate<C: Cpu, T: Trace, const CHECKED: bool>(
    pool: &FramePool<'_, C, T, CHECKED>,
    order: Order,
    relocate: impl FnMut(Relocation) -> Relocated,
) -> Result<FrameNumber, OutOfMemory> {
    if let Ok(frame) = pool.allocate_frames(order) {
        return Ok(frame);
    }
    if u32::from(order.get()) > AREA_ORDER {
        return Err(OutOfMemory);
    }
    let frames = &pool.frames;
    let mut compaction = Compaction::<_, _, CHECKED> { frames, order, relocate };
    for candidate in compaction.candidates().best() {
        if let Some(frame) = compaction.empty(candidate.start) {
            return Ok(frame);
        }
    }
    Err(OutOfMemory)
}

/// A request for a block of `order`: no free block is large enough.
struct Compaction<'f, 'm, T, R, const CHECKED: bool> {
    frames: &'f Frames<'m, T>,
    order: Order,
    /// Asks the owner of a block to move it.
    relocate: R,
}

impl<'f, 'm, T: Trace, R, const CHECKED: bool> Compaction<'f, 'm, T, R, CHECKED>
where
    R: FnMut(Relocation) -> Relocated,
{
    /// Returns the candidates with the fewest frames in use. One pass: O(frames).
    fn candidates(&self) -> Candidates {
        let (bitmap, pages) = (self.frames.bitmap(), self.order.pages());
        let mut candidates = Candidates::default();
        for range in bitmap.table().ranges() {
            let first_area = range.start.get() - range.start.get() % AREA_FRAMES;
            for area in (first_area..range.end.get()).step_by(AREA_FRAMES) {
                let taken = bitmap.taken_area(FrameNumber::new(area));
                for offset in (0..AREA_FRAMES).step_by(pages) {
                    let start = FrameNumber::new(area + offset);
                    let taken_in =
                        |(word, bits): (usize, usize)| (taken[word] & bits).count_ones() as usize;
                    let in_use = words(offset, offset + pages).map(taken_in).sum();
                    let is_whole = range.contains(start) && start.get() + pages <= range.end.get();
                    if is_whole && in_use < pages {
                        candidates.add(Candidate { in_use, start });
                    }
                }
            }
        }
        candidates
    }

    /// Empties the candidate at `start`, and allocates it. `None` if some frame of it stays in use.
    fn empty(&mut self, start: FrameNumber) -> Option<FrameNumber> {
        let (frames, order) = (self.frames, self.order);
        let mut isolated = Isolated { frames, start, order, held: [0; AREA_WORDS] };
        isolated.take_free();
        let is_empty = self.relocate_all(&mut isolated).is_some();
        isolated.release();
        if !is_empty || !frames.take_at(start, order) {
            return None;
        }
        frames.tags().set_block(start, order);
        Some(start)
    }

    /// Moves all blocks out of the isolated range. `None` if one stays.
    fn relocate_all(&mut self, isolated: &mut Isolated<'f, 'm, T>) -> Option<()> {
        let (mut next, end) = (isolated.start.get(), isolated.start.get() + self.order.pages());
        while next < end {
            let from = FrameNumber::new(next);
            if isolated.is_held(from) {
                next += 1;
                continue;
            }
            let Some(block) = self.frames.tags().get(from).as_block() else {
                // Its owner has freed it meanwhile. Or it cannot move: a part of a run or a slab,
                // or in a CPU slot.
                isolated.take_free();
                if isolated.is_held(from) {
                    continue;
                }
                return None;
            };
            if block >= self.order {
                return None;
            }
            self.relocate(from, block, isolated)?;
            next += block.pages();
        }
        Some(())
    }

    /// Moves the block of `order` at `from` out of the isolated range; isolates its frames. `None`
    /// if it stays.
    fn relocate(
        &mut self,
        from: FrameNumber,
        order: Order,
        isolated: &mut Isolated<'f, 'm, T>,
    ) -> Option<()> {
        let to = self.destination(order, isolated)?;
        self.frames.tags().set_block(to, order);
        // Frees `to` if the owner panics.
        let mut block = [to];
        let guard = self.frames.bulk_guard(order, &mut block, 1);
        let outcome = (self.relocate)(Relocation { from, to, order });
        guard.forget();
        if outcome == Relocated::Refused {
            self.frames.tags().clear_block(to, order);
            self.frames.free_range(block_range(to, order));
            return None;
        }
        // An owner that freed `from` as well has `to`, and nobody has `from`.
        if !self.frames.tags().take_block::<CHECKED>(from, order) {
            return None;
        }
        isolated.add(from, order);
        Some(())
    }

    /// Takes a block of `order` outside the isolated range, from the fullest area that has one.
    fn destination(&self, order: Order, isolated: &mut Isolated<'f, 'm, T>) -> Option<FrameNumber> {
        let mobility = self.frames.bitmap().mobility(isolated.start);
        for _ in 0..MAX_DESTINATIONS {
            let taken = self.frames.take_hinted(order, mobility, &mut Home::none())?;
            if !isolated.contains(taken) {
                return Some(taken);
            }
            isolated.add(taken, order);
        }
        None
    }
}

/// An aligned range of frames, some of which are free. Fewer frames in use come first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    in_use: usize,
    start: FrameNumber,
}

/// The best candidates so far.
struct Candidates {
    /// In order, the first `count` of them.
    sorted: [Candidate; MAX_CANDIDATES],
    count: usize,
}

impl Default for Candidates {
    fn default() -> Self {
        let none = Candidate { in_use: usize::MAX, start: FrameNumber::new(0) };
        Self { sorted: [none; MAX_CANDIDATES], count: 0 }
    }
}

impl Candidates {
    /// Adds `candidate` if it is one of the best.
    fn add(&mut self, candidate: Candidate) {
        let at = self.best().partition_point(|better| *better < candidate);
        if at < MAX_CANDIDATES {
            self.count = MAX_CANDIDATES.min(self.count + 1);
            self.sorted.copy_within(at..self.count - 1, at + 1);
            self.sorted[at] = candidate;
        }
    }

    /// Returns them, the best first.
    fn best(&self) -> &[Candidate] {
        &self.sorted[..self.count]
    }
}

/// The frames of a candidate that the call has taken. They are freed when it is dropped.
struct Isolated<'f, 'm, T> {
    frames: &'f Frames<'m, T>,
    start: FrameNumber,
    order: Order,
    /// A bit for each frame of the candidate that is taken.
    held: [usize; AREA_WORDS],
}

impl<T> Isolated<'_, '_, T> {
    fn contains(&self, frame: FrameNumber) -> bool {
        frame.get().wrapping_sub(self.start.get()) < self.order.pages()
    }

    fn is_held(&self, frame: FrameNumber) -> bool {
        let offset = frame.get() - self.start.get();
        self.held[offset / WORD_BITS] >> (offset % WORD_BITS) & 1 == 1
    }

    /// Adds the block of `order` at `frame`, which the call has taken.
    fn add(&mut self, frame: FrameNumber, order: Order) {
        let first = frame.get() - self.start.get();
        (first..first + order.pages())
            .for_each(|at| self.held[at / WORD_BITS] |= 1 << (at % WORD_BITS));
    }

    /// Removes the lowest held frames that are neighbours; returns them.
    fn take_run(&mut self) -> Option<FrameRange> {
        let is_held = |at: &usize| self.held[at / WORD_BITS] >> (at % WORD_BITS) & 1 == 1;
        let first = (0..self.order.pages()).find(is_held)?;
        let end = (first..self.order.pages()).find(|at| !is_held(at));
        let end = end.unwrap_or(self.order.pages());
        (first..end).for_each(|at| self.held[at / WORD_BITS] &= !(1 << (at % WORD_BITS)));
        let frame = |offset| FrameNumber::new(self.start.get() + offset);
        Some(FrameRange::new(frame(first), frame(end)))
    }
}

impl<T: Trace> Isolated<'_, '_, T> {
    /// Takes all frames of the candidate that are free.
    fn take_free(&mut self) {
        for (word, bits) in words_of(self.start, self.order) {
            let mut free = !self.frames.bitmap().taken_word(word) & bits;
            while let Some((run, rest)) = lowest_run(word, free) {
                for (block, order) in run.blocks() {
                    if self.frames.take_at(block, order) {
                        self.add(block, order);
                    }
                }
                free = rest;
            }
        }
    }

    /// Frees the held frames, and tells the trace.
    fn release(mut self) {
        while let Some(run) = self.take_run() {
            self.frames.free_range(run);
        }
    }
}

impl<T> Drop for Isolated<'_, '_, T> {
    /// Frees what is held without a call of the trace: a panic may be under way.
    fn drop(&mut self) {
        while let Some(run) = self.take_run() {
            _ = self.frames.bitmap().free_range(run);
        }
    }
}

/// Returns the lowest neighbouring frames that are set in `bits` of the word at `word`, and the
/// other bits.
fn lowest_run(word: FrameNumber, bits: usize) -> Option<(FrameRange, usize)> {
    let first = bits.trailing_zeros();
    let end = first + (!bits.checked_shr(first)?).trailing_zeros();
    let frame = |bit: u32| FrameNumber::new(word.get() + bit as usize);
    let rest = bits & usize::MAX.checked_shl(end).unwrap_or(0);
    Some((FrameRange::new(frame(first), frame(end)), rest))
}

/// Iterates over the words of the bitmap that the block of `order` at `start` has a part of: the
/// first frame of each, and the block's bits.
fn words_of(start: FrameNumber, order: Order) -> impl Iterator<Item = (FrameNumber, usize)> {
    let area = start.get() - start.get() % AREA_FRAMES;
    let offset = start.get() - area;
    words(offset, offset + order.pages())
        .map(move |(word, bits)| (FrameNumber::new(area + word * WORD_BITS), bits))
}
