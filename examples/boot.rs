//! From a firmware's memory map to a page allocator, as a kernel does it when it starts.
//!
//! The map is that of a small virtual machine with 64 MiB. The example takes the kernel's image and
//! the allocator's metadata out of it, prints which bytes are lost and why, and allocates a block.

use std::error::Error;

use buddy::{Buddy, Mode, ZeroedMemory};
use hosted::Mapped;
use page_frame::{
    DirectMap, FrameNumber, FrameRange, MemoryMap, Order, PAGE_SIZE, PageSource, RegionKind,
    SingleCpu,
};

fn main() -> Result<(), Box<dyn Error>> {
    // The memory map of the firmware: unsorted and unaligned.
    let mut map = MemoryMap::<16>::new();
    map.add(0x10_0000, 0x3f0_0000 - 0x2_0000, RegionKind::Usable)?;
    map.add(0x0, 0x9_fc00, RegionKind::Usable)?;
    map.add(0x9_fc00, 0x400, RegionKind::Reserved)?;
    map.add(0x3fe_0000, 0x2_0000, RegionKind::Reclaimable)?;
    // Not for the allocator: the first page, whose address is null, and the kernel's image.
    map.add(0x0, PAGE_SIZE as u64, RegionKind::Reserved)?;
    map.add(0x10_0000, 0x1f_e123, RegionKind::Reserved)?;

    // The size of the metadata depends on the frames. Computed for all frames, it is large enough
    // for those that are left when the metadata has its own.
    let cpu = SingleCpu::new();
    let all: Vec<FrameRange> = map.runs().collect();
    let layout = Buddy::<DirectMap, SingleCpu>::metadata_layout(&all, 1)?;
    let carved = map.carve(layout.size().div_ceil(PAGE_SIZE), Order::ZERO)?;
    let ranges: Vec<FrameRange> = map.runs().collect();
    println!("metadata: {} pages at {}", carved.frames(), carved.start);
    for range in &ranges {
        println!("usable:   {} pages at {}", range.frames(), range.start);
    }
    for loss in map.losses() {
        println!("lost:     {:#x} bytes at {:#x}: {:?}", loss.bytes(), loss.start, loss.reason);
    }

    // A kernel has physical memory. Here a mapping takes its place.
    let memory = Mapped::reserve(64 << 20)?;
    // SAFETY: the mapping covers frames 0 to 64 MiB and outlives the allocator.
    let direct = unsafe { DirectMap::from_root(memory.start(), FrameNumber::new(0)) };
    let metadata = page_frame::PhysMap::pointer(&direct, carved.start);
    // SAFETY: the carved pages are part of a fresh mapping, so they read as zero, and nothing else
    // uses them.
    let metadata = unsafe { ZeroedMemory::from_zeroed(metadata, carved.frames() * PAGE_SIZE) };
    // SAFETY: the ranges are disjoint from the carved pages, and nothing else uses the mapping.
    let buddy = unsafe { Buddy::new_in(metadata, &ranges, direct, cpu, Mode::Cached) }?;

    let initial = buddy.free_counts();
    println!("free blocks of order 0 to 18: {initial:?}");
    let fit = Order::for_bytes(20_000).ok_or("20,000 bytes are not too large")?;
    let block = buddy.allocate(fit.order)?;
    println!("20,000 bytes take {} pages, {} bytes of them wasted", block.pages(), fit.waste_bytes);
    // SAFETY: the block is ours, mapped, and not used below.
    unsafe { block.start().as_ptr().write_bytes(0x5a, block.bytes()) };
    // SAFETY: the block came from this allocator.
    unsafe { buddy.free(block) };
    buddy.drain(); // the frames that the CPU keeps for its next requests
    buddy.validate()?;
    assert_eq!(buddy.free_counts(), initial, "split blocks have merged again");
    println!("all {} frames free again", buddy.free_frames_count());
    Ok(())
}
