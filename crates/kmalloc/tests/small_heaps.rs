//! Small heaps: how much of the memory serves requests, and histories in which it runs out.
#![cfg(not(loom))]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use kmalloc::{Heap, Kmalloc};
use page_frame::{Arena, Fault, FaultKind, OneContext, PAGE_SIZE, SingleCpu};
use slab::Registry;
use testkit::{Pattern, Random};

/// A heap under test.
trait Small {
    fn allocate(&self, layout: Layout) -> Option<NonNull<u8>>;
    /// # Safety
    /// 1. `start` was allocated for `layout`, and is not used any more.
    unsafe fn free(&self, start: NonNull<u8>, layout: Layout);
}

impl Small for Kmalloc<(&Arena<'_>, SingleCpu)> {
    fn allocate(&self, layout: Layout) -> Option<NonNull<u8>> {
        Kmalloc::allocate(self, layout).ok()
    }

    unsafe fn free(&self, start: NonNull<u8>, _: Layout) {
        // SAFETY: clause 1.
        unsafe { Kmalloc::free(self, start) };
    }
}

impl Small for Heap<OneContext> {
    fn allocate(&self, layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: no test asks for zero bytes.
        NonNull::new(unsafe { self.alloc(layout) })
    }

    unsafe fn free(&self, start: NonNull<u8>, layout: Layout) {
        // SAFETY: clause 1.
        unsafe { self.dealloc(start.as_ptr(), layout) };
    }
}

/// Calls `test` with two heaps, a `Kmalloc` over an arena and a `Heap`. Each has `bytes` bytes,
/// from `offset` bytes after a page boundary on.
fn with_heaps(bytes: usize, offset: usize, test: impl Fn(&dyn Small)) {
    let layout = Layout::from_size_align(bytes + offset, 4096).expect("a layout");
    // SAFETY: the layout is not empty.
    let start = NonNull::new(unsafe { std::alloc::alloc(layout) }).expect("there is memory");
    // SAFETY: inside the allocation.
    let start = unsafe { start.add(offset) };
    let memory = NonNull::slice_from_raw_parts(start.cast::<MaybeUninit<u8>>(), bytes).as_ptr();
    {
        // SAFETY: ours, and used only through the arena.
        let arena = Arena::new(unsafe { &mut *memory }).expect("large enough");
        test(&Kmalloc::new(Registry::new(&arena, SingleCpu::new()).expect("large enough")));
        assert_eq!(arena.free_bytes(), arena.bytes(), "everything comes back");
        arena.validate().expect("consistent");
    }
    // SAFETY: clause 1: this thread alone uses it.
    let heap = unsafe { Heap::for_one_context() };
    // SAFETY: clause 1: the memory is never freed.
    unsafe { heap.add_region(start.as_ptr(), bytes) }.expect("large enough");
    test(&heap);
}

/// Returns the share of `bytes` that requests of 1 to `most` bytes get until the first one fails.
fn served(heap: &dyn Small, bytes: usize, most: usize, seed: u64) -> f64 {
    let (mut random, mut live, mut sum) = (Random::new(seed), Vec::new(), 0);
    loop {
        let layout = Layout::from_size_align(1 + random.below(most), 8).expect("small");
        let Some(start) = heap.allocate(layout) else { break };
        // SAFETY: just allocated, of that many bytes.
        unsafe { start.write_bytes(0xa5, layout.size()) };
        sum += layout.size();
        live.push((start, layout));
    }
    for (start, layout) in live {
        // SAFETY: allocated above, and not used any more.
        unsafe { heap.free(start, layout) };
    }
    sum as f64 / bytes as f64
}

/// Bytes of memory, and the minimum share of them in percent that requests get.
const TABLE: [(usize, f64); 13] = [
    (8 << 10, 75.0),
    (16 << 10, 85.0),
    (32 << 10, 90.0),
    (100 << 10, 90.0),
    (256 << 10, 90.0),
    (1 << 20, 90.0),
    (2 << 20, 90.0),
    ((4 << 20) + 4096, 90.0),
    (3 << 20, 90.0),
    (4 << 20, 90.0),
    (8 << 20, 90.0),
    (16 << 20, 90.0),
    (64 << 20, 90.0),
];

