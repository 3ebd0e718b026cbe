//! All four crates in a program without any library: own entry, own panic handler, linked with
//! `-nostdlib -static`.
//!
//! Four megabytes of its own are the machine. It makes a buddy of them, caches on it, memory of any
//! size on those, uses and returns everything, and exits with status 42. `check.sh` builds and runs
//! it, and sees its twin with `std` fail.
#![no_std]
#![no_main]

#[cfg(feature = "with-std")]
extern crate std;

use core::alloc::Layout;
use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::panic::PanicInfo;
use core::ptr::NonNull;

use buddy::{Buddy, Mode, ZeroedMemory};
use kmalloc::Kmalloc;
use page_frame::{
    Counted, DirectMap, FrameNumber, FrameRange, MemoryMap, Order, PAGE_SIZE, PhysMap, RegionKind,
    SingleCpu,
};
use slab::Registry;

global_asm!(include_str!("../../kernel/src/memory.s"), options(att_syntax));
global_asm!(".globl _start", "_start:", "and rsp, -16", "call run", "ud2");

const PAGES: usize = 1024;

/// The machine's memory.
#[repr(align(4096))]
struct Machine(UnsafeCell<[MaybeUninit<u8>; PAGES * PAGE_SIZE]>);

// SAFETY: there is one thread.
unsafe impl Sync for Machine {}

static MACHINE: Machine = Machine(UnsafeCell::new([MaybeUninit::uninit(); PAGES * PAGE_SIZE]));

#[unsafe(no_mangle)]
extern "C" fn run() -> ! {
    exit(if use_everything() == Some(()) { 42 } else { 1 })
}

/// Uses all four layers; `None` when something was not as it should be.
fn use_everything() -> Option<()> {
    let root = NonNull::new(MACHINE.0.get())?.cast::<u8>();
    let mut map = MemoryMap::<8>::new();
    map.add(0, (PAGES * PAGE_SIZE) as u64, RegionKind::Usable).ok()?;
    map.add(5 * PAGE_SIZE as u64, 100, RegionKind::Reserved).ok()?;

    // SAFETY: the program reaches the machine's memory only through this map.
    let direct = unsafe { DirectMap::from_root(root, FrameNumber::new(0)) };
    let all = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(PAGES))];
    let layout = Buddy::<DirectMap, SingleCpu>::metadata_layout(&all, 1).ok()?;
    let carved = map.carve(layout.size().div_ceil(PAGE_SIZE), Order::ZERO).ok()?;
    let metadata = direct.pointer(carved.start);
    // SAFETY: the pages were carved for the metadata, and nothing else uses them.
    unsafe { metadata.write_bytes(0, layout.size()) };
    let mut ranges = [FrameRange::default(); 4];
    let count = ranges.iter_mut().zip(map.runs()).map(|(place, run)| *place = run).count();
    let (ranges, cpu) = (&ranges[..count], SingleCpu::new());
    // SAFETY: zeroed above, page-aligned, and carved for the metadata.
    let metadata = unsafe { ZeroedMemory::from_zeroed(metadata, layout.size()) };
    // SAFETY: the ranges are disjoint from the metadata, and nothing else uses the machine's
    // memory.
    let buddy = unsafe { Buddy::new_in(metadata, ranges, direct, cpu, Mode::Cached) }.ok()?;
    let pages = Counted::new(buddy);

    let kmalloc = Kmalloc::new(Registry::new(&pages, SingleCpu::new()).ok()?);
    let inodes = kmalloc.registry().cache("inode", Layout::new::<[u64; 69]>()).build().ok()?;
    for _ in 0..50 {
        let inode = inodes.allocate().ok()?;
        let name = kmalloc.kmalloc(20).ok()?;
        let large = kmalloc.kzalloc(100_000).ok()?;
        // SAFETY: the inode allocated above.
        unsafe { inodes.free(inode) };
        // SAFETY: from this allocator.
        unsafe { kmalloc.kfree(Some(name)) };
        // SAFETY: from this allocator.
        unsafe { kmalloc.kfree(Some(large)) };
    }
    inodes.destroy().ok()?;
    kmalloc.validate().ok()?;
    drop(kmalloc);
    pages.source().drain();
    pages.source().validate().ok()?;
    (pages.held_pages() == 0).then_some(())
}

fn exit(status: i32) -> ! {
    // SAFETY: the system call `exit`, which does not return.
    unsafe { asm!("syscall", in("rax") 60, in("rdi") status, options(noreturn)) }
}

// A second one would be std's: whatever pulls std in, a dependency too, makes the build fail here.
#[panic_handler]
fn on_panic(_: &PanicInfo<'_>) -> ! {
    exit(2)
}
