//! A `LockedHeap` for users of `linked_list_allocator`. Only the `use` line and the call of `init`
//! change:
//!
//! ```text
//! use linked_list_allocator::LockedHeap;          ->  use locked_heap::LockedHeap;
//! static HEAP: LockedHeap = LockedHeap::empty();      the same
//! unsafe { HEAP.lock().init(start, size) };       ->  unsafe { HEAP.init(start, size) };
//! ```
//!
//! Inside are an arena for each region, caches on the arenas, and size classes. One lock around
//! them makes the heap fit a single `static`. A kernel with several CPUs needs no such lock and
//! uses `kmalloc::Global`.

use std::alloc::{GlobalAlloc, Layout};
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use kmalloc::Kmalloc;
use page_frame::sync::Lock;
use page_frame::{
    Arena, Order, OutOfMemory, PAGE_SHIFT, PageBlock, PageMap, PageResize, PageSource, SingleCpu,
    Tag,
};
use slab::Registry;

/// The most regions of a heap.
const MAX_REGIONS: usize = 8;

/// A heap that is a constant, gets its memory later, and can get more.
struct LockedHeap(Lock<Option<Inside>>);

/// The stack over the regions.
struct Inside {
    kmalloc: Kmalloc<(Regions, SingleCpu)>,
}

// SAFETY: the value is only reached under the lock, so by one thread at a time, and nothing in it
// belongs to a thread.
unsafe impl Send for Inside {}

impl LockedHeap {
    const fn empty() -> Self {
        Self(Lock::new(None))
    }

    /// Gives the heap its first memory.
    ///
    /// # Safety
    /// 1. The `bytes` bytes at `start` are valid, and the heap owns them from now on. Called once.
    unsafe fn init(&self, start: *mut u8, bytes: usize) {
        let regions = Regions(Lock::new([const { None }; MAX_REGIONS]));
        // SAFETY: clause 1: the memory is the heap's from now on.
        unsafe { regions.add(start, bytes) };
        let registry = Registry::new(regions, SingleCpu::new()).expect("room for a page");
        *self.0.lock() = Some(Inside { kmalloc: Kmalloc::new(registry) });
    }

    /// Gives the heap more memory.
    ///
    /// # Safety
    /// 1. As for `init`, which was called.
    unsafe fn add_region(&self, start: *mut u8, bytes: usize) {
        let heap = self.0.lock();
        let heap = heap.as_ref().expect("clause 1: `init` was called");
        // SAFETY: clause 1: more memory of the same kind.
        unsafe { heap.kmalloc.registry().source().add(start, bytes) };
    }

    /// Gives the pages of free objects back to the regions.
    fn shrink(&self) {
        if let Some(heap) = self.0.lock().as_ref() {
            heap.kmalloc.shrink_all();
        }
    }

    /// Returns the bytes of pages that are in use.
    fn used(&self) -> usize {
        self.0.lock().as_ref().map_or(0, |heap| heap.kmalloc.pages_held() << PAGE_SHIFT)
    }

    /// Returns the bytes of pages that are free.
    fn free(&self) -> usize {
        let heap = self.0.lock();
        let regions = heap.as_ref().map(|heap| heap.kmalloc.registry().source());
        regions.map_or(0, |regions| regions.free_pages() << PAGE_SHIFT)
    }
}

// SAFETY: the inner allocator returns memory that is valid, aligned, and has no other user until it
// is freed.
unsafe impl GlobalAlloc for LockedHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let heap = self.0.lock();
        let got = heap.as_ref().and_then(|heap| heap.kmalloc.allocate(layout).ok());
        got.map_or(std::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        let heap = self.0.lock();
        if let (Some(heap), Some(start)) = (heap.as_ref(), NonNull::new(start)) {
            // SAFETY: `GlobalAlloc`: from `alloc` with this layout, not used any more.
            unsafe { heap.kmalloc.free_sized(start, layout) };
        }
    }
}

/// Several arenas as one page source.
struct Regions(Lock<[Option<&'static Arena<'static>>; MAX_REGIONS]>);

impl Regions {
    /// # Safety
    /// 1. The memory is valid, and the heap owns it from now on.
    unsafe fn add(&self, start: *mut u8, bytes: usize) {
        let start = NonNull::new(start).expect("memory does not lie at address zero");
        // The arena's own value lies at the front of its memory.
        let place = start.align_offset(align_of::<Arena<'_>>());
        // SAFETY: clause 1: inside the memory, unless that is too small for anything.
        let place = unsafe { start.add(place) }.cast::<Arena<'static>>();
        let used = place.addr().get() - start.addr().get() + size_of::<Arena<'_>>();
        assert!(used < bytes, "a region has more than {used} bytes");
        // SAFETY: clause 1: behind the arena's value.
        let rest = unsafe { start.add(used) };
        // SAFETY: clause 1: what the arena's own place has left of it.
        let arena = unsafe { Arena::from_raw(rest, bytes - used) }.expect("room for a page");
        // SAFETY: clause 1: aligned, inside the memory.
        unsafe { place.write(arena) };
        // SAFETY: just written, and it stays as long as the memory.
        let arena = unsafe { place.as_ref() };
        let mut regions = self.0.lock();
        let free = regions.iter_mut().find(|region| region.is_none());
        *free.expect("at most eight regions") = Some(arena);
    }

    fn free_pages(&self) -> usize {
        self.all().map(Arena::free_pages).sum()
    }

    fn all(&self) -> impl Iterator<Item = &'static Arena<'static>> {
        let regions = *self.0.lock();
        regions.into_iter().flatten()
    }

    /// Returns the arena that knows `address`.
    fn at(&self, address: usize) -> Option<&'static Arena<'static>> {
        self.all().find(|arena| arena.tag(address) != Tag::NONE)
    }
}

// SAFETY: clause 1: blocks of the arenas. Clause 2: as the arenas'.
unsafe impl PageSource for Regions {
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        self.all().find_map(|arena| arena.allocate(order).ok()).ok_or(OutOfMemory)
    }

