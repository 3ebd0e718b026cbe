//! The memory of the kernel: from the boot loader's map to zones, caches, and memory of any size.
//!
//! ```text
//! kmalloc   HEAP, the global allocator        any size
//! slab      its registry                      objects
//! source    Reclaiming, then Counted          pages; short of them, the registry gives back
//! buddy     a ZoneList of up to three         frames: DMA below 16 MiB, DMA32 below 4 GiB, Normal
//! map       MemoryMap                         the boot loader's, less our image and low memory
//! ```
//!
//! Each zone has watermarks. When one falls below `low` its hook sets a flag; the next timer
//! interrupt sees it and lets the caches give back what they can, until the zone is above `high`
//! again. No caller is involved.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use buddy::{
    Buddy, Marks, Mode, NodeZone, Pressure, Request, Trace, Watermarks, ZeroedMemory, ZoneKind,
    ZoneList, ZoneSource,
};
use kmalloc::{Global, Kmalloc};
use page_frame::sync::{AtomicPtr, AtomicUsize, Ordering};
use page_frame::{
    Counted, DirectMap, FrameNumber, FrameRange, MemoryMap, Order, PAGE_SHIFT, PAGE_SIZE, PhysMap,
    Reclaiming, RegionKind, Shrink, ShrinkList,
};
use slab::{Hardened, Registry};

use crate::boot_info::StartInfo;
use crate::console::print;
use crate::cpus::{KernelCpu, MAX_CPUS};

/// Where all physical memory is mapped a second time.
const DIRECT_MAP: usize = 0xffff_8000_0000_0000;
/// Bytes of physical memory that the boot code maps.
const MAPPED_BYTES: u64 = 64 << 30;
/// Low memory that is left alone: firmware's data, and where other CPUs start.
const LOW_BYTES: u64 = 0x1_0000;
/// The most ranges of usable memory.
const MAX_RANGES: usize = 64;
/// Pages requested from the caches by a timer interrupt while memory is short.
const SHRINK_PAGES: usize = 32;

/// Each zone's name, kind, and where it ends.
const ZONES: [(&str, ZoneKind, usize); 3] = [
    ("DMA", ZoneKind::Dma, 16 << 20),
    ("DMA32", ZoneKind::Dma32, 4 << 30),
    ("Normal", ZoneKind::Normal, MAPPED_BYTES as usize),
];

/// The page allocator of a zone.
pub(crate) type Frames = Buddy<'static, DirectMap, KernelCpu, Watermarks>;
type NodeZoneOfOurs = NodeZone<'static, Frames>;
type Zones = ZoneList<'static, Frames>;
/// Pages of any zone.
pub(crate) type Pages = ZoneSource<'static, 'static, Frames>;
/// The shrinkers that give pages back when memory is short.
type Shrinkers = ShrinkList<2>;
/// The page source of the caches.
pub(crate) type Source = Reclaiming<&'static Counted<Pages>, &'static Shrinkers>;

/// A place for something that is made once, while the first CPU is alone.
struct Fixed<T>(UnsafeCell<MaybeUninit<T>>);

// SAFETY: written once, by one CPU while it is alone, and only shared from then on.
unsafe impl<T: Sync> Sync for Fixed<T> {}

impl<T> Fixed<T> {
    const fn new() -> Self {
        Self(UnsafeCell::new(MaybeUninit::uninit()))
    }

    /// # Safety
    /// 1. Called once, while the first CPU is alone.
    unsafe fn set(&'static self, value: T) -> &'static T {
        // SAFETY: clause 1: there is no other reference.
        unsafe { &mut *self.0.get() }.write(value)
    }
}

static FRAMES: [Fixed<Frames>; ZONES.len()] = [const { Fixed::new() }; ZONES.len()];
static NODE_ZONES: Fixed<[MaybeUninit<NodeZoneOfOurs>; ZONES.len()]> = Fixed::new();
static ZONE_LIST: Fixed<Zones> = Fixed::new();
static COUNTED: Fixed<Counted<Pages>> = Fixed::new();

/// The zones that `start` has made.
static LIST: AtomicPtr<Zones> = AtomicPtr::new(core::ptr::null_mut());
static PAGES: AtomicPtr<Counted<Pages>> = AtomicPtr::new(core::ptr::null_mut());
/// Asked by `Source` when the zones have run out.
static SHRINKERS: Shrinkers = ShrinkList::new();
/// How often a zone fell below `low`, and how often one came above `high` again.
static SHORTAGES: AtomicUsize = AtomicUsize::new(0);
static RELIEFS: AtomicUsize = AtomicUsize::new(0);

/// Memory of any size, for the kernel and for `alloc`.
#[global_allocator]
pub(crate) static HEAP: Global<(Source, KernelCpu)> = Global::new(|| {
    let source = Reclaiming::new(pages(), &SHRINKERS);
    Ok(Kmalloc::new(Registry::new(source, KernelCpu)?))
});

unsafe extern "C" {
    static kernel_start: u8;
    static kernel_end: u8;
}

fn made<T>(place: &AtomicPtr<T>) -> &'static T {
    // Acquire: pairs with the Release in `start`.
    let made = NonNull::new(place.load(Ordering::Acquire)).expect("`start` was called");
    // SAFETY: `start` made it, for good.
    unsafe { made.as_ref() }
}

