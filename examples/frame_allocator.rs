//! A buddy as the frame allocator of the `x86_64` crate: page tables, and mappings of 4 KiB, 2 MiB
//! and 1 GiB, from one allocator.
//!
//! The feature `x86_64` of `buddy` implements the traits for references to its allocators.
//! The memory here is simulated, as mapping it would take a kernel; what is shown is that
//! addresses, alignments and sizes fit.

use std::error::Error;

use buddy::{Mode, ZeroedMemory};
use hosted::Mapped;
use page_frame::{FrameNumber, FrameRange, SingleCpu};
use x86_64::structures::paging::{
    FrameAllocator, FrameDeallocator, PhysFrame, Size1GiB, Size2MiB, Size4KiB,
};

type Pages = buddy::FrameAllocator<'static, SingleCpu>;

fn main() -> Result<(), Box<dyn Error>> {
    // Four gigabytes of frames that are only numbers: a buddy never touches them.
    let ranges = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(4 << 18))];
    let metadata = Mapped::reserve(Pages::metadata_layout(&ranges, 1)?.size())?;
    // SAFETY: the mapping is fresh, so it reads as zero, is page-aligned and has no other user. It
    // lives as long as the allocator.
    let zeroed = unsafe { ZeroedMemory::from_zeroed(metadata.start(), metadata.bytes()) };
    let buddy = Pages::new_in(zeroed, &ranges, SingleCpu::new(), Mode::Cached)?;
    let before = buddy.free_counts();

    let mut frames = &buddy;
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