    unsafe fn free(&self, block: PageBlock) {
        let arena = self.at(block.start().addr().get()).expect("the block came from an arena");
        // SAFETY: the block is the arena's that covers its first page.
        unsafe { arena.free(block) };
    }
}

// SAFETY: clauses 1 and 2: each address is asked of the arena that has set something for it.
unsafe impl PageMap for Regions {
    fn tag(&self, address: usize) -> Tag {
        self.at(address).map_or(Tag::NONE, |arena| arena.tag(address))
    }

    fn owner(&self, address: usize) -> *mut () {
        self.at(address).map_or(std::ptr::null_mut(), |arena| arena.owner(address))
    }

    unsafe fn set_owner(&self, start: NonNull<u8>, pages: usize, tag: Tag, owner: NonNull<()>) {
        let arena = self.at(start.addr().get()).expect("the head of a block has a tag");
        // SAFETY: the caller's clause.
        unsafe { arena.set_owner(start, pages, tag, owner) };
    }

    unsafe fn clear_owner(&self, start: NonNull<u8>, order: Order) {
        let arena = self.at(start.addr().get()).expect("the pages of a slab have a tag");
        // SAFETY: the caller's clause.
        unsafe { arena.clear_owner(start, order) };
    }

    unsafe fn set_run(&self, start: NonNull<u8>, pages: usize) {
        let arena = self.at(start.addr().get()).expect("the head of a block has a tag");
        // SAFETY: the caller's clause.
        unsafe { arena.set_run(start, pages) };
    }

    unsafe fn clear_run(&self, start: NonNull<u8>, order: Order) {
        let arena = self.at(start.addr().get()).expect("the head of a run has a tag");
        // SAFETY: the caller's clause.
        unsafe { arena.clear_run(start, order) };
    }

    fn pointer(&self, address: usize) -> NonNull<u8> {
        let arena = self.at(address).expect("only addresses of allocations are asked for");
        arena.pointer(address)
    }
}
// SAFETY: the provided methods, which make a run of a whole block.
unsafe impl PageResize for Regions {}

/// In a kernel this is the `#[global_allocator]`. A hosted program allocates before `main`, when
/// nobody can have called `init`; so here it is asked directly.
static HEAP: LockedHeap = LockedHeap::empty();

fn main() {
    // The machine's memory: in a kernel, what the boot loader found.
    let mut regions =
        [vec![MaybeUninit::<u8>::uninit(); 1 << 20], vec![MaybeUninit::uninit(); 4 << 20]];
    let [first, second] = &mut regions;
    // SAFETY: the vector is not used otherwise before the end of the program.
    unsafe { HEAP.init(first.as_mut_ptr().cast(), first.len()) };
    println!("{} KiB used, {} KiB free", HEAP.used() >> 10, HEAP.free() >> 10);

    let layout =
        |number: usize| Layout::from_size_align(1 + number * 7 % 900, 8).expect("a layout");
    let mut objects = Vec::new();
    for number in 0.. {
        // SAFETY: the layout is not empty.
        let object = unsafe { HEAP.alloc(layout(number)) };
        if object.is_null() {
            break;
        }
        objects.push(object);
    }
    let in_first = objects.len();
    println!("{in_first} objects fit in the first region: {} KiB used", HEAP.used() >> 10);
    // SAFETY: the second array is borrowed for good, as the first.
    unsafe { HEAP.add_region(second.as_mut_ptr().cast(), second.len()) };
    for number in in_first..3 * in_first {
        // SAFETY: the layout is not empty.
        let object = unsafe { HEAP.alloc(layout(number)) };
        assert!(!object.is_null(), "the second region is larger");
        objects.push(object);
    }
    println!("{} objects fit in both: {} KiB used", objects.len(), HEAP.used() >> 10);
    for (number, object) in objects.into_iter().enumerate() {
        // SAFETY: allocated above with this layout.
        unsafe { HEAP.dealloc(object, layout(number)) };
    }
    HEAP.shrink();
    println!("all freed: {} KiB used, {} KiB free", HEAP.used() >> 10, HEAP.free() >> 10);
    assert!(HEAP.used() < 128 << 10, "the caches themselves stay");
}