#[test]
fn most_of_a_small_heap_serves_requests() {
    for (bytes, least) in TABLE {
        for offset in [0, 16, 1000, 4000] {
            with_heaps(bytes, offset, |heap| {
                for seed in 1..4 {
                    let percent = served(heap, bytes, 512, seed) * 100.0;
                    if std::env::var("ALL").is_err() {
                        assert!(percent >= least, "{percent:.1} % of {bytes} bytes at {offset}");
                    }
                }
            });
        }
    }
}

/// Makes a `Kmalloc` whose faults are counted, over `bytes` bytes, and calls `test` with it.
fn with_faults(bytes: usize, test: impl Fn(&TestKmalloc<'_>, &dyn Fn() -> Vec<FaultKind>)) {
    thread_local! {
        static FAULTS: RefCell<Vec<FaultKind>> = const { RefCell::new(Vec::new()) };
    }
    let mut memory = vec![MaybeUninit::uninit(); bytes];
    let arena = Arena::new(&mut memory).expect("large enough");
    let hook = |fault: &Fault| FAULTS.with_borrow_mut(|faults| faults.push(fault.kind));
    let registry = Registry::with_fault_hook(&arena, SingleCpu::new(), hook);
    let kmalloc = Kmalloc::new(registry.expect("large enough"));
    test(&kmalloc, &|| FAULTS.take());
    drop(kmalloc);
    assert_eq!(arena.free_bytes(), arena.bytes(), "everything comes back");
    arena.validate().expect("consistent");
    assert!(FAULTS.take().is_empty());
}

type TestKmalloc<'a> = Kmalloc<(&'a Arena<'a>, SingleCpu)>;

fn layout(bytes: usize, alignment: usize) -> Layout {
    Layout::from_size_align(bytes, alignment).expect("a layout")
}

#[test]
fn misuse_is_detected_exactly_and_changes_nothing() {
    with_faults(64 << 10, |kmalloc, faults| {
        let (first, second) =
            (kmalloc.kmalloc(100).expect("room"), kmalloc.kmalloc(20).expect("room"));
        let run = kmalloc.allocate(layout(40_000, 8)).expect("room");
        for offset in [16, 32, 96, 1, 8] {
            // SAFETY: inside the allocation.
            let inside = unsafe { first.add(offset) };
            // SAFETY: the mistake is detected and changes nothing.
            unsafe { kmalloc.free(inside) };
            assert_eq!(faults(), [FaultKind::InteriorPointer], "{offset} bytes inside");
            assert_eq!(kmalloc.ksize(inside), 0);
        }
        // SAFETY: inside the run.
        let inside = unsafe { run.add(4096) };
        // SAFETY: as above.
        unsafe { kmalloc.free(inside) };
        assert_eq!(faults(), [FaultKind::InteriorPointer]);
        // SAFETY: allocated above, and not used any more.
        unsafe { kmalloc.free(second) };
        // SAFETY: the mistake is detected and changes nothing.
        unsafe { kmalloc.free(second) };
        assert_eq!(faults(), [FaultKind::DoubleFree]);
        // SAFETY: as above.
        unsafe { kmalloc.free_sized(second, layout(20, 8)) };
        assert_eq!(faults(), [FaultKind::DoubleFree]);
        let foreign = Box::new(7_u64);
        // SAFETY: as above.
        unsafe { kmalloc.free(NonNull::from(&*foreign).cast()) };
        assert_eq!(faults(), [FaultKind::ForeignPointer]);
        // SAFETY: as above.
        assert!(unsafe { kmalloc.krealloc(Some(second), 30) }.is_err());
        assert_eq!(faults(), [FaultKind::DoubleFree]);
        for start in [first, run] {
            // SAFETY: allocated above, and not used any more.
            unsafe { kmalloc.free(start) };
        }
    });
}

#[test]
fn sizes_are_exact_to_16_bytes_and_change_in_place() {
    with_faults(64 << 10, |kmalloc, _| {
        for bytes in 1..600 {
            let start = kmalloc.allocate(layout(bytes, 8)).expect("room");
            assert_eq!(kmalloc.usable_size(start), Some(bytes.next_multiple_of(16)));
            // SAFETY: allocated above, and not used any more.
            unsafe { kmalloc.free_sized(start, layout(bytes, 8)) };
        }
        let start = kmalloc.allocate(layout(100, 8)).expect("room");
        let mut bytes = 100;
        for new_bytes in [120, 5000, 33_000, 50_000, 40, 16, 300] {
            // SAFETY: clauses 1 and 2: allocated above, of `bytes` bytes.
            let moved = unsafe { kmalloc.reallocate(start, layout(bytes, 8), new_bytes) };
            assert_eq!(moved, Ok(start), "nothing is behind it");
            assert_eq!(kmalloc.usable_size(start), Some(new_bytes.next_multiple_of(16)));
            bytes = new_bytes;
        }
        let neighbour = kmalloc.kmalloc(2000).expect("room");
        // SAFETY: clauses 1 and 2: allocated above, of `bytes` bytes.
        let moved = unsafe { kmalloc.reallocate(start, layout(bytes, 8), 20_000) }.expect("room");
        assert_ne!(moved, start);
        for start in [moved, neighbour] {
            // SAFETY: allocated above, and not used any more.
            unsafe { kmalloc.free(start) };
        }
    });
}

#[test]
fn runs_of_pages_are_exact_and_need_no_more_than_there_is() {
    let mut memory = vec![MaybeUninit::uninit(); 66 * PAGE_SIZE];
    let arena = Arena::new(&mut memory).expect("large enough");
    let kmalloc = Kmalloc::new(Registry::new(&arena, SingleCpu::new()).expect("large enough"));
    let free = arena.free_pages();
    assert!(free >= 62);
    for pages in [33, 40, 61, free] {
        let start = kmalloc.allocate(layout(pages * PAGE_SIZE, PAGE_SIZE)).expect("room");
        assert_eq!(arena.free_pages(), free - pages);
        assert_eq!(kmalloc.large_pages(), pages);
        // SAFETY: allocated above, and not used any more.
        unsafe { kmalloc.free(start) };
    }
    // A request for more than the free whole pages takes bytes.
    let bytes = arena.free_bytes() - 64;
    assert!(bytes > free * PAGE_SIZE, "the parts of pages at both ends are used too");
    let start = kmalloc.allocate(layout(bytes, 8)).expect("room");
    assert_eq!(arena.free_pages(), 0);
    // SAFETY: allocated above, and not used any more.
    unsafe { kmalloc.free_sized(start, layout(bytes, 8)) };
    assert_eq!((arena.free_pages(), kmalloc.large_pages()), (free, 0));
}

/// One allocation of a history.
struct Live {
    start: NonNull<u8>,
    layout: Layout,
    number: u64,
}

impl Live {
    fn check(&self, bytes: usize) {
        // SAFETY: filled when it was allocated, and has at least that many bytes.
        let is_whole = unsafe { Pattern(self.number).is_in(self.start, bytes) };
        assert!(is_whole, "{:?} of number {}", self.layout, self.number);
    }
}

/// Allocates, resizes or frees at random, in every way, and checks the content.
fn step(kmalloc: &TestKmalloc<'_>, live: &mut Vec<Live>, random: &mut Random, number: u64) {
    let most = [16, 64, 512, 5_000, 40_000][random.below(5)];
    let (bytes, shift) = (1 + random.below(most), [0, 3, 4, 6, 9, 12][random.below(6)]);
    if random.below(5) < 2 || live.is_empty() {
        let layout = layout(bytes, 1 << shift);
        let start = match random.below(4) {
            0 => kmalloc.try_allocate(layout),
            1 => kmalloc.allocate_zeroed(layout),
            2 => kmalloc.kmalloc(bytes),
            _ => kmalloc.allocate(layout),
        };
        let Ok(start) = start else { return };
        let usable = kmalloc.usable_size(start).expect("it was just allocated");
        assert!(usable >= bytes);
        // SAFETY: just allocated, of that many bytes.
        unsafe { Pattern(number).fill(start, usable) };
        // `kmalloc` knows no alignment. If the memory has less than that of `layout`, `free_sized`
        // gets 8.
        let layout =
            if start.addr().get() % layout.align() == 0 { layout } else { self::layout(bytes, 8) };
        live.push(Live { start, layout, number });
        return;
    }
    let mut one = live.swap_remove(random.below(live.len()));
    one.check(kmalloc.usable_size(one.start).expect("it is live"));
    match random.below(4) {
        0 => {
            // SAFETY: clauses 1 and 2: allocated for this layout, and only the result is used.
            if let Ok(moved) = unsafe { kmalloc.reallocate(one.start, one.layout, bytes) } {
                let kept = one.layout.size().min(bytes);
                (one.start, one.layout) = (moved, layout(bytes, one.layout.align()));
                one.check(kept);
                let usable = kmalloc.usable_size(moved).expect("it is live");
                // SAFETY: ours, of that many bytes.
                unsafe { Pattern(one.number).fill(moved, usable) };
            }
            live.push(one);
        }
        // SAFETY: clauses 1 and 2: allocated for this layout, and not used any more.
        1 => unsafe { kmalloc.free_sized(one.start, one.layout) },
        // SAFETY: as above.
        _ => unsafe { kmalloc.free(one.start) },
    }
}

/// Random histories of all operations, over memories of all small sizes.
#[test]
fn random_histories_keep_every_byte_and_everything_comes_back() {
    for bytes in [8 << 10, 16 << 10, 32 << 10, 100 << 10, 1 << 20] {
        for seed in 1..6 {
            let mut memory = vec![MaybeUninit::uninit(); bytes];
            let arena = Arena::new(&mut memory).expect("large enough");
            let registry = Registry::new(&arena, SingleCpu::new()).expect("large enough");
            let (kmalloc, free) = (Kmalloc::new(registry), arena.free_bytes());
            let (mut random, mut live) = (Random::new(seed), Vec::new());
            for number in 0..6000 {
                step(&kmalloc, &mut live, &mut random, number);
                if number % 100 == 0 {
                    arena.validate().expect("consistent");
                    kmalloc.validate().expect("consistent");
                    assert_eq!(kmalloc.pages_held(), arena.pages() - arena.free_pages());
                    let mut ends: Vec<_> = live
                        .iter()
                        .map(|one: &Live| {
                            (one.start.addr().get(), one.start.addr().get() + one.layout.size())
                        })
                        .collect();
                    ends.sort_unstable();
                    assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].0), "no overlap");
                }
            }
            for one in live {
                one.check(one.layout.size());
                // SAFETY: clauses 1 and 2: allocated here, and not used any more.
                unsafe { kmalloc.free(one.start) };
            }
            assert_eq!(arena.free_bytes(), free, "everything comes back");
            let all = kmalloc.allocate(layout(free / 2, 16)).expect("it is one piece again");
            // SAFETY: clauses 1 and 2: allocated here, and not used any more.
            unsafe { kmalloc.free(all) };
        }
    }
}

/// A private cache takes its pages from the same memory, and releases them when it runs out.
#[test]
fn private_caches_share_a_small_memory_with_the_allocator() {
    with_faults(128 << 10, |kmalloc, _| {
        let some = kmalloc.kmalloc(100).expect("room");
        let cache = kmalloc.registry().cache("own", layout(200, 8)).build().expect("room");
        let objects: Vec<_> = core::iter::from_fn(|| cache.allocate().ok()).collect();
        assert!(objects.len() > 300, "{} objects", objects.len());
        assert!(kmalloc.allocate(layout(8 << 10, 8)).is_err());
        for object in objects {
            // SAFETY: clauses 1 and 2: from this cache, and not used any more.
            unsafe { cache.free(object) };
        }
        // The allocator takes the pages of the cache by itself.
        let large = kmalloc.allocate(layout(64 << 10, 8)).expect("the cache has no object in use");
        for start in [some, large] {
            // SAFETY: clauses 1 and 2: allocated above, and not used any more.
            unsafe { kmalloc.free(start) };
        }
        drop(cache);
        kmalloc.shrink_all();
    });
}
