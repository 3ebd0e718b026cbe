//! `GrowingBuddy`: a constant that gets ranges of frames at any time.
//!
//! # Concepts
//! Each range has a [`Buddy`] of its own, which lies at the range's end together with its link in a
//! list. So metadata is in proportion to the frames that are there, whatever lies between them. Two
//! ranges may lie in one GiB or touch each other; blocks do not cross their border. A request
//! begins at the buddy that served the last one, and goes round the list.
//!
//! # Invariants
//! - I1: the list only grows at its end, and its buddies stay where they are while the value lives.
//! - I2: the ranges of the list are disjoint (clause 1 of [`add`](GrowingBuddy::add)).
//!
//! # Concurrency
//! `AppendList` describes how a range is added. Everything else is that of the buddies.
//!
//! # Costs
//! A buddy's, and O(ranges) for a free, a look-up by address, and a request that other ranges
//! cannot serve.

use core::ptr;

use page_frame::sync::{AppendList, AppendNode, AtomicPtr, Ordering};
use page_frame::{
    Cpu, Fault, FaultKind, FrameNumber, FrameRange, Order, OutOfMemory, PhysMap, Violation,
    const_unless_loom,
};

use crate::allocator::buddy::Buddy;
use crate::metadata::BuildError;

/// A buddy over ranges of frames that are added at any time, from none on.
///
/// ```
/// use buddy::GrowingBuddy;
/// use page_frame::{DirectMap, FrameNumber, FrameRange, Order, PageSource, PAGE_SIZE, SingleCpu};
/// # use std::{alloc::{Layout, alloc}, ptr::NonNull};
/// # // SAFETY: the layout is not empty.
/// # let memory = unsafe { alloc(Layout::from_size_align(1024 * PAGE_SIZE, PAGE_SIZE)?) };
/// # // SAFETY: `memory` points to the memory of all frames, from frame 0 on.
/// # let map = unsafe { DirectMap::from_root(NonNull::new(memory).unwrap(), FrameNumber::new(0)) };
/// let range = |start, end| FrameRange::new(FrameNumber::new(start), FrameNumber::new(end));
/// // In a kernel: `static FRAMES: GrowingBuddy<DirectMap, MyCpu> = GrowingBuddy::new(MAP, MyCpu);`
/// let frames = GrowingBuddy::new(map, SingleCpu::new());
/// assert!(frames.allocate_frames(Order::ZERO).is_err()); // no range yet
/// // SAFETY: clauses 1 and 2: no other code uses the frames, which `map` covers.
/// unsafe { frames.add(range(0, 400)) }?;
/// // SAFETY: as above.
/// unsafe { frames.add(range(512, 1024)) }?; // in the same GiB
/// assert!(frames.free_frames_count() > 800 && frames.frames() == 912);
/// frames.withhold(range(8, 10))?;
/// let segment = frames.allocate_each(300, Order::ZERO)?;
/// let page = frames.allocate_frames(Order::ZERO)?;
/// // SAFETY: clause 1: allocated by number, and not used any more.
/// unsafe { frames.free_frames(page, Order::ZERO) }?;
/// // SAFETY: clause 1: as above.
/// unsafe { frames.free_each(range(segment.get(), segment.get() + 300)) }?;
/// // SAFETY: clause 1: as above.
/// unsafe { frames.free_each(range(8, 10)) }?;
/// let block = frames.allocate(Order::new(3).unwrap())?; // by address, as a page source
/// // SAFETY: the block came from `frames`, and nothing refers into it.
/// unsafe { frames.free(block) };
/// frames.drain();
/// frames.validate()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Metadata takes about 42 KiB for each GiB in which a range has frames, nine bytes a frame, and
/// about 2 KiB for each CPU.
#[derive(Debug)]
pub struct GrowingBuddy<M, C> {
    parts: AppendList<Part<M, C>>,
    /// The part that served the last request that its buddy before could not serve; null at first.
    last_used: AtomicPtr<Part<M, C>>,
    phys: M,
    cpu: C,
}

/// A range and its buddy, in the memory of the range.
#[derive(Debug)]
pub(super) struct Part<M, C> {
    range: FrameRange,
    pub(super) buddy: Buddy<'static, M, C>,
}

// SAFETY: the parts are reached by shared references; their buddies may be shared and sent under
// these conditions.
unsafe impl<M: Send + Sync, C: Send + Sync> Send for GrowingBuddy<M, C> {}
// SAFETY: as above.
unsafe impl<M: Send + Sync, C: Send + Sync> Sync for GrowingBuddy<M, C> {}

impl<M, C> GrowingBuddy<M, C> {
    const_unless_loom! {
        /// Makes a buddy without frames. Example: see [`GrowingBuddy`].
        pub fn new(phys: M, cpu: C) -> Self {
            let last_used = AtomicPtr::new(ptr::null_mut());
            Self { parts: AppendList::new(), last_used, phys, cpu }
        }
    }

