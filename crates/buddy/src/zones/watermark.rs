//! Watermarks: how much is free, kept cheaply, and what that means for who may ask.
//!
//! # Concepts
//! - The count of free frames is of those in areas. Frames in CPU slots do not count, so what is kept at hand is never
//!   promised twice.
//! - **min**: only requests that name the reserve may go below it. It serves interrupts and whoever frees memory.
//! - **low**: below it [`Watermarks::pressure`] says so, and the hook is called: time to shrink.
//! - **high**: above it the pressure is over.
//!
//! # Concurrency
//! An observer hears of frames when they leave areas or come home, once for up to a word or a stack of them. It adds to the
//! shard of the area, and CPUs work in areas of their own. When a shard has gathered [`Watermarks`]' step it moves to the
//! total, which is what everybody reads. The pressure follows from the total:
//! - change the total, fence, read the pressure; change the pressure, fence, read the total again.
//!
//! So of two CPUs that cross marks at once, whoever changes the pressure last has seen the last total.
//!
//! # Costs
//! An atomic addition for each hand-over or take of bits; another on the total at each step. [`Watermarks::allows`] is one
//! load.

use page_frame::FrameNumber;
use page_frame::sync::{self, AtomicIsize, AtomicU8, Ordering, fence};

use crate::bitmap::area::AREA_FRAMES;
use crate::trace::Observe;

/// How many shards the count has: a guess, for some tens of CPUs.
const SHARDS: usize = if sync::MODELLED { 1 } else { 8 };
/// The largest step.
const LARGEST_STEP: usize = 512;
/// How often one event looks again at pressure and total before it leaves the rest to the next.
const ROUNDS: usize = if sync::MODELLED { 4 } else { 8 };

/// How short memory is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Pressure {
    /// There is enough.
    #[default]
    None,
    /// Less than `low` was free, and since then not more than `high`.
    Low,
    /// Less than `min` is free: only the reserve is left.
    Min,
}

/// The thresholds in frames, ascending.
///
/// ```
/// let marks = buddy::Marks::for_frames(1 << 20); // 4 GiB
/// assert_eq!((marks.min, marks.low, marks.high), (2048, 2560, 3072));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Only the reserve is below.
    pub min: usize,
    /// Below it memory is short.
    pub low: usize,
    /// Above it memory is no longer short.
    pub high: usize,
}

impl Marks {
    /// Returns marks for a zone of `frames` frames: `min` grows with the root, as Linux sizes it, and `low` and `high` lie
    /// a quarter and a half of it above.
    pub const fn for_frames(frames: usize) -> Self {
        let min = 2 * frames.isqrt();
        let min = if min < frames / 8 { min } else { frames / 8 };
        Self { min, low: min + min / 4, high: min + min / 2 }
    }
}

/// Whether an ordinary request may be served, asked before it is.
pub trait Gate {
    /// Whether `pages` frames can go without touching the reserve.
    fn allows(&self, pages: usize) -> bool;

    /// Returns how short memory is.
    fn pressure(&self) -> Pressure;
}

/// Without watermarks every request is served while there is a frame.
impl Gate for () {
    #[inline]
    fn allows(&self, _: usize) -> bool {
        true
    }

    #[inline]
    fn pressure(&self) -> Pressure {
        Pressure::None
    }
}

impl<G: Gate + ?Sized> Gate for &G {
    #[inline]
    fn allows(&self, pages: usize) -> bool {
        (**self).allows(pages)
    }

    #[inline]
    fn pressure(&self) -> Pressure {
        (**self).pressure()
    }
}

/// The first decides; the second only listens.
impl<G: Gate, B> Gate for (G, B) {
    #[inline]
    fn allows(&self, pages: usize) -> bool {
        self.0.allows(pages)
    }

    #[inline]
    fn pressure(&self) -> Pressure {
        self.0.pressure()
    }
}

