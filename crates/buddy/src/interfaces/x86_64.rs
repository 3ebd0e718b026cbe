//! The traits of the crate `x86_64`, for code that maps pages: frames of 4 KiB, 2 MiB and 1 GiB.
//!
//! They take `&mut self`, so they are implemented for references to the allocators: any number of
//! mappers use one allocator at the same time. See `examples/frame_allocator.rs`.

use page_frame::{Cpu, Fault, FrameNumber, Order, OutOfMemory, PAGE_SHIFT, PhysMap};
use x86_64::PhysAddr;
use x86_64::structures::paging::{self, FrameDeallocator, PageSize, PhysFrame};

use crate::allocator::buddy::Buddy;
use crate::allocator::frame_allocator::FrameAllocator;
use crate::allocator::frame_pool::FramePool;
use crate::allocator::growing::GrowingBuddy;
use crate::trace::Trace;

/// Returns the order of a page of size `S`.
fn order<S: PageSize>() -> Option<Order> {
    Order::for_bytes(usize::try_from(S::SIZE).ok()?).map(|fit| fit.order)
}

/// Allocates a page of size `S` by `allocate`, which gets its order.
fn allocate_by<S: PageSize>(
    allocate: impl FnOnce(Order) -> Result<FrameNumber, OutOfMemory>,
) -> Option<PhysFrame<S>> {
    let frame = allocate(order::<S>()?).ok()?;
    // A block is aligned to its size.
    PhysFrame::from_start_address(PhysAddr::new((frame.get() << PAGE_SHIFT) as u64)).ok()
}

/// Frees `frame` by `free`, which gets its first frame and its order.
fn free_by<S: PageSize>(
    frame: PhysFrame<S>,
    free: impl FnOnce(FrameNumber, Order) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let order = order::<S>().expect("pages are at most 1 GiB");
    free(FrameNumber::new((frame.start_address().as_u64() >> PAGE_SHIFT) as usize), order)
}

fn allocate<S: PageSize, C: Cpu, T: Trace, const CHECKED: bool>(
    pool: &FramePool<'_, C, T, CHECKED>,
) -> Option<PhysFrame<S>> {
    allocate_by(|order| pool.allocate_frames(order))
}

/// Frees `frame`, and reports a fault to the hook.
#[track_caller]
fn free<S: PageSize, C: Cpu, T: Trace, const CHECKED: bool>(
    pool: &FramePool<'_, C, T, CHECKED>,
    frame: PhysFrame<S>,
) {
    if let Err(fault) = free_by(frame, |frame, order| pool.free_frames(frame, order)) {
        pool.frames.report(&fault);
    }
}

// SAFETY: the frames are unused: the allocator returns each of them once until it is freed.
unsafe impl<S: PageSize, C: Cpu, T: Trace, const CHECKED: bool> paging::FrameAllocator<S>
    for &FrameAllocator<'_, C, T, CHECKED>
{
    fn allocate_frame(&mut self) -> Option<PhysFrame<S>> {
        allocate(&self.pool)
    }
}

impl<S: PageSize, C: Cpu, T: Trace, const CHECKED: bool> FrameDeallocator<S>
    for &FrameAllocator<'_, C, T, CHECKED>
{
    #[track_caller]
    unsafe fn deallocate_frame(&mut self, frame: PhysFrame<S>) {
        free(&self.pool, frame);
    }
}

// SAFETY: as above.
unsafe impl<S: PageSize, M, C: Cpu, T: Trace, const CHECKED: bool> paging::FrameAllocator<S>
    for &Buddy<'_, M, C, T, CHECKED>
{
    fn allocate_frame(&mut self) -> Option<PhysFrame<S>> {
        allocate(&self.frames.pool)
    }
}

/// Buddy I1: the clause of `deallocate_frame` says that the caller owns the frame and that nothing
/// uses it.
impl<S: PageSize, M, C: Cpu, T: Trace, const CHECKED: bool> FrameDeallocator<S>
    for &Buddy<'_, M, C, T, CHECKED>
{
    #[track_caller]
    unsafe fn deallocate_frame(&mut self, frame: PhysFrame<S>) {
        free(&self.frames.pool, frame);
    }
}

// SAFETY: as above.
unsafe impl<S: PageSize, M: PhysMap + Clone, C: Cpu + Clone> paging::FrameAllocator<S>
    for &GrowingBuddy<M, C>
{
    fn allocate_frame(&mut self) -> Option<PhysFrame<S>> {
        allocate_by(|order| self.allocate_frames(order))
    }
}

impl<S: PageSize, M: PhysMap + Clone, C: Cpu + Clone> FrameDeallocator<S> for &GrowingBuddy<M, C> {
    /// # Panics
    /// When no such block is allocated: a growing buddy has no hook.
    #[track_caller]
    unsafe fn deallocate_frame(&mut self, frame: PhysFrame<S>) {
        let freed = free_by(frame, |frame, order| {
            // SAFETY: clause 1: the clause of `deallocate_frame` says that the caller owns the
            // frame and that nothing uses it.
            unsafe { self.free_frames(frame, order) }
        });
        if let Err(fault) = freed {
            page_frame::panic_on_fault(&fault);
        }
    }
}
