//! Heaps over memory regions: random histories while regions are added, threads, regions that are
//! too small, and a heap as an `Allocator`.
#![cfg(not(loom))]

use std::alloc::{GlobalAlloc, Layout};
use std::any::TypeId;
use std::ptr::NonNull;
use std::thread;

use hosted::Threads;
use kmalloc::Heap;
use page_frame::{Cpu, OneContext, PAGE_SIZE};
use slab::{Debugging, Hardened, Hardening, Off};
use testkit::{Pattern, Random};

/// Returns memory that is never freed, like the memory of a kernel.
fn leaked(bytes: usize) -> *mut u8 {
    vec![0xa5_u8; bytes].leak().as_mut_ptr()
}

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

/// Allocates, resizes or frees at random, and checks the content. Returns whether a request failed.
fn step(heap: &impl GlobalAlloc, live: &mut Vec<Live>, random: &mut Random, number: u64) -> bool {
    let most = [64, 300, 5_000, 40_000][random.below(4)];
    let bytes = 1 + random.below(most);
    if live.len() < 200 && random.below(5) < 2 {
        let alignment = 1 << [0, 3, 4, 6, 9][random.below(5)];
        let layout = Layout::from_size_align(bytes, alignment).expect("small");
        // SAFETY: the layout is not empty.
        let Some(start) = NonNull::new(unsafe { heap.alloc(layout) }) else { return true };
        assert_eq!(start.addr().get() % alignment, 0);
        // SAFETY: just allocated, of that many bytes.
        unsafe { Pattern(number).fill(start, bytes) };
        live.push(Live { start, layout, number });
    } else if !live.is_empty() {
        let mut one = live.swap_remove(random.below(live.len()));
        one.check(one.layout.size());
        if random.one_in(3) {
            // SAFETY: allocated with this layout; the new size is not zero.
            let moved = unsafe { heap.realloc(one.start.as_ptr(), one.layout, bytes) };
            if let Some(moved) = NonNull::new(moved) {
                let kept = one.layout.size().min(bytes);
                one.start = moved;
                one.check(kept);
                one.layout = Layout::from_size_align(bytes, one.layout.align()).expect("small");
                // SAFETY: ours, of that many bytes.
                unsafe { Pattern(one.number).fill(moved, bytes) };
            }
            live.push(one);
        } else {
            // SAFETY: allocated with this layout, and not used any more.
            unsafe { heap.dealloc(one.start.as_ptr(), one.layout) };
        }
    }
    false
}

/// Runs a random history, while adjacent regions of random sizes are added, `memory` bytes in
/// total. In the end no class holds a page.
fn history<C: Cpu + Clone + Send + Sync, K: Hardening>(
    heap: &Heap<C, K>,
    seed: u64,
    memory: usize,
) {
    let mut random = Random::new(seed);
    let (mut rest, mut left, mut bytes) = (leaked(memory), memory, 0);
    let (mut live, mut failed) = (Vec::new(), 0);
    for number in 0..4000 {
        if number % 500 == 0 && left > 0 {
            let size = match number {
                0 => 128 << 10,
                _ => (1 + random.below(memory / 4)).min(left),
            };
            // SAFETY: clause 1: a part of leaked memory that no other code uses.
            if let Ok(more) = unsafe { heap.add_region(rest, size) } {
                bytes += more;
                assert!(more < size);
            }
            (rest, left) = (rest.wrapping_add(size), left - size);
            assert_eq!(heap.bytes(), bytes);
        }
        failed += usize::from(step(heap, &mut live, &mut random, number));
        let kmalloc = heap.kmalloc().expect("there is a region");
        if number % 20 == 0 {
            kmalloc.validate().expect("consistent");
            kmalloc.registry().source().validate().expect("consistent");
        }
        let regions = kmalloc.registry().source();
        assert_eq!(kmalloc.pages_held(), regions.pages() - regions.free_pages());
    }
    assert!(failed > 0 || memory > 1 << 20, "the heap was full at times");
    for one in live {
        one.check(one.layout.size());
        // SAFETY: allocated with this layout, and not used any more.
        unsafe { heap.dealloc(one.start.as_ptr(), one.layout) };
    }
    let kmalloc = heap.kmalloc().expect("there is a region");
    kmalloc.shrink_all();
    assert_eq!(kmalloc.large_pages(), 0);
    let held = heap.bytes() - heap.free_bytes();
    let has_checks = TypeId::of::<K>() != TypeId::of::<Off>();
    assert!(has_checks || held < 256 << 10, "{held} bytes of caches and registry");
    kmalloc.registry().stats(|stats| {
        let is_class = stats.name.to_string().starts_with("kmalloc-");
        assert!(!is_class || stats.pages() == 0, "{} has no object in use", stats.name);
    });
}