/// Returns pages for everybody, counted.
pub(crate) fn pages() -> &'static Counted<Pages> {
    made(&PAGES)
}

/// Returns a page source for callers that must not wait: it may use the reserve below the
/// watermarks.
pub(crate) fn reserve() -> Pages {
    made(&LIST).source(Request { may_use_reserve: true, ..Request::default() })
}

/// Returns the page allocators of all zones, the lowest first.
pub(crate) fn zones() -> impl DoubleEndedIterator<Item = &'static Frames> {
    made(&LIST).zones().iter().map(|zone| zone.buddy)
}

/// Returns how short memory is.
pub(crate) fn pressure() -> Pressure {
    made(&LIST).pressure()
}

/// Returns how often a zone fell below `low`, and how often one came above `high` again.
pub(crate) fn shortages_and_reliefs() -> (usize, usize) {
    (SHORTAGES.load(Ordering::Relaxed), RELIEFS.load(Ordering::Relaxed))
}

/// Returns the allocator of memory of any size.
pub(crate) fn kmalloc() -> &'static Kmalloc<(Source, KernelCpu)> {
    HEAP.kmalloc().expect("there is room for its first page")
}

/// Makes another allocator that looks for the mistakes of its users, with caches of its own.
///
/// # Panics
/// When there is no page for its registry.
pub(crate) fn hardened_kmalloc() -> Kmalloc<(Source, KernelCpu), Hardened> {
    let source = Reclaiming::new(pages(), &SHRINKERS);
    let registry = Registry::new(source, KernelCpu).expect("there is room for its first page");
    Kmalloc::with_hardening(registry)
}

/// Lets the caches give back what they can, if memory is short. Called by timers.
pub(crate) fn relieve() {
    let is_short = zones().any(|zone| zone.trace().pressure() != Pressure::None);
    if let Some(heap) = HEAP.get().filter(|_| is_short) {
        heap.registry().shrink(SHRINK_PAGES);
    }
}

/// Called by a zone's watermarks, from within an allocation or a free.
fn note_pressure(pressure: Pressure) {
    // Relaxed: numbers to look at; the timers see the pressure itself.
    match pressure {
        Pressure::Low => _ = SHORTAGES.fetch_add(1, Ordering::Relaxed),
        Pressure::None => _ = RELIEFS.fetch_add(1, Ordering::Relaxed),
        Pressure::Min => {}
    }
}

