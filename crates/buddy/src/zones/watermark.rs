//! Watermarks: a trace that counts the free frames of a zone, and refuses requests when too few are
//! free.
//!
//! # Concepts
//! - Only frames that are free in areas count. Frames in CPU slots are not counted, because their
//!   CPU may allocate them at any time.
//! - **min**: only requests that may use the reserve go below it: interrupts, and code that frees
//!   memory.
//! - **low**: below it the pressure rises and the hook is called, so that the system shrinks its
//!   caches.
//! - **high**: above it the pressure ends.
//!
//! # Concurrency
//! The allocator calls a trace when frames leave their areas or return, once for up to a word of
//! them, a block or a run. The trace adds the frames to the shard of the area, and CPUs mostly work
//! in different areas. When a shard reaches the step, the trace moves it to the total, which all
//! readers use. The pressure follows from the total:
//! - change the total, fence, read the pressure; change the pressure, fence, read the total again.
//!
//! So if two CPUs cross marks at once, the CPU that changes the pressure last has seen the last
//! total.
//!
//! # Costs
//! An atomic addition for each transfer or take of bits, and another on the total at each step.
//! `allows` is one load.

use page_frame::FrameNumber;
use page_frame::sync::{self, AtomicIsize, AtomicU8, Ordering, fence};

use crate::bitmap::bits::AREA_FRAMES;
use crate::trace::Pressure;
use crate::trace::Trace;

/// Number of shards of the count: a guess, for some tens of CPUs.
const SHARDS: usize = if sync::MODELLED { 1 } else { 8 };
/// The largest step, in frames.
const MAX_STEP: usize = 512;
/// Maximum number of updates of the pressure by one event. The next event continues.
const MAX_ROUNDS: usize = if sync::MODELLED { 4 } else { 8 };

/// The thresholds in frames, ascending.
///
/// ```
/// let marks = buddy::Marks::for_frames(1 << 20); // 4 GiB
/// assert_eq!((marks.min, marks.low, marks.high), (2048, 2560, 3072));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Below it only the reserve is left.
    pub min: usize,
    /// Below it memory is short.
    pub low: usize,
    /// Above it memory is not short.
    pub high: usize,
}

impl Marks {
    /// Returns marks for a zone of `frames` frames. `min` grows with the square root of `frames`,
    /// as in Linux, up to an eighth of `frames`. `low` is `min` and a quarter, `high` is `min` and
    /// a half. Example: see [`Marks`].
    pub const fn for_frames(frames: usize) -> Self {
        let min = 2 * frames.isqrt();
        let min = if min < frames / 8 { min } else { frames / 8 };
        Self { min, low: min + min / 4, high: min + min / 2 }
    }
}

/// The watermarks of one zone: a trace of its buddy.
///
/// The allocator calls `hook` with the new pressure at each change, from within the allocation or
/// the free that caused it. The hook should wake a task that shrinks caches, and not call the
/// allocator itself. If it panics while frames are taken, they return to their areas and count as
/// free.
///
/// ```
/// use buddy::{Marks, Pressure, Trace, Watermarks};
/// use page_frame::FrameNumber;
/// let marks = Marks { min: 10, low: 20, high: 30 };
/// let hook = |pressure| println!("memory is short: {pressure:?}");
/// let watermarks = Watermarks::new(100, marks, hook);
/// watermarks.take(FrameNumber::new(0), 85); // the buddy calls this
/// assert_eq!((watermarks.free_frames(), watermarks.pressure()), (15, Pressure::Low));
/// assert!(watermarks.allows(5) && !watermarks.allows(6));
/// watermarks.free(FrameNumber::new(0), 15); // 30 are free: the pressure stays up to `high`
/// assert_eq!((watermarks.marks().high, watermarks.pressure()), (30, Pressure::Low));
/// watermarks.free(FrameNumber::new(0), 1);
/// assert_eq!(watermarks.pressure(), Pressure::None);
/// ```
#[derive(Debug)]
pub struct Watermarks<H = fn(Pressure)> {
    total: AtomicIsize,
    pressure: AtomicU8,
    marks: Marks,
    /// At this number of frames a shard moves to the total.
    step: isize,
    shards: [Shard; SHARDS],
    hook: H,
}

