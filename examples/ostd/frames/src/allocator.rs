//! The static that OSTD calls, and what others may ask about it.

use core::alloc::Layout;
use core::sync::atomic::{AtomicUsize, Ordering};

use buddy::page_frame::{
    Cpu, Fault, FaultKind, Fenced, FrameNumber, FrameRange, Order, PAGE_SHIFT, PAGE_SIZE, Violation,
};
use buddy::{Buddy, GrowingBuddy};
use ostd::irq;
use ostd::mm::Paddr;
use ostd::mm::frame::GlobalFrameAllocator;
use ostd::sync::{LocalIrqDisabled, SpinLock};

use crate::cpu::OstdCpu;
use crate::linear_map::LinearMap;

/// Frames of the largest gap between two ranges that the upper one takes in: 1 GiB. Beyond it lie
/// devices, and its metadata would cost more than the frames that OSTD frees in it are worth.
const LARGEST_GAP: usize = 1 << 18;

type Cpus = Fenced<OstdCpu>;

/// The frame allocator. Invariant I1: only OSTD calls the methods of `GlobalFrameAllocator`.
pub(crate) struct FrameAllocator {
    frames: GrowingBuddy<LinearMap, Cpus>,
    /// The last range that was added, if it is too small for a buddy; else its end, without frames.
    /// The next range takes it in.
    waiting: SpinLock<FrameRange, LocalIrqDisabled>,
    /// Frames that OSTD has added or freed, and that no buddy has.
    lost: AtomicUsize,
}

// `used`: the linker takes the object of this module even if nothing refers to it, and with it the
// symbol that OSTD calls, which is stronger than the default in OSDK's program.
#[ostd::global_frame_allocator]
#[used]
pub(crate) static FRAMES: FrameAllocator = FrameAllocator {
    frames: GrowingBuddy::new(LinearMap, Fenced(OstdCpu)),
    waiting: SpinLock::new(FrameRange::new(FrameNumber::new(0), FrameNumber::new(0))),
    lost: AtomicUsize::new(0),
};

impl GlobalFrameAllocator for FrameAllocator {
    fn alloc(&self, layout: Layout) -> Option<Paddr> {
        let _masked = irq::disable_local();
        let frame = if layout.size() == PAGE_SIZE && layout.align() <= PAGE_SIZE {
            self.frames.allocate_frames(Order::ZERO).ok()
        } else {
            self.allocate_segment(layout)
        };
        Some(frame?.get() << PAGE_SHIFT)
    }

    /// # Panics
    /// When a frame of the range is free already.
    fn dealloc(&self, start: Paddr, bytes: usize) {
        let _masked = irq::disable_local();
        if bytes != PAGE_SIZE {
            return self.free_segment(start, bytes);
        }
        let frame = FrameNumber::containing(start);
        // SAFETY: clause 1: OSTD frees a frame when its last reference is dropped, so nothing
        // refers into it (I1); `alloc` or `add_with_gap` made it a block of its own.
        if let Err(fault) = unsafe { self.frames.free_frames(frame, Order::ZERO) } {
            self.note_foreign(&fault);
        }
    }

    fn add_free_memory(&self, start: Paddr, bytes: usize) {
        let mut waiting = self.waiting.lock();
        let range = range(start, bytes);
        if self.add_with_gap(*waiting, range) {
            self.lost.fetch_sub(waiting.frames(), Ordering::Relaxed); // a statistic, read by itself
        // SAFETY: clause 1: OSTD adds memory that is not in use, once (I1). Clause 2: `LinearMap`.
        } else if unsafe { self.frames.add(range) }.is_err() {
            self.lost.fetch_add(range.frames(), Ordering::Relaxed); // as above
            *waiting = range;
            return;
        }
        *waiting = FrameRange::new(range.end, range.end);
    }
}

impl FrameAllocator {
    #[cold]
    fn allocate_segment(&self, layout: Layout) -> Option<FrameNumber> {
        let alignment = Order::for_bytes(layout.align())?.order;
        self.frames.allocate_each(layout.size() >> PAGE_SHIFT, alignment).ok()
    }

    /// Frees several frames, one by one: OSTD 0.18 frees no others. A bulk free would be a second
    /// use of `free_frames`, which is then a call in the path of one frame.
    #[cold]
    fn free_segment(&self, start: Paddr, bytes: usize) {
        for offset in (0..bytes).step_by(PAGE_SIZE) {
            self.dealloc(start + offset, PAGE_SIZE);
        }
    }

    /// Counts a frame that OSTD frees outside of all ranges.
    ///
    /// # Panics
    /// When the fault is another one, such as a double free.
    #[cold]
    fn note_foreign(&self, fault: &Fault) {
        assert!(fault.kind == FaultKind::ForeignPointer, "OSTD: {fault}");
        self.lost.fetch_add(1, Ordering::Relaxed); // a statistic, read by itself
    }

    /// Adds the frames of `range` and `waiting` as free ones, and those between them as allocated
    /// ones. Returns false, and does nothing, where they are far apart or descend, or `range` is
    /// too small for the metadata of all.
    fn add_with_gap(&self, waiting: FrameRange, range: FrameRange) -> bool {
        let below = FrameRange::new(waiting.start, range.start);
        let all = FrameRange::new(waiting.start, range.end);
        if waiting.end > range.start || below.frames() > LARGEST_GAP {
            return false;
        }
        let cpus = Fenced(OstdCpu).slots();
        let Ok(layout) = Buddy::<LinearMap, Cpus>::metadata_layout(&[all], cpus) else {
            return false;
        };
        // The buddy writes its metadata, and a node of less than a page, to the end of `all`: that
        // must lie in `range`.
        if range.frames() <= layout.size().div_ceil(PAGE_SIZE) + 1 {
            return false;
        }
        // SAFETY: clause 1: the frames of `range` and `waiting` are not in use (I1). Those between
        // them may be in use, and are withheld below before any other code allocates: OSTD adds all
        // ranges on one CPU, before it starts the others. The metadata lies in `range`, as checked
        // above, and free frames are never written. Clause 2: `LinearMap`.
        if unsafe { self.frames.add(all) }.is_err() {
            return false;
        }
        let gap = FrameRange::new(waiting.end, range.start);
        self.frames.withhold(gap).expect("no other code has allocated from these frames");
        true
    }
}

fn range(start: Paddr, bytes: usize) -> FrameRange {
    FrameRange::new(FrameNumber::containing(start), FrameNumber::containing(start + bytes))
}

/// Returns the number of frames that the allocator manages. Some of them never were free: gaps
/// between ranges, and its metadata.
pub fn frames() -> usize {
    FRAMES.frames.frames()
}

/// Returns the number of free frames, without those in the slots of the CPUs, see [`drain`].
pub fn free_frames() -> usize {
    let _masked = irq::disable_local();
    FRAMES.frames.free_frames_count()
}

/// Returns the number of frames that OSTD has added or freed, but that the allocator cannot manage.
/// These are ranges of less than about twenty frames with no larger range above them, and frames
/// far from all ranges.
pub fn lost_frames() -> usize {
    FRAMES.lost.load(Ordering::Relaxed)
}

/// Returns the frames in the slots of all CPUs to their areas, so that they merge; returns how
/// many.
pub fn drain() -> usize {
    let _masked = irq::disable_local();
    FRAMES.frames.drain()
}

/// Checks the invariants of the allocator, while no other CPU allocates or frees. O(frames).
///
/// # Errors
/// The first [`Violation`] found.
pub fn validate() -> Result<(), Violation> {
    let _masked = irq::disable_local();
    FRAMES.frames.validate()
}
