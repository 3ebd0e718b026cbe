//! A heap as the allocator of single collections, by both versions of `allocator-api2`.

use hosted::Heap;

static HEAP: Heap = Heap::new();

/// Mutations seen to fail: `grow` that allocates elsewhere; `deallocate` that does nothing.
#[test]
fn collections_of_both_versions_live_in_the_heap() {
    let held = || HEAP.kmalloc().expect("address space").pages_held();
    let before = held();
    let mut old = allocator_api2_02::vec::Vec::new_in(&HEAP);
    let mut new = allocator_api2_04::vec::Vec::new_in(&HEAP);
    for number in 0..200_000_u64 {
        old.push(number);
        new.push(number);
    }
    assert_eq!(old.iter().sum::<u64>(), new.iter().sum());
    let pages = 2 * 200_000 * 8 / page_frame::PAGE_SIZE;
    assert!(held() >= before + pages, "{} pages", held());
    old.truncate(10);
    old.shrink_to_fit();
    drop(new);
    assert!(held() < before + pages / 2, "{} pages", held());
    assert_eq!(old.len(), 10);
}
