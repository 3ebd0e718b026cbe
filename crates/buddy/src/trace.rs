//! Trace hooks: calls for each split, merge, claim and transfer, and a trace that counts them.
//!
//! # Concepts
//! Split and merge are implicit here: the allocator only sets and clears bits. A trace receives the
//! events that a buddy with lists would have produced for the same change of the same bits:
//! - Taking a block of order k out of a canonical block of order n is n - k **splits**.
//! - Freeing a block of order k that then lies in a canonical block of order n is n - k **merges**.
//! - A **claim** is an area taken whole, with or without its neighbours.
//! - A **transfer** is a move of frames between areas and a CPU slot. For a move to the slot, a
//!   list-based buddy would have split blocks into the pieces that the slot keeps. For a move back,
//!   it would have merged each of them.
//!
//! An operation that stays inside a CPU slot changes no area and causes no event. While other CPUs
//! change the same area, the numbers are estimates. With one CPU they are exact.
//!
//! A trace may also refuse requests and say how short memory is: [`Watermarks`](crate::Watermarks)
//! count the free frames, and refuse ordinary requests when only the reserve is left.
//!
//! # Costs
//! Nothing when the trace is `()`: the allocator tests [`Trace::IS_ENABLED`] before each event, at
//! compile time. Otherwise each take from areas and each return costs a call. Splits and merges
//! cost a look at the buddies of the block up to [`Trace::MAX_ORDER`], unless
//! [`Trace::HAS_BLOCK_EVENTS`] is false.

use page_frame::sync::{AtomicUsize, Ordering};
use page_frame::{FrameNumber, Order};

/// How short memory is.
///
/// ```
/// use buddy::Pressure;
/// fn react(pressure: Pressure) -> &'static str {
///     match pressure {
///         Pressure::None => "nothing",
///         Pressure::Low => "wake the task that shrinks caches",
///         Pressure::Min => "let ordinary requests wait for that task",
///     }
/// }
/// assert_eq!(react(Pressure::default()), "nothing");
/// assert!(Pressure::Min > Pressure::Low);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Pressure {
    /// There is enough memory.
    #[default]
    None,
    /// Less than `low` was free, and since then not more than `high`.
    Low,
    /// Less than `min` is free: only the reserve is left.
    Min,
}

