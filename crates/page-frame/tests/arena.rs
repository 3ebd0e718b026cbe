//! Blocks and runs of an arena, and misuse that it detects.

use std::mem::MaybeUninit;

use page_frame::{Arena, Order, PAGE_SIZE, PageBlock, PageMap, PageResize, PageSource, Tag};

fn memory(bytes: usize) -> Vec<MaybeUninit<u8>> {
    vec![MaybeUninit::uninit(); bytes]
}

#[test]
fn all_pages_are_handed_out_once_and_come_back() {
    let mut memory = memory(100 * PAGE_SIZE + 77);
    let arena = Arena::new(&mut memory).expect("large enough");
    let pages = arena.pages();
    let blocks: Vec<_> = core::iter::from_fn(|| arena.allocate(Order::ZERO).ok()).collect();
    assert_eq!((blocks.len(), arena.free_pages()), (pages, 0));
    let mut starts: Vec<_> = blocks.iter().map(|block| block.start().addr()).collect();
    starts.dedup();
    assert_eq!(starts.len(), pages);
    for block in blocks {
        assert_eq!(arena.tag(block.start().addr().get()), Tag::block(Order::ZERO));
        // SAFETY: from this arena, not in use.
        unsafe { arena.free(block) };
        arena.validate().expect("consistent after each free");
    }
    assert_eq!(arena.free_pages(), pages);
}

#[test]
fn blocks_are_aligned_by_address() {
    let mut memory = memory(200 * PAGE_SIZE);
    let arena = Arena::new(&mut memory).expect("large enough");
    for order in (0..6).map(|order| Order::new(order).expect("small")) {
        let block = arena.allocate(order).expect("room for one of each");
        assert_eq!(block.start().addr().get() % order.bytes(), 0);
        // SAFETY: from this arena, not in use.
        unsafe { arena.free(block) };
    }
}

#[test]
fn runs_have_exactly_the_pages_asked_for() {
    let mut memory = memory(66 * PAGE_SIZE);
    let arena = Arena::new(&mut memory).expect("large enough");
    let pages = arena.pages();
    let run = arena.allocate_run(pages / 2 + 2, Order::ZERO).expect("more than half is free");
    assert_eq!((run.pages(), arena.free_pages()), (pages / 2 + 2, pages - pages / 2 - 2));
    let neighbour = arena.allocate(Order::ZERO).expect("room");
    // SAFETY: clauses 1 and 2: the run is ours, and nothing refers into it.
    assert!(!unsafe { arena.resize_run(run.start(), run.pages(), run.pages() + 1) }, "taken");
    // SAFETY: as above.
    assert!(unsafe { arena.resize_run(run.start(), run.pages(), 3) });
    arena.validate().expect("consistent after shrinking");
    assert_eq!(arena.run_pages(run.start().addr().get()), Some(3));
    // SAFETY: as above, with the new length.
    assert!(unsafe { arena.resize_run(run.start(), 3, 5) }, "the tail is free again");
    // SAFETY: clauses 1 and 2: ours, and not used.
    unsafe { arena.free_run(run.start(), 5) };
    // SAFETY: as above.
    unsafe { arena.free(neighbour) };
    arena.validate().expect("consistent after the frees");
    assert_eq!(arena.free_pages(), pages);
}

#[test]
#[should_panic(expected = "WrongPageCount")]
fn a_run_of_another_length_is_a_fault() {
    let mut memory = memory(20 * PAGE_SIZE);
    let arena = Arena::new(&mut memory).expect("large enough");
    let run = arena.allocate_run(3, Order::ZERO).expect("room");
    // SAFETY: breaks clause 1 on purpose; the fault comes before anything changes.
    unsafe { arena.free_run(run.start(), 4) };
}

#[test]
#[should_panic(expected = "DoubleFree")]
fn a_double_free_is_a_fault() {
    let mut memory = memory(20 * PAGE_SIZE);
    let arena = Arena::new(&mut memory).expect("large enough");
    let (start, order) = arena.allocate(Order::ZERO).expect("room").into_raw();
    for _ in 0..2 {
        // SAFETY: the second time breaks clause 1 of `free` on purpose; no memory is used.
        let block = unsafe { PageBlock::from_raw(start, order, false) };
        // SAFETY: breaks clause 1 a second time; the fault comes before anything is touched.
        unsafe { arena.free(block) };
    }
}
