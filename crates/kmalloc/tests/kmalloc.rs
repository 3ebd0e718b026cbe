//! Every way to allocate, free and resize, over an arena and over a buddy: sizes at the edges of
//! classes, faults, and no page lost.

use std::alloc::Layout;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use kmalloc::{ClassIndex, Kmalloc, LARGEST};
use page_frame::{Arena, Counted, Fault, FaultKind, Order, PAGE_SIZE, PageSource, SingleCpu};
use slab::Registry;
use testkit::Pattern;

const PAGES: usize = 4096;

fn layout(bytes: usize, alignment: usize) -> Layout {
    Layout::from_size_align(bytes, alignment).expect("a layout")
}

/// Runs `test` over an arena, which must have all pages again afterwards.
fn over_an_arena(test: impl FnOnce(&Kmalloc<(&Counted<Arena<'_>>, SingleCpu)>)) {
    let mut memory = vec![MaybeUninit::uninit(); PAGES * PAGE_SIZE];
    let arena = Counted::new(Arena::new(&mut memory).expect("large enough"));
    let kmalloc = Kmalloc::new(Registry::new(&arena, SingleCpu::new()).expect("room"));
    test(&kmalloc);
    kmalloc.validate().expect("consistent");
    kmalloc.shrink_all();
    assert_eq!(kmalloc.large_pages(), 0);
    drop(kmalloc);
    assert_eq!(arena.held_pages(), 0, "all pages are returned");
}

#[test]
fn every_size_at_the_edges_of_every_class_is_served_and_usable() {
    over_an_arena(|kmalloc| {
        let edges = ClassIndex::all().flat_map(|class| [class.size(), class.size() + 1]);
        for bytes in [0, 1].into_iter().chain(edges).chain([100_000, 1 << 20]) {
            let start = kmalloc.allocate(layout(bytes, 1)).expect("room");
            let usable = kmalloc.usable_size(start).expect("an allocation");
            assert!(usable >= bytes.max(1), "{usable} for {bytes}");
            let class = ClassIndex::for_size(bytes);
            let pages = bytes.next_multiple_of(PAGE_SIZE);
            let expected = class.map_or(pages, ClassIndex::size);
            assert_eq!(usable, expected);
            // SAFETY: as many bytes are usable.
            unsafe { Pattern(bytes as u64).fill(start, usable) };
            // SAFETY: just filled.
            assert!(unsafe { Pattern(bytes as u64).is_in(start, usable) });
            // SAFETY: allocated above, not used any more.
            unsafe { kmalloc.free(start) };
        }
    });
}

#[test]
fn zero_bytes_are_served_like_one_byte_of_that_alignment() {
    over_an_arena(|kmalloc| {
        let start = kmalloc.kmalloc(0).expect("room");
        assert_eq!(kmalloc.ksize(start), 16);
        // SAFETY: allocated above, not used any more.
        unsafe { kmalloc.kfree(Some(start)) };
        let start = kmalloc.allocate(layout(0, 64)).expect("room");
        assert_eq!((start.addr().get() % 64, kmalloc.usable_size(start)), (0, Some(64)));
        // SAFETY: allocated above for this layout, not used any more.
        unsafe { kmalloc.free_sized(start, layout(0, 64)) };
    });
}

#[test]
fn alignments_up_to_a_megabyte_hold() {
    over_an_arena(|kmalloc| {
        for alignment in (0..=20).map(|shift| 1_usize << shift) {
            for bytes in [1, 24, 1000, 5000, 40_000] {
                let layout = layout(bytes, alignment);
                let start = kmalloc.allocate(layout).expect("room");
                assert_eq!(start.addr().get() % alignment, 0, "{layout:?}");
                // SAFETY: allocated above with this layout.
                unsafe { kmalloc.free_sized(start, layout) };
            }
        }
    });
}

#[test]
fn powers_of_two_are_aligned_to_themselves() {
    over_an_arena(|kmalloc| {
        for bytes in (0..=15).map(|shift| 1_usize << shift) {
            let starts: Vec<_> = (0..9).map(|_| kmalloc.kmalloc(bytes).expect("room")).collect();
            for start in starts {
                assert_eq!(start.addr().get() % bytes, 0, "{bytes}");
                // SAFETY: one of the nine.
                unsafe { kmalloc.kfree(Some(start)) };
            }
        }
    });
}

#[test]
fn what_cannot_be_had_is_an_error_and_nothing_is_held() {
    over_an_arena(|kmalloc| {
        let largest = Order::MAX.bytes();
        let impossible = [
            layout(largest + 1, 1),
            layout(isize::MAX as usize, 1),
            layout(1, 2 * largest),
            layout(PAGES * PAGE_SIZE, 1),
        ];
        for layout in impossible {
            assert!(kmalloc.allocate(layout).is_err(), "{layout:?}");
            assert!(kmalloc.allocate_zeroed(layout).is_err(), "{layout:?}");
        }
        assert!(kmalloc.kmalloc(usize::MAX).is_err());
        assert!(kmalloc.kcalloc(usize::MAX, 2).is_err());
        assert!(kmalloc.kmalloc_array(1 << 40, 1 << 40).is_err());
        assert_eq!(kmalloc.large_pages(), 0);
    });
}

#[test]
fn zeroed_memory_is_zero_even_where_others_wrote_before() {
    over_an_arena(|kmalloc| {
        for bytes in [1, 8, 100, LARGEST, LARGEST + 1] {
            for _ in 0..3 {
                let start = kmalloc.kzalloc(bytes).expect("room");
                for index in 0..bytes {
                    // SAFETY: inside the allocation.
                    let byte = unsafe { start.add(index) };
                    // SAFETY: zeroed by the allocator.
                    assert_eq!(unsafe { byte.read() }, 0);
                }
                // SAFETY: that many bytes, just allocated.
                unsafe { start.write_bytes(0xff, bytes) };
                // SAFETY: the bytes just overwritten, which no other code has.
                unsafe { kmalloc.free(start) };
            }
        }
    });
}

#[test]
fn resizing_keeps_the_content_across_every_border() {
    over_an_arena(|kmalloc| {
        let sizes = [1, 8, 9, 1000, LARGEST, LARGEST + 1, 100_000, 300_000, 90_000, 33_000, 500, 3];
        for alignment in [1, 64, 4096] {
            let mut bytes = 7;
            let mut start = kmalloc.allocate(layout(bytes, alignment)).expect("room");
            for new_bytes in sizes {
                // SAFETY: ours, of `bytes` bytes.
                unsafe { Pattern(3).fill(start, bytes) };
                // SAFETY: allocated with this layout; only the new address is used.
                let moved =
                    unsafe { kmalloc.reallocate(start, layout(bytes, alignment), new_bytes) };
                start = moved.expect("room");
                assert_eq!(start.addr().get() % alignment, 0);
                // SAFETY: the content that both sizes have was kept.
                assert!(unsafe { Pattern(3).is_in(start, bytes.min(new_bytes)) }, "{new_bytes}");
                bytes = new_bytes;
            }
            // SAFETY: allocated with this layout.
            unsafe { kmalloc.free_sized(start, layout(bytes, alignment)) };
        }
    });
}

#[test]
fn within_a_class_nothing_moves_and_a_failed_resize_changes_nothing() {
    over_an_arena(|kmalloc| {
        let start = kmalloc.kmalloc(65).expect("room");
        for bytes in [66, 80, 65] {
            // SAFETY: from this allocator, replaced by the returned address.
            let same = unsafe { kmalloc.krealloc(Some(start), bytes) };
            assert_eq!(same, Ok(start), "80 is a class");
        }
        // SAFETY: eighty bytes at least, after the steps above.
        unsafe { Pattern(9).fill(start, 80) };
        for bytes in [usize::MAX, isize::MAX as usize, PAGES * PAGE_SIZE] {
            // SAFETY: refused, so it stays the caller's.
            assert!(unsafe { kmalloc.krealloc(Some(start), bytes) }.is_err());
        }
        // SAFETY: ours still.
        assert!(unsafe { Pattern(9).is_in(start, 80) });
        // SAFETY: still valid, as nothing could enlarge it.
        unsafe { kmalloc.kfree(Some(start)) };
        // SAFETY: nothing to free.
        unsafe { kmalloc.kfree(None) };
        // SAFETY: `None` is allowed.
        let fresh = unsafe { kmalloc.krealloc(None, 10) }.expect("room");
        assert_eq!(kmalloc.ksize(fresh), 16);
        // SAFETY: allocated without an old one.
        unsafe { kmalloc.kfree(Some(fresh)) };
    });
}

/// The sum of the faults of `misuse_that_the_page_map_shows_is_a_fault_and_frees_nothing`, each
/// with the weight of its kind.
static FAULTS: AtomicUsize = AtomicUsize::new(0);

fn count(fault: &Fault) {
    let weight = match fault.kind {
        FaultKind::ForeignPointer => 1,
        FaultKind::InteriorPointer => 100,
        FaultKind::DoubleFree => 1000,
        FaultKind::WrongCache => 10_000,
        _ => 1_000_000,
    };
    FAULTS.fetch_add(weight, Ordering::Relaxed);
}

#[test]
fn misuse_that_the_page_map_shows_is_a_fault_and_frees_nothing() {
    let mut memory = vec![MaybeUninit::uninit(); PAGES * PAGE_SIZE];
    let arena = Arena::new(&mut memory).expect("large enough");
    let registry = Registry::with_fault_hook(&arena, SingleCpu::new(), count).expect("room");
    let private = registry.cache("private", layout(100, 4)).build().expect("room");
    let kmalloc = Kmalloc::new(registry.clone());
    let expect = |faults: usize, start: NonNull<u8>| {
        let (free, large) = (arena.free_pages(), kmalloc.large_pages());
        // SAFETY: breaks the clauses of `free` on purpose; the memory is not touched.
        unsafe { kmalloc.free(start) };
        assert_eq!(FAULTS.swap(0, Ordering::Relaxed), faults);
        assert_eq!((arena.free_pages(), kmalloc.large_pages()), (free, large));
        assert_eq!(kmalloc.usable_size(start), None);
    };
    let mut local = 7_u8;
    expect(1, NonNull::from(&mut local));
    let large = kmalloc.kmalloc(100_000).expect("room");
    // SAFETY: inside the allocation.
    expect(100, unsafe { large.add(8) });
    // SAFETY: inside the allocation.
    expect(100, unsafe { large.add(PAGE_SIZE) });
    // SAFETY: a run of this allocator, not used any more.
    unsafe { kmalloc.free(large) };
    expect(1000, large);
    let object = private.allocate().expect("room");
    expect(10_000, object);
    // SAFETY: from the private cache, not a class's.
    unsafe { private.free(object) };
    let (block, order) = arena.allocate(Order::ZERO).expect("room").into_raw();
    expect(1, block);
    // SAFETY: the block's own parts.
    let block = unsafe { page_frame::PageBlock::from_raw(block, order, false) };
    // SAFETY: from this arena, not in use.
    unsafe { arena.free(block) };
    kmalloc.validate().expect("consistent");
}

#[test]
fn runs_of_a_buddy_are_page_exact_and_resized_in_place() {
    use buddy::page_frame::DirectMap;
    use buddy::{Buddy, Mode, ZeroedMemory};
    let memory = hosted::Mapped::reserve(64 << 20).expect("address space");
    let ranges = [memory.frames()];
    let bytes = Buddy::<DirectMap, SingleCpu>::metadata_layout(&ranges, 1).expect("good").size();
    let metadata = hosted::Mapped::reserve(bytes).expect("address space");
    let (map, cpu) = (memory.direct_map(), SingleCpu::new());
    // SAFETY: the mapping is fresh, so zero, page-aligned and not shared, and stays as long as
    // the allocator.
    let zeroed = unsafe { ZeroedMemory::from_zeroed(metadata.start(), metadata.bytes()) };
    // SAFETY: the frames are a fresh mapping that no other code uses, and `map` covers it.
    let buddy = unsafe { Buddy::new_in(zeroed, &ranges, map, cpu, Mode::Cached) };
    let buddy = buddy.expect("good frames");
    let free = buddy.free_counts();
    {
        let kmalloc = Kmalloc::new(Registry::new(&buddy, SingleCpu::new()).expect("room"));
        let five_pages = layout(5 * PAGE_SIZE + 1 + LARGEST, 1);
        let start = kmalloc.allocate(five_pages).expect("room");
        assert_eq!(kmalloc.usable_size(start), Some(14 * PAGE_SIZE));
        assert_eq!(kmalloc.large_pages(), 14);
        // SAFETY: five pages of ours, replaced by the returned address.
        let grown = unsafe { kmalloc.reallocate(start, five_pages, 16 * PAGE_SIZE) };
        assert_eq!(grown, Ok(start), "the two pages behind the run are free");
        // SAFETY: sixteen pages after the growth.
        let shrunk = unsafe { kmalloc.reallocate(start, layout(16 * PAGE_SIZE, 1), 9 * PAGE_SIZE) };
        assert_eq!(shrunk, Ok(start));
        assert_eq!(kmalloc.large_pages(), 9);
        // SAFETY: nine pages are left, and no code uses them.
        unsafe { kmalloc.free(start) };
        assert_eq!(kmalloc.large_pages(), 0);
    }
    buddy.drain();
    assert_eq!(buddy.free_counts(), free);
    buddy.validate().expect("consistent");
}

#[test]
fn a_hardened_allocator_finds_double_frees_and_overflows_and_goes_on() {
    static FAULTS: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
    fn count(fault: &Fault) {
        let place = match fault.kind {
            FaultKind::DoubleFree => 0,
            FaultKind::Overflow { .. } => 1,
            other => panic!("one of the two, not {other:?}"),
        };
        FAULTS[place].fetch_add(1, Ordering::Relaxed);
    }
    let mut memory = vec![MaybeUninit::uninit(); PAGES * PAGE_SIZE];
    let arena = Arena::new(&mut memory).expect("large enough");
    let registry = Registry::with_fault_hook(&arena, SingleCpu::new(), count).expect("room");
    let kmalloc = Kmalloc::<_, slab::Hardened>::with_hardening(registry).with_secret(7);
    let objects: Vec<_> = (0..40).map(|_| kmalloc.kmalloc(100).expect("room")).collect();
    assert_eq!(kmalloc.ksize(objects[0]), 112);
    for object in &objects[..30] {
        // SAFETY: allocated above, not used any more.
        unsafe { kmalloc.kfree(Some(*object)) };
    }
    // SAFETY: not sound in general: a second free. The hook returns, and the free changes nothing.
    unsafe { kmalloc.kfree(Some(objects[3])) };
    // SAFETY: one byte behind the last usable one: inside the slab.
    let behind = unsafe { objects[35].add(kmalloc.ksize(objects[35])) };
    // SAFETY: a canary lies there, which the preset wrote.
    let canary = unsafe { behind.read() };
    // SAFETY: the canary's first byte, which the next free looks at.
    unsafe { behind.write(!canary) };
    for object in &objects[30..] {
        // SAFETY: allocated above, not used any more.
        unsafe { kmalloc.kfree(Some(*object)) };
    }
    assert_eq!(FAULTS[0].load(Ordering::Relaxed), 1, "one double free");
    assert_eq!(FAULTS[1].load(Ordering::Relaxed), 1, "one overflow");
    kmalloc.validate().expect("consistent");
}

#[test]
fn a_run_that_grows_moves_once_and_then_grows_in_place() {
    use buddy::page_frame::DirectMap;
    use buddy::{Buddy, Mode, ZeroedMemory};
    let memory = hosted::Mapped::reserve(64 << 20).expect("address space");
    let ranges = [memory.frames()];
    let bytes = Buddy::<DirectMap, SingleCpu>::metadata_layout(&ranges, 1).expect("good").size();
    let metadata = hosted::Mapped::reserve(bytes).expect("address space");
    let (map, cpu) = (memory.direct_map(), SingleCpu::new());
    // SAFETY: the mapping is fresh, so zero, page-aligned and not shared, and stays as long as
    // the allocator.
    let zeroed = unsafe { ZeroedMemory::from_zeroed(metadata.start(), metadata.bytes()) };
    // SAFETY: the frames are a fresh mapping that no other code uses, and `map` covers it.
    let buddy = unsafe { Buddy::new_in(zeroed, &ranges, map, cpu, Mode::Cached) };
    let buddy = Counted::new(buddy.expect("good frames"));
    let kmalloc = Kmalloc::new(Registry::new(&buddy, SingleCpu::new()).expect("room"));
    let page = |pages| layout(pages * PAGE_SIZE, 8);
    let mut start = kmalloc.allocate(page(9)).expect("room");
    // Directly behind `start`, so that `start` cannot grow in place.
    let behind = kmalloc.allocate(page(9)).expect("room");
    let (mut moves, mut pages) = (0, 9);
    while pages < 48 {
        // SAFETY: ours, of that many pages.
        unsafe { Pattern(1).fill(start, pages * PAGE_SIZE) };
        // SAFETY: allocated with this layout, replaced by the returned address.
        let grown = unsafe { kmalloc.reallocate(start, page(pages), (pages + 3) * PAGE_SIZE) };
        let grown = grown.expect("room");
        // SAFETY: the content was kept.
        assert!(unsafe { Pattern(1).is_in(grown, pages * PAGE_SIZE) });
        moves += usize::from(grown != start);
        (start, pages) = (grown, pages + 3);
        assert_eq!(kmalloc.large_pages(), pages + 9, "free pages behind a run do not count");
    }
    assert_eq!(moves, 1, "it moved to a place with 64 free pages");
    // SAFETY: ours, and not used any more.
    unsafe { kmalloc.free(start) };
    // SAFETY: ours, and not used any more.
    unsafe { kmalloc.free(behind) };
    kmalloc.shrink_all();
    drop(kmalloc);
    assert_eq!(buddy.held_pages(), 0, "all pages are returned");
}