/// Receives the events of an allocator. The allocator calls it from within its operations, on the
/// CPU of the operation.
///
/// A trace should neither call the allocator nor panic. Neither breaks memory safety:
/// - A call from a trace is like a call from an interrupt. It finds the CPU's slot entered and
///   takes bits instead, and it causes events again.
/// - A panic unwinds through the call. Frames that the call had taken return to their areas,
///   without an event. Frames that it was freeing are free. A panic while a run shrinks aborts.
///
/// ```
/// use buddy::{FrameAllocator, Mode, Pressure, Trace, ZeroedMemory};
/// use page_frame::{FrameNumber, FrameRange, Order, SingleCpu};
/// use std::cell::RefCell;
/// #[derive(Default)]
/// struct Log(RefCell<Vec<String>>);
/// impl Trace for Log {
///     const IS_ENABLED: bool = true; // false: the trace costs nothing
///     const HAS_BLOCK_EVENTS: bool = true; // false: only `take` and `free`
///     const MAX_ORDER: Order = Order::new(10).unwrap(); // as in Linux
///     fn take(&self, _: FrameNumber, frames: usize) {
///         self.0.borrow_mut().push(format!("take {frames}"));
///     }
///     fn free(&self, _: FrameNumber, frames: usize) {
///         self.0.borrow_mut().push(format!("free {frames}"));
///     }
///     fn split(&self, count: usize) { self.0.borrow_mut().push(format!("split {count}")) }
///     fn merge(&self, count: usize) { self.0.borrow_mut().push(format!("merge {count}")) }
///     fn claim(&self, areas: usize) { self.0.borrow_mut().push(format!("claim {areas}")) }
///     fn transfer(&self, frames: usize) { self.0.borrow_mut().push(format!("move {frames}")) }
///     fn allows(&self, _: usize) -> bool { true } // a zone list asks
///     fn pressure(&self) -> Pressure { Pressure::None }
/// }
/// # use std::mem::MaybeUninit;
/// # let mut memory = vec![MaybeUninit::uninit(); 1 << 17];
/// # let memory = ZeroedMemory::zero(&mut memory);
/// # let range = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(16))];
/// # let frames = FrameAllocator::new_in(memory, &range, SingleCpu::new(), Mode::Plain)?;
/// let frames = frames.with_trace(Log::default());
/// let block = frames.allocate_frames(Order::new(1).unwrap())?;
/// frames.free_frames(block, Order::new(1).unwrap())?;
/// assert_eq!(*frames.trace().0.borrow(), ["take 2", "split 3", "free 2", "merge 3"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Trace {
    /// Whether the allocator calls the event methods. If false, it computes nothing for events.
    /// Example: see [`Trace`].
    const IS_ENABLED: bool = true;
    /// Whether the trace wants splits, merges, claims and transfers. If false, the allocator
    /// computes nothing for them. Example: see [`Trace`].
    const HAS_BLOCK_EVENTS: bool = true;
    /// The largest order of the list-based buddy that splits and merges are computed for.
    /// Example: see [`Trace`].
    const MAX_ORDER: Order = Order::MAX;

    /// `frames` frames at or after `start` left their areas, for a user or a CPU slot.
    /// Example: see [`Trace`].
    fn take(&self, start: FrameNumber, frames: usize) {
        let _ = (start, frames);
    }

    /// `frames` frames at or after `start` returned to their areas. Example: see [`Trace`].
    fn free(&self, start: FrameNumber, frames: usize) {
        let _ = (start, frames);
    }

    /// `count` blocks were split in two. Example: see [`Trace`].
    fn split(&self, count: usize) {
        let _ = count;
    }

    /// `count` pairs of buddies became one block. Example: see [`Trace`].
    fn merge(&self, count: usize) {
        let _ = count;
    }

    /// `areas` areas were claimed whole. Example: see [`Trace`].
    fn claim(&self, areas: usize) {
        let _ = areas;
    }

    /// `frames` frames moved from areas to a CPU slot, or back. Example: see [`Trace`].
    fn transfer(&self, frames: usize) {
        let _ = frames;
    }

    /// Returns whether an ordinary request of a [`ZoneList`](crate::ZoneList) may take `pages`
    /// frames. The zone list calls it before the take. Example: see [`Trace`].
    #[inline]
    fn allows(&self, pages: usize) -> bool {
        let _ = pages;
        true
    }

    /// Returns how short memory is. Example: see [`Trace`].
    #[inline]
    fn pressure(&self) -> Pressure {
        Pressure::None
    }
}

/// Receives no events.
impl Trace for () {
    const IS_ENABLED: bool = false;
}

/// Both receive each event, the first one first. A request needs the permission of both.
impl<A: Trace, B: Trace> Trace for (A, B) {
    const IS_ENABLED: bool = A::IS_ENABLED || B::IS_ENABLED;
    const HAS_BLOCK_EVENTS: bool = A::HAS_BLOCK_EVENTS || B::HAS_BLOCK_EVENTS;
    const MAX_ORDER: Order = if A::HAS_BLOCK_EVENTS { A::MAX_ORDER } else { B::MAX_ORDER };

    fn take(&self, start: FrameNumber, frames: usize) {
        self.0.take(start, frames);
        self.1.take(start, frames);
    }

    fn free(&self, start: FrameNumber, frames: usize) {
        self.0.free(start, frames);
        self.1.free(start, frames);
    }

    fn split(&self, count: usize) {
        self.0.split(count);
        self.1.split(count);
    }

    fn merge(&self, count: usize) {
        self.0.merge(count);
        self.1.merge(count);
    }

    fn claim(&self, areas: usize) {
        self.0.claim(areas);
        self.1.claim(areas);
    }

    fn transfer(&self, frames: usize) {
        self.0.transfer(frames);
        self.1.transfer(frames);
    }