/// A change of free frames that is not in the total yet. Each shard has a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
struct Shard(AtomicIsize);

impl<H: Fn(Pressure)> Watermarks<H> {
    /// Returns the watermarks of a zone with `free` free frames. A fresh buddy has all frames free.
    /// Example: see [`Watermarks`].
    pub fn new(free: usize, marks: Marks, hook: H) -> Self {
        let watermarks = Self {
            total: AtomicIsize::new(free as isize),
            pressure: AtomicU8::new(Pressure::None as u8),
            marks,
            step: (marks.min / (2 * SHARDS)).clamp(1, MAX_STEP) as isize,
            shards: core::array::from_fn(|_| Shard(AtomicIsize::new(0))),
            hook,
        };
        watermarks.follow();
        watermarks
    }

    /// Returns the number of free frames, without those in CPU slots and deferred frees. The error
    /// is below half of `min` and below 4096 frames. It is zero if `min` is below 32. One load.
    /// Example: see [`Watermarks`].
    #[inline]
    pub fn free_frames(&self) -> usize {
        // Relaxed: an estimate, which publishes nothing.
        self.total.load(Ordering::Relaxed).max(0) as usize
    }

    /// Returns the thresholds. Example: see [`Watermarks`].
    pub const fn marks(&self) -> Marks {
        self.marks
    }

    fn add(&self, start: FrameNumber, frames: isize) {
        let shard = &self.shards[start.get() / AREA_FRAMES % SHARDS].0;
        // Relaxed: the fence in `follow` orders the change of the total; the shard is an estimate.
        let gathered = shard.fetch_add(frames, Ordering::Relaxed) + frames;
        if gathered.abs() < self.step {
            return;
        }
        let moved = shard.swap(0, Ordering::Relaxed);
        self.total.fetch_add(moved, Ordering::Relaxed);
        self.follow();
    }

    /// Updates the pressure so that it follows the total. If the hook panics, the pressure stays at
    /// the value that the hook was called with, and the next event continues.
    fn follow(&self) {
        for _ in 0..MAX_ROUNDS {
            // SeqCst: orders our change of the total or of the pressure before our load of the
            // other; pairs with itself.
            fence(Ordering::SeqCst);
            // Relaxed, as all accesses in the loop: the fence orders them, and they publish
            // nothing.
            let old = self.pressure.load(Ordering::Relaxed);
            let new = self.after(old);
            if old == new as u8 {
                return;
            }
            let changed = self.pressure.compare_exchange(
                old,
                new as u8,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            if changed.is_ok() {
                (self.hook)(new);
            }
        }
    }

    /// Returns the pressure that follows `old` at the current total.
    fn after(&self, old: u8) -> Pressure {
        let free = self.free_frames();
        match free {
            free if free < self.marks.min => Pressure::Min,
            free if free < self.marks.low => Pressure::Low,
            free if free <= self.marks.high && old != Pressure::None as u8 => Pressure::Low,
            _ => Pressure::None,
        }
    }
}

/// Undoes the count of taken frames when the hook panics: the frames return to their areas without
/// an event.
struct Uncount<'w> {
    total: &'w AtomicIsize,
    frames: usize,
}

impl Drop for Uncount<'_> {
    #[cold]
    fn drop(&mut self) {
        // Relaxed: as in `add`.
        self.total.fetch_add(self.frames as isize, Ordering::Relaxed);
    }
}

impl<H: Fn(Pressure)> Trace for Watermarks<H> {
    const HAS_BLOCK_EVENTS: bool = false;

    fn take(&self, start: FrameNumber, frames: usize) {
        let undo = Uncount { total: &self.total, frames };
        self.add(start, -(frames as isize));
        core::mem::forget(undo);
    }

    fn free(&self, start: FrameNumber, frames: usize) {
        self.add(start, frames as isize);
    }

    #[inline]
    fn allows(&self, pages: usize) -> bool {
        self.free_frames() >= self.marks.min + pages
    }

    #[inline]
    fn pressure(&self) -> Pressure {
        // Relaxed: a state to poll, which publishes nothing.
        match self.pressure.load(Ordering::Relaxed) {
            0 => Pressure::None,
            1 => Pressure::Low,
            _ => Pressure::Min,
        }
    }
}
