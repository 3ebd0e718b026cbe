//! The page allocator's traits of ArceOS, of both of its crates.

use std::alloc::{Layout, alloc, dealloc};

use buddy::BuddyPageAllocator;

const PAGE: usize = 4096;
const PAGES: usize = 1024;
const LAYOUT: Layout = match Layout::from_size_align(PAGES * PAGE, 1 << 20) {
    Ok(layout) => layout,
    Err(_) => panic!("1 MiB is a power of two"),
};

/// Runs `test` with the address of `PAGES` pages, which are not zero.
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

/// The tests, by the traits of one crate.
macro_rules! tests {
    ($name:ident, $ax:ident) => {
        mod $name {
            use super::*;
            use $ax::{AllocError, BaseAllocator, PageAllocator};

            /// Makes an allocator of the memory at `start`.
            fn pages_at(start: usize, bytes: usize) -> BuddyPageAllocator {
                // SAFETY: clause 1: the memory of `with_memory`, which outlives the allocator.
                // Clause 2: the tests free what they allocated, and do not use it.
                let mut pages = unsafe { BuddyPageAllocator::new() };
                pages.init(start, bytes);
                pages
            }

            /// Writes to all of the pages: they are there, and hold no metadata.
            fn fill(start: usize, pages: usize) {
                let pointer: *mut u8 = std::ptr::with_exposed_provenance_mut(start);
                // SAFETY: allocated pages of `with_memory`.
                unsafe { pointer.write_bytes(0x5a, pages * PAGE) };
            }

            #[test]
            fn all_pages_are_allocated_and_come_back_in_parts() {
                with_memory(|start| {
                    let mut pages = pages_at(start, LAYOUT.size());
                    let available = pages.available_pages();
                    assert!(available > PAGES - 20, "{available} of {PAGES}");
                    assert_eq!(pages.total_pages(), PAGES);
                    assert_eq!(pages.used_pages(), PAGES - available);
                    let mut held = Vec::new();
                    for count in (1..60).cycle() {
                        let Ok(first) = pages.alloc_pages(count, PAGE) else { break };
                        assert!(first >= start && first + count * PAGE <= start + LAYOUT.size());
                        fill(first, count);
                        held.push((first, count));
                    }
                    while let Ok(first) = pages.alloc_pages(1, PAGE) {
                        fill(first, 1);
                        held.push((first, 1));
                    }
                    assert_eq!(pages.available_pages(), 0);
                    assert!(matches!(pages.alloc_pages(1, PAGE), Err(AllocError::NoMemory)));
                    held.sort_unstable();
                    assert!(held.windows(2).all(|two| two[0].0 + two[0].1 * PAGE <= two[1].0));
                    for (first, count) in held {
                        pages.dealloc_pages(first, count / 2);
                        pages.dealloc_pages(first + count / 2 * PAGE, count - count / 2);
                    }
                    assert_eq!(pages.available_pages(), available);
                });
            }

            #[test]
            fn alignments_are_bytes_and_are_met() {
                with_memory(|start| {
                    let mut pages = pages_at(start, LAYOUT.size());
                    for alignment in (12..=20).map(|bit| 1 << bit) {
                        let first = pages.alloc_pages(3, alignment).expect("room");
                        assert_eq!(first % alignment, 0);
                        pages.dealloc_pages(first, 3);
                    }
                    for wrong in [0, 1, PAGE / 2, 3 * PAGE, usize::MAX / 4 + 1] {
                        let refused = pages.alloc_pages(1, wrong);
                        assert!(matches!(refused, Err(AllocError::InvalidParam)), "{wrong}");
                    }
                    assert!(matches!(pages.alloc_pages(0, PAGE), Err(AllocError::InvalidParam)));
                });
            }

            #[test]
            fn pages_at_an_address_are_those_or_none() {
                with_memory(|start| {
                    let mut pages = pages_at(start, LAYOUT.size());
                    let available = pages.available_pages();
                    let wanted = start + 100 * PAGE;
                    assert_eq!(pages.alloc_pages_at(wanted, 7, PAGE).expect("free"), wanted);
                    let taken = pages.alloc_pages_at(wanted + 6 * PAGE, 2, PAGE);
                    assert!(matches!(taken, Err(AllocError::NoMemory)));
                    let foreign = pages.alloc_pages_at(start - PAGE, 2, PAGE);
                    assert!(matches!(foreign, Err(AllocError::NoMemory)));
                    for (address, alignment) in [(start + PAGE, 2 * PAGE), (start + 8, PAGE)] {
                        let refused = pages.alloc_pages_at(address, 1, alignment);
                        assert!(matches!(refused, Err(AllocError::InvalidParam)));
                    }
                    pages.dealloc_pages(wanted, 7);
                    assert_eq!(pages.available_pages(), available);
                });
            }

            #[test]
            fn memory_is_added_rounded_and_never_twice() {
                with_memory(|start| {
                    let half = LAYOUT.size() / 2;
                    let mut pages = pages_at(start + 1, half - 1);
                    assert_eq!(pages.total_pages(), PAGES / 2 - 1);
                    pages.add_memory(start + half, half - 1).expect("other memory");
                    assert_eq!(pages.total_pages(), PAGES - 2);
                    let twice = pages.add_memory(start + half / 2, half);
                    assert!(matches!(twice, Err(AllocError::MemoryOverlap)));
                    for bytes in [0, 100, PAGE, usize::MAX] {
                        let small = pages.add_memory(start + LAYOUT.size(), bytes);
                        assert!(matches!(small, Err(AllocError::InvalidParam)), "{bytes}");
                    }
                    assert_eq!(pages.total_pages(), PAGES - 2);
                });
            }

            #[test]
            #[should_panic(expected = "DoubleFree")]
            fn a_double_free_panics() {
                with_memory(|start| {
                    let mut pages = pages_at(start, LAYOUT.size());
                    let first = pages.alloc_pages(2, PAGE).expect("room");
                    pages.dealloc_pages(first, 2);
                    pages.dealloc_pages(first, 2);
                });
            }
        }
    };
}

tests!(current, ax_allocator);
tests!(former, axallocator);

/// What a kernel declares: the allocator behind its own lock, as a static.
#[test]
fn the_allocator_is_a_constant_behind_a_lock() {
    use ax_allocator::{BaseAllocator, PageAllocator};
    // SAFETY: clauses 1 and 2: as in `pages_at`.
    static PAGES: std::sync::Mutex<BuddyPageAllocator> =
        std::sync::Mutex::new(unsafe { BuddyPageAllocator::new() });
    with_memory(|start| {
        let mut pages = PAGES.lock().expect("one user");
        assert!(pages.alloc_pages(1, PAGE).is_err());
        pages.init(start, LAYOUT.size());
        assert!(pages.alloc_pages(1, PAGE).is_ok());
    });
}