    /// Iterates over the parts in the order of addition.
    pub(super) fn parts(&self) -> impl Iterator<Item = &Part<M, C>> {
        self.parts.iter()
    }

    /// Returns the part that served the last request.
    #[inline]
    fn last_used(&self) -> Option<&Part<M, C>> {
        // Acquire: pairs with the Release in `allocate_elsewhere`; sees the part as it was written.
        let part = self.last_used.load(Ordering::Acquire);
        // SAFETY: null, or a part of the list, which stays where it is while the value lives (I1).
        unsafe { part.as_ref() }
    }

    pub(super) const fn phys(&self) -> &M {
        &self.phys
    }

    /// Whether some frame of `range` is in a range that was added.
    #[cfg(any(feature = "ax-allocator", feature = "axallocator"))]
    pub(crate) fn overlaps(&self, range: FrameRange) -> bool {
        self.parts().any(|part| !part.range.intersection(range).is_empty())
    }

    /// Returns the buddy of the range that `frame` lies in.
    #[inline]
    pub(super) fn at(&self, frame: FrameNumber) -> Option<&Buddy<'static, M, C>> {
        let has_it = |part: &&Part<M, C>| part.range.contains(frame);
        // Most frees are of frames that the last requests got.
        let part = self.last_used().filter(has_it).or_else(|| self.parts().find(has_it));
        part.map(|part| &part.buddy)
    }
}

impl<M: PhysMap + Clone, C: Cpu + Clone> GrowingBuddy<M, C> {
    /// Adds the frames of `range`. O(frames): writes the metadata at the end of the range, which
    /// counts as allocated. Example: see [`GrowingBuddy`].
    ///
    /// # Errors
    /// [`BuildError::MetadataTooSmall`] when the range has no frame beside its metadata, with the
    /// bytes that it needs; [`BuildError::Unordered`] when it is empty. Nothing has changed then.
    ///
    /// # Safety
    /// 1. While this value lives, also if it is moved, no other code uses the frames. They are in
    ///    no range that was added before.
    /// 2. The map covers the frames, and they are mapped where it says, for reads and writes.
    pub unsafe fn add(&self, range: FrameRange) -> Result<(), BuildError> {
        let (phys, cpu) = (self.phys.clone(), self.cpu.clone());
        let bytes = size_of::<AppendNode<Part<M, C>>>();
        const { assert!(align_of::<AppendNode<Part<M, C>>>() <= 64, "its place is aligned to 64") };
        // SAFETY: clauses 1 and 2: clauses 1 and 2, as the part lives no longer than this value.
        let (buddy, place) = unsafe { Buddy::new_inside_with(&[range], bytes, phys, cpu) }?;
        // SAFETY: clause 1: the buddy has reserved these bytes, aligned to 64, for the part.
        unsafe { self.parts.append(place.cast(), Part { range, buddy }) };
        Ok(())
    }