/// Makes the zones of the memory that the boot loader reports, and registers the caches as their
/// shrinkers.
///
/// # Panics
/// When the memory map has no room for the metadata.
///
/// # Safety
/// 1. Called once, by the first CPU, before anything is allocated.
pub(crate) unsafe fn start(info: &StartInfo) {
    let mut map: MemoryMap<MAX_RANGES> = info.memory_map().expect("a sane map");
    let image_start = (&raw const kernel_start).addr() as u64;
    let image_bytes = (&raw const kernel_end).addr() as u64 - image_start;
    map.add(image_start, image_bytes, RegionKind::Reserved).expect("room for the image");
    map.add(0, LOW_BYTES, RegionKind::Reserved).expect("room for low memory");
    map.clip(0, MAPPED_BYTES);

    // SAFETY: the boot code has mapped physical memory there, for good.
    let direct = unsafe { DirectMap::at_offset(DIRECT_MAP) };
    // The metadata's size depends on the frames, and carving it takes frames away: plan for all,
    // use what is left.
    let mut metadata = [None; ZONES.len()];
    let mut ranges = [FrameRange::default(); MAX_RANGES];
    for (zone, place) in metadata.iter_mut().enumerate() {
        let all = ranges_of(&map, zone, &mut ranges);
        if let Ok(layout) = Buddy::<DirectMap, KernelCpu>::metadata_layout(all, MAX_CPUS) {
            *place = Some(layout.size().div_ceil(PAGE_SIZE));
        }
    }
    let carved = metadata.map(|pages| {
        let pages = pages?;
        Some((map.carve(pages, Order::ZERO).expect("room for the metadata"), pages))
    });
    let mut made: [Option<&'static Frames>; ZONES.len()] = [None; ZONES.len()];
    for (zone, (name, _, _)) in ZONES.iter().enumerate() {
        let Some((carved, pages)) = carved[zone] else { continue };
        let metadata = direct.pointer(carved.start);
        // SAFETY: the pages were carved for the metadata, and they are mapped.
        unsafe { metadata.write_bytes(0, pages * PAGE_SIZE) };
        let ranges = ranges_of(&map, zone, &mut ranges);
        // SAFETY: zeroed above, page-aligned, and carved for the metadata.
        let metadata = unsafe { ZeroedMemory::from_zeroed(metadata, pages * PAGE_SIZE) };
        // SAFETY: the ranges are disjoint from the metadata and from the image, and the direct map
        // covers them.
        let buddy = unsafe { Buddy::new_in(metadata, ranges, direct, KernelCpu, Mode::Cached) };
        let buddy = buddy.expect("firmware's ranges ascend");
        let marks = Marks::for_frames(buddy.frames());
        let watermarks = Watermarks::new(buddy.frames(), marks, note_pressure as fn(Pressure));
        print!(
            "zone {name:<6}: {:>7} pages in {} ranges; min {}, low {}, high {}; {pages} pages of metadata at {}",
            buddy.frames(),
            ranges.len(),
            marks.min,
            marks.low,
            marks.high,
            carved.start,
        );
        // SAFETY: clause 1: no other call has set this zone.
        made[zone] = Some(unsafe { FRAMES[zone].set(buddy.with_trace(watermarks)) });
    }
    print!("memory: {} MiB usable, {} KiB lost", map.usable_bytes() >> 20, map.lost_bytes() >> 10);

    let mut table = [const { MaybeUninit::uninit() }; ZONES.len()];
    let mut count = 0;
    for ((_, kind, _), buddy) in ZONES.iter().zip(made) {
        if let Some(buddy) = buddy {
            table[count].write(NodeZone { node: 0, kind: *kind, buddy });
            count += 1;
        }
    }
    // SAFETY: clause 1: set for the first time.
    let table = unsafe { NODE_ZONES.set(table) };
    let first = table.as_ptr().cast();
    // SAFETY: `count` elements were written, and they stay.
    let table = unsafe { core::slice::from_raw_parts(first, count) };
    // SAFETY: clause 1: no other code has a reference to the list yet.
    let list = unsafe { ZONE_LIST.set(ZoneList::new(table).expect("the kinds ascend")) };
    LIST.store(core::ptr::from_ref(list).cast_mut(), Ordering::Release);
    // SAFETY: clause 1: the sources of caches are made after it.
    let counted = unsafe { COUNTED.set(Counted::new(list.source(Request::default()))) };
    PAGES.store(core::ptr::from_ref(counted).cast_mut(), Ordering::Release);
    // SAFETY: a static lives for ever.
    let registered = unsafe { SHRINKERS.register(NonNull::from(&HeapShrinker)) };
    registered.expect("the list has two places");
    kmalloc();
}

/// Returns the usable ranges of `map` in zone number `zone`.
fn ranges_of<'r>(
    map: &MemoryMap<MAX_RANGES>,
    zone: usize,
    ranges: &'r mut [FrameRange; MAX_RANGES],
) -> &'r [FrameRange] {
    let border = |zone: usize| FrameNumber::new(ZONES[zone].2 >> PAGE_SHIFT);
    let start = if zone == 0 { FrameNumber::new(0) } else { border(zone - 1) };
    let whole = FrameRange::new(start, border(zone));
    let inside = map.runs().map(|run| run.intersection(whole)).filter(|run| !run.is_empty());
    let mut count = 0;
    for (place, range) in ranges.iter_mut().zip(inside) {
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
