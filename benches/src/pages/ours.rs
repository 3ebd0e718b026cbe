//! The `buddy` crate as a contestant.

use buddy::{FrameAllocator, Mode, Relocated, Relocation, ZeroedMemory};
use hosted::{Mapped, Threads};
use page_frame::{Cpu, FrameNumber, FrameRange, Order, PageMapArray};
use rustix::mm::{Advice, madvise};

use crate::pages::allocator::SharedPages;
use crate::pages::workload::AREA_FRAMES;

/// The `buddy` crate, with a CPU slot for each thread.
pub(super) struct Ours {
    buddy: FrameAllocator<'static, Threads>,
    metadata: Mapped,
}

impl Ours {
    pub(super) fn new(frames: usize) -> Self {
        let range = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(frames))];
        let layout = FrameAllocator::<Threads>::metadata_layout(&range, Threads.slots())
            .expect("a good range");
        let metadata = Mapped::reserve(layout.size()).expect("memory for metadata");
        // SAFETY: a fresh mapping is zero and page-aligned, and is dropped after the allocator:
        // fields drop in order.
        let zeroed = unsafe { ZeroedMemory::from_zeroed(metadata.start(), metadata.bytes()) };
        let buddy = FrameAllocator::new_in(zeroed, &range, Threads, Mode::Cached);
        Self { buddy: buddy.expect("a good range"), metadata }
    }
}

impl SharedPages for Ours {
    #[inline]
    fn allocate(&self, order: Order) -> Option<usize> {
        self.buddy.allocate_frames(order).ok().map(FrameNumber::get)
    }

    #[inline]
    fn free(&self, frame: usize, order: Order) {
        self.buddy.free_frames(FrameNumber::new(frame), order).expect("the workloads free once");
    }

    fn drain(&self) {
        self.buddy.drain();
    }

    fn free_areas(&self) -> Option<usize> {
        let areas = |(_, order): (FrameNumber, Order)| order.pages() / AREA_FRAMES;
        Some(self.buddy.free_blocks().map(areas).sum())
    }

    fn allocate_compacting(
        &self,
        order: Order,
        relocate: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Option<usize> {
        let relocate = |it: Relocation| match relocate(it.from.get(), it.to.get()) {
            true => Relocated::Moved,
            false => Relocated::Refused,
        };
        self.buddy.allocate_compacting(order, relocate).ok().map(FrameNumber::get)
    }

    fn metadata_bytes(&self) -> Option<usize> {
        let page_map = PageMapArray::metadata_bytes(self.buddy.frames());
        // The mapping is a whole number of pages; the rounding is small against gibibytes of
        // frames.
        Some(self.metadata.bytes() - page_map)
    }

    fn back(&self) {
        let (start, bytes) = (self.metadata.start().as_ptr().cast(), self.metadata.bytes());
        // SAFETY: the mapping is ours, and populating it keeps its content. The rivals write all of
        // their metadata when they are built.
        let backed = unsafe { madvise(start, bytes, Advice::LinuxPopulateWrite) };
        backed.expect("the system has memory for the metadata");
    }
}