    #[inline]
    fn allows(&self, pages: usize) -> bool {
        self.0.allows(pages) && self.1.allows(pages)
    }

    #[inline]
    fn pressure(&self) -> Pressure {
        self.0.pressure().max(self.1.pressure())
    }
}

impl<T: Trace + ?Sized> Trace for &T {
    const IS_ENABLED: bool = T::IS_ENABLED;
    const HAS_BLOCK_EVENTS: bool = T::HAS_BLOCK_EVENTS;
    const MAX_ORDER: Order = T::MAX_ORDER;

    fn take(&self, start: FrameNumber, frames: usize) {
        (**self).take(start, frames);
    }

    fn free(&self, start: FrameNumber, frames: usize) {
        (**self).free(start, frames);
    }

    fn split(&self, count: usize) {
        (**self).split(count);
    }

    fn merge(&self, count: usize) {
        (**self).merge(count);
    }

    fn claim(&self, areas: usize) {
        (**self).claim(areas);
    }

    fn transfer(&self, frames: usize) {
        (**self).transfer(frames);
    }

    #[inline]
    fn allows(&self, pages: usize) -> bool {
        (**self).allows(pages)
    }

    #[inline]
    fn pressure(&self) -> Pressure {
        (**self).pressure()
    }
}

/// A trace that counts events.
///
/// ```
/// use buddy::{EventCounts, FrameAllocator, Mode, ZeroedMemory};
/// use page_frame::{FrameNumber, FrameRange, Order, SingleCpu};
/// # use std::mem::MaybeUninit;
/// # let mut memory = vec![MaybeUninit::uninit(); 1 << 17];
/// # let memory = ZeroedMemory::zero(&mut memory);
/// # let range = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(1024))];
/// # let frames = FrameAllocator::new_in(memory, &range, SingleCpu::new(), Mode::Cached)?;
/// let counts = EventCounts::new();
/// let frames = frames.with_trace(&counts);
/// frames.allocate_frames(Order::new(9).unwrap())?; // one half of the frames, a whole area
/// assert_eq!((counts.splits(), counts.claims(), counts.merges()), (1, 1, 0));
/// frames.allocate_frames(Order::ZERO)?; // refills the CPU's slot
/// assert!(counts.transfers() > 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct EventCounts {
    splits: AtomicUsize,
    merges: AtomicUsize,
    claims: AtomicUsize,
    transfers: AtomicUsize,
}

impl EventCounts {
    page_frame::const_unless_loom! {
        /// Returns counters at zero. Example: see [`EventCounts`].
        pub fn new() -> Self {
            Self {
                splits: AtomicUsize::new(0),
                merges: AtomicUsize::new(0),
                claims: AtomicUsize::new(0),
                transfers: AtomicUsize::new(0),
            }
        }
    }

    /// Returns the number of blocks that were split in two. Example: see [`EventCounts`].
    pub fn splits(&self) -> usize {
        // Relaxed, as in all four getters: statistics, which publish nothing.
        self.splits.load(Ordering::Relaxed)
    }

    /// Returns the number of pairs of buddies that became one block. Example: see [`EventCounts`].
    pub fn merges(&self) -> usize {
        self.merges.load(Ordering::Relaxed)
    }

    /// Returns the number of areas that were claimed whole. Example: see [`EventCounts`].
    pub fn claims(&self) -> usize {
        self.claims.load(Ordering::Relaxed)
    }

    /// Returns the number of frames that moved between areas and CPU slots.
    /// Example: see [`EventCounts`].
    pub fn transfers(&self) -> usize {
        self.transfers.load(Ordering::Relaxed)
    }
}

impl Trace for EventCounts {
    fn split(&self, count: usize) {
        self.splits.fetch_add(count, Ordering::Relaxed);
    }

    fn merge(&self, count: usize) {
        self.merges.fetch_add(count, Ordering::Relaxed);
    }

    fn claim(&self, areas: usize) {
        self.claims.fetch_add(areas, Ordering::Relaxed);
    }

    fn transfer(&self, frames: usize) {
        self.transfers.fetch_add(frames, Ordering::Relaxed);
    }
}
