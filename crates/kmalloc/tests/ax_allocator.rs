//! The byte allocator for ArceOS, through the traits of `ax-allocator` and of `axallocator`.

use std::alloc::{Layout, alloc, dealloc};

use kmalloc::KmallocByteAllocator;

const LAYOUT: Layout = match Layout::from_size_align(4 << 20, 1 << 12) {
    Ok(layout) => layout,
    Err(_) => panic!("the size of a page is a power of two"),
};

/// Runs `test` with the address of 4 MiB of memory that does not read as zero.
fn with_memory(test: impl FnOnce(usize)) {
    // SAFETY: the layout is not empty.
    let memory = unsafe { alloc(LAYOUT) };
    assert!(!memory.is_null());
    // SAFETY: fresh memory of that size.
    unsafe { memory.write_bytes(0xa5, LAYOUT.size()) };
    test(memory.expose_provenance());
    // SAFETY: allocated above, and not used any more.
    unsafe { dealloc(memory, LAYOUT) };
}

fn layout(size: usize, alignment: usize) -> Layout {
    Layout::from_size_align(size, alignment).expect("a power of two")
}

/// The tests, through the traits of one crate.
macro_rules! tests {
    ($name:ident, $ax:ident) => {
        mod $name {
            use super::*;
            use $ax::{AllocError, BaseAllocator, ByteAllocator};

            fn empty() -> KmallocByteAllocator {
                // SAFETY: clause 1: the memory of `with_memory`, which outlives the allocator.
                // Clause 2: the tests free each allocation once, and do not use it afterwards.
                unsafe { KmallocByteAllocator::new() }
            }

            #[test]
            fn memory_of_all_sizes_is_disjoint_and_comes_back() {
                with_memory(|start| {
                    let mut heap = empty();
                    heap.init(start, LAYOUT.size());
                    assert!(heap.total_bytes() > LAYOUT.size() * 9 / 10);
                    let sizes = [1, 8, 24, 100, 512, 4000, 4096, 10_000, 100_000];
                    for round in 0..3 {
                        let mut held = Vec::new();
                        for index in 0..400 {
                            let size = sizes[(index * 7 + round) % sizes.len()];
                            let layout = layout(size, 1 << (index % 9));
                            let Ok(object) = heap.alloc(layout) else { continue };
                            assert_eq!(object.addr().get() % layout.align(), 0);
                            // SAFETY: allocated memory of that size.
                            unsafe { object.write_bytes(0x5a, size) };
                            held.push((object, layout));
                        }
                        assert!(held.len() > 200, "{}", held.len());
                        held.sort_unstable_by_key(|(object, _)| object.addr());
                        for two in held.windows(2) {
                            let end = two[0].0.addr().get() + two[0].1.size();
                            assert!(end <= two[1].0.addr().get());
                        }
                        held.into_iter().for_each(|(object, layout)| heap.dealloc(object, layout));
                    }
                    assert_eq!(heap.used_bytes() + heap.available_bytes(), heap.total_bytes());
                });
            }

            #[test]
            fn requests_fail_before_the_first_region_and_when_memory_is_out() {
                with_memory(|start| {
                    let mut heap = empty();
                    let large = layout(LAYOUT.size() / 2, 8);
                    assert!(matches!(heap.alloc(large), Err(AllocError::NoMemory)));
                    assert_eq!((heap.total_bytes(), heap.used_bytes()), (0, 0));
                    heap.init(start, LAYOUT.size());
                    let first = heap.alloc(large).expect("room");
                    assert!(heap.used_bytes() >= large.size());
                    assert!(matches!(heap.alloc(large), Err(AllocError::NoMemory)));
                    heap.dealloc(first, large);
                    heap.alloc(large).expect("room again");
                });
            }

            #[test]
            fn free_objects_of_one_size_are_memory_for_another() {
                with_memory(|start| {
                    let mut heap = empty();
                    heap.init(start, 512 << 10);
                    let large = layout(heap.available_bytes() / 2, 8);
                    for _ in 0..2 {
                        for size in (1..60).map(|step| step * 32) {
                            let layout = layout(size, 8);
                            let held: Vec<_> = (0..8).flat_map(|_| heap.alloc(layout)).collect();
                            assert_eq!(held.len(), 8);
                            held.into_iter().for_each(|object| heap.dealloc(object, layout));
                        }
                        let object = heap.alloc(large).expect("the caches keep no object in use");
                        heap.dealloc(object, large);
                    }
                });
            }

            #[test]
            fn memory_is_added_unless_it_is_too_small() {
                with_memory(|start| {
                    let mut heap = empty();
                    let half = LAYOUT.size() / 2;
                    heap.init(start, half);
                    let before = heap.total_bytes();
                    for bytes in [0, 100, usize::MAX] {
                        let small = heap.add_memory(start + half, bytes);
                        assert!(matches!(small, Err(AllocError::InvalidParam)), "{bytes}");
                    }
                    assert_eq!(heap.total_bytes(), before);
                    heap.add_memory(start + half, half).expect("large enough");
                    assert!(heap.total_bytes() > before + half * 9 / 10);
                    heap.alloc(layout(half * 3 / 4, 8)).expect("room in one region");
                    heap.alloc(layout(half * 3 / 4, 8)).expect("room in the other");
                });
            }
        }
    };
}

tests!(current, ax_allocator);
tests!(former, axallocator);

/// A kernel declares the allocator as a static, behind a lock of its own.
#[test]
fn the_allocator_is_a_constant_behind_a_lock() {
    use ax_allocator::{BaseAllocator, ByteAllocator};
    // SAFETY: clauses 1 and 2: as in `empty`.
    static HEAP: std::sync::Mutex<KmallocByteAllocator> =
        std::sync::Mutex::new(unsafe { KmallocByteAllocator::new() });
    with_memory(|start| {
        let mut heap = HEAP.lock().expect("one user");
        heap.init(start, LAYOUT.size());
        assert!(heap.alloc(layout(40, 8)).is_ok());
    });
}