/// The watermarks of one zone: an observer of its buddy.
///
/// `hook` is called with the new pressure at each change, on the CPU that caused it, from within the allocation or the
/// free. It wakes somebody who shrinks, rather than to call back into the buddy. When it panics while frames are taken, they
/// return to their areas and count as free.
///
/// ```
/// use buddy::{Gate, Marks, Observe, Pressure, Watermarks};
/// use page_frame::FrameNumber;
/// let marks = Marks { min: 10, low: 20, high: 30 };
/// let watermarks = Watermarks::new(100, marks, |pressure| println!("memory is short: {pressure:?}"));
/// watermarks.take(FrameNumber::new(0), 85); // what a buddy tells it
/// assert_eq!(watermarks.pressure(), Pressure::Low);
/// assert!(watermarks.allows(5) && !watermarks.allows(6));
/// ```
#[derive(Debug)]
pub struct Watermarks<H = fn(Pressure)> {
    total: AtomicIsize,
    pressure: AtomicU8,
    marks: Marks,
    /// What a shard gathers before it moves on.
    step: isize,
    shards: [Shard; SHARDS],
    hook: H,
}

/// What is not in the total yet. On a line of its own.
#[derive(Debug)]
#[repr(align(64))]
struct Shard(AtomicIsize);

impl<H: Fn(Pressure)> Watermarks<H> {
    /// Starts with `free` frames free: all of a fresh buddy's.
    pub fn new(free: usize, marks: Marks, hook: H) -> Self {
        let watermarks = Self {
            total: AtomicIsize::new(free as isize),
            pressure: AtomicU8::new(Pressure::None as u8),
            marks,
            step: (marks.min / (2 * SHARDS)).clamp(1, LARGEST_STEP) as isize,
            shards: core::array::from_fn(|_| Shard(AtomicIsize::new(0))),
            hook,
        };
        watermarks.follow();
        watermarks
    }

    /// Returns how many frames are free, less what CPU slots keep and what was freed but is not home yet. Off by less than half of `min` and by less than
    /// 4096 frames; exact when `min` is below 32.
    #[inline]
    pub fn free_frames(&self) -> usize {
        // Relaxed: an estimate; nothing is published by it.
        self.total.load(Ordering::Relaxed).max(0) as usize
    }

    /// Returns the thresholds.
    pub const fn marks(&self) -> Marks {
        self.marks
    }

    fn add(&self, start: FrameNumber, frames: isize) {
        let shard = &self.shards[start.get() / AREA_FRAMES % SHARDS].0;
        // Relaxed: the fence below orders what moves on; the rest is an estimate.
        let gathered = shard.fetch_add(frames, Ordering::Relaxed) + frames;
        if gathered.abs() < self.step {
            return;
        }
        let moved = shard.swap(0, Ordering::Relaxed);
        self.total.fetch_add(moved, Ordering::Relaxed);
        self.follow();
    }

    /// Brings the pressure in line with the total. When the hook panics, the pressure is as it said, and the next event goes on.
    fn follow(&self) {
        for _ in 0..ROUNDS {
            // SeqCst: our change of the total, or of the pressure below, before our look at the other; pairs with itself.
            fence(Ordering::SeqCst);
            // Relaxed, here and below: the fence orders them, and they publish nothing.
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

    /// Returns the pressure that follows `old` at the total as it is.
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

/// The hook panicked while it was told of frames that were taken: they return to the areas, and nobody says so.
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

impl<H: Fn(Pressure)> Observe for Watermarks<H> {
    const HEARS_BLOCKS: bool = false;

    fn take(&self, start: FrameNumber, frames: usize) {
        let undo = Uncount { total: &self.total, frames };
        self.add(start, -(frames as isize));
        core::mem::forget(undo);
    }

    fn free(&self, start: FrameNumber, frames: usize) {
        self.add(start, frames as isize);
    }
}

impl<H: Fn(Pressure)> Gate for Watermarks<H> {
    #[inline]
    fn allows(&self, pages: usize) -> bool {
        self.free_frames() >= self.marks.min + pages
    }

    #[inline]
    fn pressure(&self) -> Pressure {
        // Relaxed: a state to poll; nothing is published by it.
        match self.pressure.load(Ordering::Relaxed) {
            0 => Pressure::None,
            1 => Pressure::Low,
            _ => Pressure::Min,
        }
    }
}
