//! Requests beyond one block of any place: many at once, at a given frame, of a mobility.

use page_frame::{Cpu, Fault, FrameNumber, FrameRange, Order, OutOfMemory, Tag};

use crate::bitmap::placement::Mobility;
use crate::unwind::FreeAllOnUnwind;
use crate::{FramePool, Observe};

impl<C: Cpu, O: Observe> FramePool<'_, C, O> {
    /// Allocates as many blocks of `order` as `blocks` has room for, and writes their first frames there; returns how many
    /// there were. Fewer than asked for means that memory ran out.
    ///
    /// The slot is entered once for all that it can serve; single frames come a word, up to 64, per atomic operation.
    pub fn allocate_many(&self, order: Order, blocks: &mut [FrameNumber]) -> usize {
        let had = self.pop_many(order, blocks);
        let mut taken = FreeAllOnUnwind { pool: self, order, blocks, had };
        while taken.had < taken.blocks.len() {
            let Ok(block) = self.allocate_frames(order) else { break };
            taken.push(block);
        }
        taken.forget()
    }

    /// Takes back blocks of `order`, see [`FrameAllocator::free_many`](crate::FrameAllocator::free_many).
    #[track_caller]
    pub(crate) fn free_many(&self, order: Order, blocks: &[FrameNumber]) -> Result<(), Fault> {
        let mut outcome = Ok(());
        for block in blocks {
            let freed = self.free_frames(*block, order);
            outcome = outcome.and(freed);
        }
        outcome
    }

    /// Allocates exactly the block of `order` that begins at `frame`: for frames that firmware or a device names.
    ///
    /// Takes over the slots of idle CPUs when some frame of the block is not free. O(areas of the block) beyond that.
    ///
    /// # Errors
    /// [`OutOfMemory`] when some frame of it is taken, absent, or `frame` is not aligned to `order`.
    pub fn allocate_at(&self, frame: FrameNumber, order: Order) -> Result<(), OutOfMemory> {
        self.try_allocate_at(frame, order).or_else(|_| {
            self.drain();
            self.try_allocate_at(frame, order)
        })
    }

    /// The same without looking into slots: what a CPU keeps counts as taken. O(areas of the block).
    ///
    /// # Errors
    /// As for [`allocate_at`](Self::allocate_at).
    pub fn try_allocate_at(&self, frame: FrameNumber, order: Order) -> Result<(), OutOfMemory> {
        let end = frame.checked_add(order.pages()).ok_or(OutOfMemory)?;
        let is_ours = frame.is_aligned_to(order) && self.zone.has(FrameRange::new(frame, end));
        // A look first: it writes nothing where the block is not free.
        if !is_ours || !self.zone.is_free(frame, order) || !self.zone.take_at(frame, order) {
            return Err(OutOfMemory);
        }
        _ = self.noted(Some(frame), order);
        self.set_tag(frame, Tag::block(order));
        Ok(())
    }

    /// Returns a block of `order` for content of `mobility`, from areas of that mobility while there are any.
    ///
    /// What is not [`Mobility::Unmovable`] goes past the CPU's slot: one atomic operation, a fence and a search. Zones with
    /// fewer than 60 areas (120 MiB) do not tell mobilities apart.
    ///
    /// # Errors
    /// [`OutOfMemory`] as for [`allocate_frames`](Self::allocate_frames).
    pub fn allocate_as(
        &self,
        order: Order,
        mobility: Mobility,
    ) -> Result<FrameNumber, OutOfMemory> {
        if mobility == Mobility::default() {
            return self.allocate_frames(order);
        }
        let found = self.zone.take_hinted(order, mobility);
        let frame = match self.noted(found, order) {
            Some(frame) => frame,
            None => self.last_resort(order)?,
        };
        self.set_tag(frame, Tag::block(order));
        Ok(frame)
    }
}
