//! The memory of the kernel: from the boot loader's map to a page allocator, caches, and memory of any size.
//!
//! ```text
//! kmalloc   HEAP, the global allocator        any size
//! slab      its registry                      objects
//! source    Reclaiming, then Counted          pages; short of them, the registry gives back
//! buddy     PAGES                             frames
//! map       MemoryMap                         what the boot loader said, less the kernel's image and low memory
//! ```

use core::ptr::NonNull;

use buddy::{Buddy, Mode};
use kmalloc::{Global, Kmalloc};
use page_frame::sync::{AtomicPtr, Ordering};
use page_frame::{
    Counted, DirectMap, FrameRange, MemoryMap, Order, PAGE_SIZE, PhysMap, Reclaiming, RegionKind,
    Shrink, ShrinkList,
};
use slab::Registry;

use crate::boot_info::StartInfo;
use crate::console::print;
use crate::cpus::{KernelCpu, MOST_CPUS};

/// Where all physical memory is mapped a second time.
const DIRECT_MAP: usize = 0xffff_8000_0000_0000;
/// What the boot code maps.
const MAPPED_BYTES: u64 = 64 << 30;
/// Low memory that is left alone: firmware's data, and where other CPUs start.
const LOW_BYTES: u64 = 0x1_0000;

/// The page allocator.
pub(crate) type Frames = Buddy<'static, DirectMap, KernelCpu>;
/// Who may give pages back when they are short.
pub(crate) type Shrinkers = ShrinkList<2>;
/// What the caches take pages from.
pub(crate) type Source = Reclaiming<&'static Counted<Frames>, &'static Shrinkers>;

/// The page allocator, once `start` has made it.
static FRAMES: AtomicPtr<Counted<Frames>> = AtomicPtr::new(core::ptr::null_mut());
/// Asked by `Source` when the page allocator has run out.
static SHRINKERS: Shrinkers = ShrinkList::new();

/// Memory of any size, for the kernel and for `alloc`.
#[global_allocator]
pub(crate) static HEAP: Global<Source, KernelCpu> = Global::new(|| {
    let source = Reclaiming::new(pages(), &SHRINKERS);
    Ok(Kmalloc::new(Registry::new(source, KernelCpu)?))
});

unsafe extern "C" {
    static kernel_start: u8;
    static kernel_end: u8;
}

/// Returns the page allocator.
pub(crate) fn pages() -> &'static Counted<Frames> {
    // Acquire: pairs with the Release in `start`.
    let frames = NonNull::new(FRAMES.load(Ordering::Acquire)).expect("`start` was called");
    // SAFETY: `start` made it, for good.
    unsafe { frames.as_ref() }
}

/// Returns the allocator of memory of any size.
pub(crate) fn kmalloc() -> &'static Kmalloc<Source, KernelCpu> {
    HEAP.kmalloc().expect("there is room for its first page")
}

/// Makes the page allocator of the memory that the boot loader reports, and registers the caches as its shrinkers.
///
/// # Panics
/// When the memory map has no room for the metadata.
///
/// # Safety
/// 1. Called once, by the first CPU, before anything is allocated.
pub(crate) unsafe fn start(info: &StartInfo) {
    let mut map: MemoryMap<64> = info.memory_map().expect("the boot loader's map is sane");
    let image_start = (&raw const kernel_start).addr() as u64;
    let image_bytes = (&raw const kernel_end).addr() as u64 - image_start;
    map.add(image_start, image_bytes, RegionKind::Reserved).expect("room for the image");
    map.add(0, LOW_BYTES, RegionKind::Reserved).expect("room for low memory");
    map.clip(0, MAPPED_BYTES);

    // SAFETY: the boot code has mapped physical memory there, for good.
    let direct = unsafe { DirectMap::at_offset(DIRECT_MAP) };
    // The metadata's size depends on the frames, and carving it takes frames away: plan for all, use what is left.
    let mut ranges = [FrameRange::default(); 64];
    let all = collect(&map, &mut ranges);
    let layout = Frames::metadata_layout(all, MOST_CPUS).expect("firmware's ranges ascend");
    let pages = layout.size().div_ceil(PAGE_SIZE);
    let carved = map.carve(pages, Order::ZERO).expect("room for the metadata");
    let metadata = direct.pointer(carved.start);
    // SAFETY: carved for us alone, and mapped.
    unsafe { metadata.write_bytes(0, pages * PAGE_SIZE) };
    let ranges = collect(&map, &mut ranges);
    // SAFETY: the metadata is ours, zero, and large enough; the ranges are disjoint from it and from the image.
    let buddy = unsafe { Frames::new_in(metadata, ranges, direct, KernelCpu, Mode::Cached) };
    let buddy = Counted::new(buddy.expect("firmware's ranges ascend"));
    print!(
        "memory: {} MiB usable in {} ranges, {} KiB lost; {} KiB of metadata at {}",
        map.usable_bytes() >> 20,
        ranges.len(),
        map.lost_bytes() >> 10,
        pages << 2,
        carved.start,
    );
    let place = PLACE.get();
    // SAFETY: clause 1: nobody else uses the place.
    let place = unsafe { &mut *place };
    FRAMES.store(place.write(buddy), Ordering::Release);
    // SAFETY: a static lives for ever.
    let registered = unsafe { SHRINKERS.register(NonNull::from(&HeapShrinker)) };
    registered.expect("the list has two places");
    kmalloc();
}

/// Where the page allocator lies.
static PLACE: Place = Place(core::cell::UnsafeCell::new(core::mem::MaybeUninit::uninit()));
struct Place(core::cell::UnsafeCell<core::mem::MaybeUninit<Counted<Frames>>>);

impl Place {
    fn get(&self) -> *mut core::mem::MaybeUninit<Counted<Frames>> {
        self.0.get()
    }
}

// SAFETY: written once, by the first CPU while it is alone, and shared only by way of `FRAMES`.
unsafe impl Sync for Place {}

fn collect<'r>(map: &MemoryMap<64>, ranges: &'r mut [FrameRange; 64]) -> &'r [FrameRange] {
    let mut count = 0;
    for (place, range) in ranges.iter_mut().zip(map.runs()) {
        *place = range;
        count += 1;
    }
    &ranges[..count]
}

/// All caches of the kernel, as a shrinker.
struct HeapShrinker;

impl Shrink for HeapShrinker {
    fn reclaimable(&self) -> usize {
        HEAP.get().map_or(0, Shrink::reclaimable)
    }

    fn shrink(&self, target_pages: usize) -> usize {
        HEAP.get().map_or(0, |kmalloc| kmalloc.shrink(target_pages))
    }
}
