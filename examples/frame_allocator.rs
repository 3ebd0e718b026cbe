//! A buddy as the frame allocator of the `x86_64` crate: page tables, and mappings of 4 KiB, 2 MiB
//! and 1 GiB, from one allocator.
//!
//! The adapter is the type [`Frames`]: a handle to a buddy, `Copy`, for each of the three sizes.
//! The memory here is simulated, as mapping it would take a kernel; what is shown is that
//! addresses, alignments and sizes fit.

use std::error::Error;

use buddy::{Mode, ZeroedMemory};
use hosted::Mapped;
use page_frame::{FrameNumber, FrameRange, Order, PAGE_SHIFT, SingleCpu};
use x86_64::PhysAddr;
use x86_64::structures::paging::{
    FrameAllocator, FrameDeallocator, PageSize, PhysFrame, Size1GiB, Size2MiB, Size4KiB,
};

type Pages = buddy::FrameAllocator<'static, SingleCpu>;

/// A handle to a buddy, as the `x86_64` crate wants it.
#[derive(Clone, Copy)]
struct Frames<'b>(&'b Pages);

fn order<S: PageSize>() -> Option<Order> {
    Order::for_bytes(S::SIZE as usize).map(|fit| fit.order)
}

// SAFETY: frames of a buddy are unused, and aligned to their size.
unsafe impl<S: PageSize> FrameAllocator<S> for Frames<'_> {
    fn allocate_frame(&mut self) -> Option<PhysFrame<S>> {
        let frame = self.0.allocate_frames(order::<S>()?).ok()?;
        let address = PhysAddr::new((frame.get() << PAGE_SHIFT) as u64);
        Some(PhysFrame::from_start_address(address).expect("blocks are aligned to their size"))
    }
}

impl<S: PageSize> FrameDeallocator<S> for Frames<'_> {
    unsafe fn deallocate_frame(&mut self, frame: PhysFrame<S>) {
        let number = FrameNumber::containing(frame.start_address().as_u64() as usize);
        let order = order::<S>().expect("it was allocated with this size");
        self.0.free_frames(number, order).expect("the caller's: allocated here, and not yet freed");
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    // Four gigabytes of frames that are only numbers: a buddy never touches them.
    let ranges = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(4 << 18))];
    let metadata = Mapped::reserve(Pages::metadata_layout(&ranges, 1)?.size())?;
    // SAFETY: the mapping is fresh, so it reads as zero, is page-aligned and has no other user. It
    // lives as long as the allocator.
    let zeroed = unsafe { ZeroedMemory::from_zeroed(metadata.start(), metadata.bytes()) };
    let buddy = Pages::new_in(zeroed, &ranges, SingleCpu::new(), Mode::Cached)?;
    let before = buddy.free_counts();

    let mut frames = Frames(&buddy);
    let table: PhysFrame<Size4KiB> = frames.allocate_frame().ok_or("no frame of 4 KiB")?;
    let large: PhysFrame<Size2MiB> = frames.allocate_frame().ok_or("no frame of 2 MiB")?;
    let huge: PhysFrame<Size1GiB> = frames.allocate_frame().ok_or("no frame of 1 GiB")?;
    println!("a page table at {:#x}", table.start_address());
    println!("2 MiB at {:#x}, 1 GiB at {:#x}", large.start_address(), huge.start_address());

    // SAFETY: nothing is mapped there.
    unsafe { frames.deallocate_frame(table) };
    // SAFETY: the 2 MiB frame, from these frames, and never mapped.
    unsafe { frames.deallocate_frame(large) };
    // SAFETY: the 1 GiB frame, from these frames, and never mapped.
    unsafe { frames.deallocate_frame(huge) };
    buddy.drain();
    assert_eq!(buddy.free_counts(), before);
    println!("all given back, merged again");
    Ok(())
}