    /// Allocates by `allocate` from the parts, the last used first.
    #[inline]
    pub(super) fn allocate_by<R>(
        &self,
        allocate: impl Fn(&Buddy<'static, M, C>) -> Result<R, OutOfMemory>,
    ) -> Result<R, OutOfMemory> {
        let used = self.last_used();
        if let Some(Ok(found)) = used.map(|part| allocate(&part.buddy)) {
            return Ok(found);
        }
        self.allocate_elsewhere(used, allocate)
    }

    /// Allocates by `allocate` from a part other than `full`.
    #[cold]
    fn allocate_elsewhere<R>(
        &self,
        full: Option<&Part<M, C>>,
        allocate: impl Fn(&Buddy<'static, M, C>) -> Result<R, OutOfMemory>,
    ) -> Result<R, OutOfMemory> {
        let is_other = |part: &&Part<M, C>| full.is_none_or(|full| !ptr::eq(full, *part));
        self.parts()
            .filter(is_other)
            .find_map(|part| {
                let found = allocate(&part.buddy).ok()?;
                // Release: the next request may read the part after it has read only this pointer.
                self.last_used.store(ptr::from_ref(part).cast_mut(), Ordering::Release);
                Some(found)
            })
            .ok_or(OutOfMemory)
    }

    /// Allocates a block of `order`, see
    /// [`FramePool::allocate_frames`](crate::FramePool::allocate_frames).
    /// Example: see [`GrowingBuddy`].
    ///
    /// # Errors
    /// [`OutOfMemory`] when no range has such a block.
    #[inline]
    pub fn allocate_frames(&self, order: Order) -> Result<FrameNumber, OutOfMemory> {
        self.allocate_by(|buddy| buddy.allocate_frames(order))
    }

    /// Allocates consecutive frames that are freed one by one, see
    /// [`FramePool::allocate_each`](crate::FramePool::allocate_each).
    /// Example: see [`GrowingBuddy`].
    ///
    /// # Errors
    /// [`OutOfMemory`] when no range has such consecutive free frames.
    #[inline]
    pub fn allocate_each(
        &self,
        frames: usize,
        alignment: Order,
    ) -> Result<FrameNumber, OutOfMemory> {
        self.allocate_by(|buddy| buddy.allocate_each(frames, alignment))
    }

    /// Allocates exactly the frames of `range`, which may cross the border of touching ranges, see
    /// [`FramePool::withhold`](crate::FramePool::withhold). Example: see [`GrowingBuddy`].
    ///
    /// # Errors
    /// [`OutOfMemory`] when some frame is taken or absent. Then nothing has changed.
    pub fn withhold(&self, range: FrameRange) -> Result<(), OutOfMemory> {
        let parts = || self.parts().map(|part| (part, part.range.intersection(range)));
        let parts = || parts().filter(|(_, own)| !own.is_empty());
        if parts().map(|(_, own)| own.frames()).sum::<usize>() != range.frames() {
            return Err(OutOfMemory);
        }
        let taken = parts().take_while(|(part, own)| part.buddy.withhold(*own).is_ok()).count();
        if taken == parts().count() {
            return Ok(());
        }
        for (part, own) in parts().take(taken) {
            // SAFETY: clause 1: withheld above, and no caller has them.
            let freed = unsafe { part.buddy.free_each(own) };
            debug_assert!(freed.is_ok(), "each frame was withheld as a block of its own");
        }
        Err(OutOfMemory)
    }

    /// Frees a block, see [`Buddy::free_frames`]. Example: see [`GrowingBuddy`].
    ///
    /// # Errors
    /// A [`Fault`] when no such block is allocated. Then nothing has changed.
    ///
    /// # Safety
    /// 1. As for [`Buddy::free_frames`].
    #[inline]
    #[track_caller]
    pub unsafe fn free_frames(&self, frame: FrameNumber, order: Order) -> Result<(), Fault> {
        let foreign = || Fault::at_frame(FaultKind::ForeignPointer, frame);
        let buddy = self.at(frame).ok_or_else(foreign)?;
        // SAFETY: clause 1 is the same for the buddy whose range has the block.
        unsafe { buddy.free_frames(frame, order) }
    }

    /// Frees each frame of `range`, see
    /// [`FrameAllocator::free_each`](crate::FrameAllocator::free_each).
    /// Example: see [`GrowingBuddy`].
    ///
    /// # Errors
    /// The first [`Fault`]. Every frame of the range that was a block of its own is free then, and
    /// nothing else has changed.
    ///
    /// # Safety
    /// 1. As for [`Buddy::free_frames`], for each frame of the range.
    #[track_caller]
    #[inline]
    pub unsafe fn free_each(&self, range: FrameRange) -> Result<(), Fault> {
        if range.frames() == 1 {
            // SAFETY: clause 1 is that of `free_frames`.
            return unsafe { self.free_frames(range.start, Order::ZERO) };
        }
        // SAFETY: clause 1 is the same.
        unsafe { self.free_segment(range) }
    }

    /// Frees each frame of `range`.
    ///
    /// # Safety
    /// 1. As for [`free_each`](Self::free_each).
    #[cold]
    #[inline(never)]
    #[track_caller]
    unsafe fn free_segment(&self, range: FrameRange) -> Result<(), Fault> {
        let (mut outcome, mut freed) = (Ok(()), 0);
        for part in self.parts() {
            let own = part.range.intersection(range);
            freed += own.frames();
            if !own.is_empty() {
                // SAFETY: clause 1 is the same for the buddy whose range has the frames.
                outcome = outcome.and(unsafe { part.buddy.free_each(own) });
            }
        }
        if freed == range.frames() {
            return outcome;
        }
        let mut frames = (range.start.get()..range.end.get()).map(FrameNumber::new);
        let foreign = frames.find(|frame| self.at(*frame).is_none()).unwrap_or(range.start);
        outcome.and(Err(Fault::at_frame(FaultKind::ForeignPointer, foreign)))
    }

    /// Returns the number of frames of all ranges, metadata included. O(ranges).
    /// Example: see [`GrowingBuddy`].
    pub fn frames(&self) -> usize {
        self.parts().map(|part| part.range.frames()).sum()
    }

    /// Returns the number of free frames of all ranges, see
    /// [`FramePool::free_frames_count`](crate::FramePool::free_frames_count).
    /// Example: see [`GrowingBuddy`].
    pub fn free_frames_count(&self) -> usize {
        self.parts().map(|part| part.buddy.free_frames_count()).sum()
    }

    /// Returns the frames that CPU slots hold to their areas, see
    /// [`FramePool::drain`](crate::FramePool::drain). Example: see [`GrowingBuddy`].
    pub fn drain(&self) -> usize {
        self.parts().map(|part| part.buddy.drain()).sum()
    }

    /// Checks the invariants of each buddy, see
    /// [`FramePool::validate`](crate::FramePool::validate). Call it only while no other call is
    /// inside the allocator. O(frames). Example: see [`GrowingBuddy`].
    ///
    /// # Errors
    /// The first [`Violation`] found.
    pub fn validate(&self) -> Result<(), Violation> {
        self.parts().try_for_each(|part| part.buddy.validate())
    }
}
