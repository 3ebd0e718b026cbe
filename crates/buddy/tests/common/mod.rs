//! A buddy over frames that are only numbers, with its own metadata, and a textbook buddy.

#![allow(unreachable_pub)]
#![allow(dead_code, reason = "each test program uses its part")]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use buddy::{Buddy, HotplugError, Mode, Trace, ZeroedMemory};
use page_frame::{Cpu, DirectMap, Fault, FaultHook, FrameNumber, FrameRange, Order};

pub mod textbook;
#[cfg(not(loom))]
pub mod users;

/// Where frame 0 would be.
pub const ROOT: usize = 1 << 40;

/// Zeroed memory, freed when dropped.
pub struct Metadata {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the memory is owned, and reached only through pointers whose use is unsafe.
unsafe impl Send for Metadata {}
// SAFETY: shared references reach nothing.
unsafe impl Sync for Metadata {}

impl Metadata {
    pub fn new(layout: Layout) -> Self {
        // SAFETY: no layout of metadata is empty.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).expect("memory for metadata");
        Self { start, layout }
    }

    /// Returns the first byte.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Returns the memory, once. The test drops `self` after the allocator that uses it.
    pub fn memory<'m>(&self) -> ZeroedMemory<'m> {
        // SAFETY: fresh from `alloc_zeroed`, aligned as the layout says, and dropped last.
        unsafe { ZeroedMemory::from_zeroed(self.start, self.layout.size()) }
    }
}

impl Drop for Metadata {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout; the allocator that used it is dropped.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// A buddy that owns its metadata, which is dropped after it.
pub struct Simulated<C: Cpu, T = (), const K: bool = false> {
    buddy: Buddy<'static, DirectMap, C, T, K>,
    metadata: Metadata,
}

pub fn range(start: usize, end: usize) -> FrameRange {
    FrameRange::new(FrameNumber::new(start), FrameNumber::new(end))
}

impl<C: Cpu> Simulated<C> {
    pub fn new(ranges: &[FrameRange], cpu: C, mode: Mode) -> Self {
        Self::with_room(ranges, FrameRange::default(), cpu, mode)
    }

    /// The same, with room for frames to be added.
    pub fn with_room(ranges: &[FrameRange], room: FrameRange, cpu: C, mode: Mode) -> Self {
        let layout = Buddy::<DirectMap, C>::metadata_layout_with_room(ranges, room, cpu.slots());
        let metadata = Metadata::new(layout.expect("good ranges"));
        let root = NonNull::new(std::ptr::without_provenance_mut(ROOT)).expect("not zero");
        // SAFETY: no pointer of the map is ever used.
        let map = unsafe { DirectMap::from_root(root, FrameNumber::new(0)) };
        let memory = metadata.memory();
        // SAFETY: the frames are numbers, and no pointer to them is used.
        let buddy = unsafe { Buddy::new_with_room(memory, ranges, room, map, cpu, mode) };
        Self { buddy: buddy.expect("good ranges"), metadata }
    }

    /// The same, with a trace.
    pub fn traced<T: Trace>(self, trace: T) -> Simulated<C, T> {
        let Self { buddy, metadata } = self;
        Simulated { buddy: buddy.with_trace(trace), metadata }
    }
}

impl<C: Cpu, T: Trace, const K: bool> Simulated<C, T, K> {
    /// The same, with checked frees.
    pub fn checked_free(self) -> Simulated<C, T, true> {
        let Self { buddy, metadata } = self;
        Simulated { buddy: buddy.with_checked_free(), metadata }
    }

    /// The same, with faults of the pointer interfaces going to `hook`.
    pub fn with_fault_hook(self, hook: FaultHook) -> Self {
        let Self { buddy, metadata } = self;
        Self { buddy: buddy.with_fault_hook(hook), metadata }
    }

    // Frees by number: no memory is behind the frames, so a wrong free affects numbers only.

    #[track_caller]
    pub fn free_frames(&self, frame: FrameNumber, order: Order) -> Result<(), Fault> {
        // SAFETY: see above.
        unsafe { self.buddy.free_frames(frame, order) }
    }

    #[track_caller]
    pub fn free_many(&self, order: Order, blocks: &[FrameNumber]) -> Result<(), Fault> {
        // SAFETY: see above.
        unsafe { self.buddy.free_many(order, blocks) }
    }

    pub fn online(&self, range: FrameRange) -> Result<(), HotplugError> {
        // SAFETY: see above.
        unsafe { self.buddy.online(range) }
    }

    pub fn add_section(
        &self,
        metadata: ZeroedMemory<'static>,
        range: FrameRange,
    ) -> Result<(), HotplugError> {
        // SAFETY: see above.
        unsafe { self.buddy.add_section(metadata, range) }
    }
}

impl<C: Cpu, T, const K: bool> Deref for Simulated<C, T, K> {
    type Target = Buddy<'static, DirectMap, C, T, K>;

    fn deref(&self) -> &Self::Target {
        &self.buddy
    }
}

impl<C: Cpu, T, const K: bool> DerefMut for Simulated<C, T, K> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.buddy
    }
}