#[test]
fn random_histories_while_regions_are_added() {
    for seed in 1..6 {
        // SAFETY: clause 1: this thread alone uses it.
        history(&unsafe { Heap::for_one_context() }, seed, 1 << 20);
        history(&Heap::<Threads, Hardened>::with_cpu(Threads::default), seed, 1 << 20);
        history(&Heap::<Threads, Debugging>::with_cpu(Threads::default), seed, 1 << 20);
    }
}

/// While the heap is small, it serves requests as bytes. When it is large, classes get caches.
///
/// Mutation that it catches: a free by layout puts such bytes into the cache of their class.
#[test]
fn random_histories_of_a_heap_that_grows_from_small_to_large() {
    for seed in 1..6 {
        // SAFETY: clause 1: this thread alone uses it.
        history(&unsafe { Heap::for_one_context() }, seed, 12 << 20);
    }
}

#[cfg(feature = "critical-section")]
mod critical_section {
    use super::*;

    static HEAP: Heap = Heap::empty();

    #[test]
    fn random_histories_on_the_default_machine() {
        history(&Heap::<page_frame::CriticalSectionCpu>::empty(), 3, 1 << 20);
    }

    #[test]
    fn threads_share_the_one_slot_of_the_default_machine() {
        threads_on(&HEAP);
    }
}

