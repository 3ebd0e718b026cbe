//! The small arena as a [`ByteSource`]: memory of any size.

use core::alloc::Layout;
use core::ops::Range;
use core::ptr::NonNull;

use crate::error::OutOfMemory;
use crate::fault::FaultKind;
use crate::page_map::map::PageMap;
use crate::page_map::tag::Tag;
use crate::source::arena::Arena;
use crate::source::arena_bits::SmallMemory;
use crate::source::byte_source::ByteSource;
use crate::source::granules::GRANULE;

/// Returns how many granules `bytes` bytes take. A request for zero bytes takes one.
const fn granules_for(bytes: usize) -> usize {
    let granules = bytes.div_ceil(GRANULE);
    if granules == 0 { 1 } else { granules }
}

impl Arena<'_> {
    /// Returns the granule that begins at `address`.
    ///
    /// # Errors
    /// The fault that a free of `address` would be, if no allocation of bytes can start there.
    #[inline(always)]
    fn granule(&self, memory: &SmallMemory, address: usize) -> Result<usize, FaultKind> {
        let offset = address.wrapping_sub(self.first_granule.addr().get());
        let granule = offset / GRANULE;
        if granule >= memory.granules.count() {
            return Err(FaultKind::ForeignPointer);
        }
        // Blocks, runs and slabs have granules too, but the page map says what they are.
        match self.tag(address) {
            Tag::NONE => {}
            Tag::RUN => return Err(FaultKind::InteriorPointer),
            tag if tag.is_slab() => return Err(FaultKind::WrongCache),
            _ => return Err(FaultKind::ForeignPointer),
        }
        if offset % GRANULE == 0 {
            return Ok(granule);
        }
        let is_used = memory.granules.is_used(granule);
        Err(if is_used { FaultKind::InteriorPointer } else { FaultKind::ForeignPointer })
    }

    /// Returns the granules of the allocation of bytes at `address`.
    ///
    /// # Errors
    /// The fault that a free of `address` would be, if no allocation of bytes starts there.
    fn allocation(&self, memory: &SmallMemory, address: usize) -> Result<Range<usize>, FaultKind> {
        let granule = self.granule(memory, address)?;
        memory.granules.end_of(granule).map(|end| granule..end)
    }
}

// SAFETY: clause 1: the granules lie inside the memory of `Arena::from_raw`, and were free before
// they were taken. Clause 2: the size is that of the granules.
unsafe impl ByteSource for Arena<'_> {
    fn is_small(&self) -> bool {
        true
    }

    fn allocate_bytes(&self, layout: Layout) -> Result<NonNull<u8>, OutOfMemory> {
        let count = granules_for(layout.size());
        let alignment = layout.align().div_ceil(GRANULE);
        let offset = (self.first_granule.addr().get() / GRANULE) & (alignment - 1);
        let mut bits = self.bits.lock();
        let memory = bits.small_mut().ok_or(OutOfMemory)?;
        let granule = memory.granules.allocate(count, alignment, offset).ok_or(OutOfMemory)?;
        // SAFETY: `allocate` returns granules of the memory.
        Ok(unsafe { self.first_granule.add(granule * GRANULE) })
    }

    unsafe fn free_at(&self, start: NonNull<u8>) -> Result<(), FaultKind> {
        let mut bits = self.bits.lock();
        let memory = bits.small_mut().ok_or(FaultKind::ForeignPointer)?;
        let granule = self.granule(memory, start.addr().get())?;
        memory.granules.free_at(granule)
    }

    fn bytes_at(&self, address: usize) -> Result<usize, FaultKind> {
        let bits = self.bits.lock();
        let memory = bits.small().ok_or(FaultKind::ForeignPointer)?;
        self.allocation(memory, address).map(|granules| granules.len() * GRANULE)
    }

    unsafe fn resize_at(&self, start: NonNull<u8>, bytes: usize) -> bool {
        let mut bits = self.bits.lock();
        let Some(memory) = bits.small_mut() else { return false };
        let Ok(granules) = self.allocation(memory, start.addr().get()) else { return false };
        let new_end = granules.start.saturating_add(granules_for(bytes));
        memory.granules.resize(granules, new_end)
    }

    fn byte_pages(&self) -> usize {
        self.bits.lock().small().map_or(0, SmallMemory::byte_pages)
    }
}
