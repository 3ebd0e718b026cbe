//! Allocates and frees many blocks in one call.

use page_frame::{Cpu, Fault, FrameNumber, Order};

use crate::allocator::frame_pool::FramePool;
use crate::trace::Trace;

impl<C: Cpu, T: Trace, const CHECKED: bool> FramePool<'_, C, T, CHECKED> {
    /// Fills `blocks` with the first frames of allocated blocks of `order`; returns the number of
    /// blocks. If it is below `blocks.len()`, memory ran out.
    ///
    /// The call enters the CPU's slot once for all blocks that the slot can serve. One atomic
    /// operation takes up to 64 single frames. Example: see [`FramePool`].
    pub fn allocate_many(&self, order: Order, blocks: &mut [FrameNumber]) -> usize {
        let count = self.caches.allocate_bulk(&self.frames, order, blocks);
        let mut allocated = self.frames.bulk_guard(order, blocks, count);
        while !allocated.is_full() {
            let Ok(block) = self.allocate_frames(order) else { break };
            allocated.push(block);
        }
        allocated.forget()
    }

    /// Frees blocks of `order`, see
    /// [`FrameAllocator::free_many`](crate::FrameAllocator::free_many).
    #[track_caller]
    pub(crate) fn free_many(&self, order: Order, blocks: &[FrameNumber]) -> Result<(), Fault> {
        let mut outcome = Ok(());
        for block in blocks {
            let freed = self.free_frames(*block, order);
            outcome = outcome.and(freed);
        }
        outcome
    }
}