/// Runs threads that allocate, before the first region and while other threads add regions.
fn threads_on<C: Cpu + Clone + Send + Sync>(heap: &Heap<C>) {
    thread::scope(|scope| {
        for seed in 1..4 {
            scope.spawn(move || {
                let (mut random, mut live) = (Random::new(seed), Vec::new());
                for number in 0..3000 {
                    step(heap, &mut live, &mut random, number);
                }
                for one in live {
                    one.check(one.layout.size());
                    // SAFETY: allocated with this layout, and not used any more.
                    unsafe { heap.dealloc(one.start.as_ptr(), one.layout) };
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..4 {
                    // SAFETY: clause 1: leaked memory that no other code uses.
                    unsafe { heap.add_region(leaked(1 << 18), 1 << 18) }.expect("large enough");
                    thread::yield_now();
                }
            });
        }
    });
    let kmalloc = heap.kmalloc().expect("regions were added");
    kmalloc.validate().expect("consistent");
    kmalloc.registry().source().validate().expect("consistent");
    kmalloc.shrink_all();
    assert_eq!(kmalloc.large_pages(), 0);
    let regions = kmalloc.registry().source();
    assert_eq!(kmalloc.pages_held(), regions.pages() - regions.free_pages());
}

#[test]
fn threads_allocate_while_others_add_regions() {
    static HEAP: Heap<Threads> = Heap::empty();
    threads_on(&HEAP);
}

#[test]
fn a_region_that_is_too_small_is_an_error_and_stays_unused() {
    // SAFETY: clause 1: this thread alone uses it.
    let heap = unsafe { Heap::for_one_context() };
    let layout = Layout::new::<u64>();
    // SAFETY: the layout is not empty.
    assert!(unsafe { heap.alloc(layout) }.is_null(), "no region yet");
    for bytes in [0, 1, 100, PAGE_SIZE] {
        let memory = leaked(bytes);
        // SAFETY: clause 1: leaked.
        let error = unsafe { heap.add_region(memory, bytes) }.expect_err("too small");
        assert_eq!((error.start(), error.bytes()), (memory.addr(), bytes));
    }
    assert!(heap.kmalloc().is_none() && heap.bytes() == 0);
    // A region that is accepted serves a request.
    let accepted = (1..100).find(|pages| {
        let bytes = pages * PAGE_SIZE;
        // SAFETY: clause 1: leaked.
        unsafe { heap.add_region(leaked(bytes), bytes) }.is_ok()
    });
    assert!(accepted.is_some());
    // SAFETY: the layout is not empty.
    assert!(!unsafe { heap.alloc(layout) }.is_null());
}

#[cfg(feature = "allocator-api2-04")]
#[test]
fn collections_use_a_heap_as_their_allocator() {
    // SAFETY: clause 1: this thread alone uses it.
    let heap = unsafe { Heap::for_one_context() };
    // SAFETY: clause 1: leaked.
    unsafe { heap.add_region(leaked(1 << 20), 1 << 20) }.expect("large enough");
    let mut numbers = allocator_api2_04::vec::Vec::new_in(&heap);
    numbers.extend(0..10_000_u32);
    assert!(numbers.iter().copied().eq(0..10_000));
    assert!(heap.kmalloc().is_some_and(|kmalloc| kmalloc.large_pages() > 0));
}

/// A small heap serves requests as bytes, which may grow in place to the size of another class.
/// When the heap is large, that class gets a cache. The bytes are no object of it, so their free
/// must not put them there.
///
/// Mutation that it catches: a resize in place that does not make the new class mixed (the next
/// request gets memory of the small region from the cache's magazine).
#[test]
fn memory_that_grew_in_place_in_a_small_heap_enters_no_cache() {
    // SAFETY: clause 1: this thread alone uses it.
    let heap: Heap<OneContext> = unsafe { Heap::for_one_context() };
    let (small, large) = (leaked(64 << 10), leaked(16 << 20));
    // SAFETY: clause 1: leaked memory that no other code uses.
    unsafe { heap.add_region(small, 64 << 10) }.expect("large enough");
    let layout = |bytes| Layout::from_size_align(bytes, 8).expect("a layout");
    let sizes = [200, 1000, 5000];
    let grown = sizes.map(|bytes| {
        // SAFETY: the layout has a size.
        let start = unsafe { heap.alloc(layout(100)) };
        // SAFETY: allocated with this layout; only the result is used.
        let grown = unsafe { heap.realloc(start, layout(100), bytes) };
        assert_eq!(grown, start, "in place: the bytes behind are free");
        grown
    });
    // SAFETY: clause 1: leaked memory that no other code uses.
    unsafe { heap.add_region(large, 16 << 20) }.expect("large enough");
    for (bytes, start) in sizes.into_iter().zip(grown) {
        // SAFETY: the layout has a size.
        let objects: Vec<_> = (0..50).map(|_| unsafe { heap.alloc(layout(bytes)) }).collect();
        assert!(objects.iter().all(|object| !object.is_null()));
        for object in objects {
            // SAFETY: allocated with this layout, and not used any more.
            unsafe { heap.dealloc(object, layout(bytes)) };
        }
        // SAFETY: as above.
        unsafe { heap.dealloc(start, layout(bytes)) };
        // SAFETY: the layout has a size.
        let again: Vec<_> = (0..50).map(|_| unsafe { heap.alloc(layout(bytes)) }).collect();
        let kmalloc = heap.kmalloc().expect("there is a region");
        kmalloc.validate().expect("consistent");
        let count = again.iter().filter(|object| **object == start).count();
        assert!(count <= 1, "{bytes} bytes at {start:?} are allocated twice");
        for object in again {
            let usable = kmalloc.usable_size(NonNull::new(object).expect("room"));
            assert!(usable >= Some(bytes), "{bytes}: {usable:?}");
            // SAFETY: allocated with this layout, and not used any more.
            unsafe { heap.dealloc(object, layout(bytes)) };
        }
        kmalloc.shrink_all();
        kmalloc.validate().expect("consistent");
        kmalloc.registry().source().validate().expect("consistent");
    }
    let kmalloc = heap.kmalloc().expect("there is a region");
    kmalloc.shrink_all();
    assert_eq!(kmalloc.large_pages(), 0);
}

/// The first region is slightly larger than 4 MiB, the most that a small region has. Its metadata
/// takes so much that both regions together serve at most 4 MiB.
///
/// Mutation that it catches: a heap counts as small because of this sum, whatever its regions are.
#[test]
fn a_small_region_beside_a_large_one_does_not_make_the_heap_small() {
    // SAFETY: clause 1: this thread alone uses it.
    let heap: Heap<OneContext> = unsafe { Heap::for_one_context() };
    let (large, small) = (leaked((4 << 20) + 1024), leaked(6 << 10));
    // SAFETY: clause 1: leaked memory that no other code uses.
    unsafe { heap.add_region(large, (4 << 20) + 1024) }.expect("large enough");
    // SAFETY: as above.
    unsafe { heap.add_region(small, 6 << 10) }.expect("large enough");
    assert!(heap.bytes() <= 4 << 20, "the sum is that of a small heap");
    let layout = Layout::from_size_align(1000, 8).expect("a layout");
    // SAFETY: the layout has a size.
    let got = (0..3000).filter(|_| !unsafe { heap.alloc(layout) }.is_null()).count();
    assert_eq!(got, 3000, "of 4 MiB");
}
