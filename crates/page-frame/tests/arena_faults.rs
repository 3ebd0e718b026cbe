//! Misuse of an arena and of regions: each is named, and changes nothing.
#![cfg(not(loom))]

use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};

use page_frame::{
    Arena, Order, PAGE_SIZE, PageBlock, PageMap, PageResize, PageSource, Regions, SingleCpu, Tag,
};

/// Returns the text of the panic of `misuse`.
fn fault(misuse: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(misuse)).expect_err("the misuse is refused");
    *panic.downcast::<String>().expect("a fault is a text")
}

fn moved(start: NonNull<u8>, bytes: isize) -> NonNull<u8> {
    NonNull::new(start.as_ptr().wrapping_offset(bytes)).expect("not null")
}

fn order(order: u8) -> Order {
    Order::new(order).expect("small")
}

/// Mutation that it catches: `Arena::check` that does not ask whether the page is taken (a double
/// free is called an interior pointer), or without `track_caller` (the fault names the arena).
#[test]
fn wrong_frees_of_blocks_are_named_and_change_nothing() {
    let page = PAGE_SIZE as isize;
    let mut memory = vec![MaybeUninit::uninit(); 40 * PAGE_SIZE];
    let arena = Arena::new(&mut memory).expect("large enough");
    let block = arena.allocate(order(2)).expect("room");
    let start = block.start();
    let cases = [
        ("ForeignPointer", moved(start, 1000 * page), order(2)),
        ("WrongOrder", start, order(1)),
        ("InteriorPointer", moved(start, page), order(0)),
    ];
    let free = arena.free_pages();
    for (name, place, order) in cases {
        let text = fault(|| {
            // SAFETY: not so: this is the fault.
            let wrong = unsafe { PageBlock::from_raw(place, order, false) };
            // SAFETY: as above.
            unsafe { arena.free(wrong) };
        });
        assert!(text.starts_with(name) && text.contains("arena_faults.rs"), "{text}");
        assert_eq!(arena.free_pages(), free);
        arena.validate().expect("nothing has changed");
    }
    // SAFETY: allocated above.
    unsafe { arena.free(block) };
    let text = fault(|| {
        // SAFETY: not so: it was freed before.
        let again = unsafe { PageBlock::from_raw(start, order(2), false) };
        // SAFETY: as above.
        unsafe { arena.free(again) };
    });
    assert!(text.starts_with("DoubleFree"), "{text}");
    arena.validate().expect("nothing has changed");
}

/// Mutation that it catches: `resize_run` without its check, and `page_of` without the test of the
/// alignment.
#[test]
fn wrong_runs_are_named_and_change_nothing() {
    let page = PAGE_SIZE as isize;
    let mut memory = vec![MaybeUninit::uninit(); 40 * PAGE_SIZE];
    let arena = Arena::new(&mut memory).expect("large enough");
    let run = arena.allocate_run(5, Order::ZERO).expect("room");
    let start = run.start();
    let cases = [
        ("Misaligned", moved(start, 64), 5),
        ("ForeignPointer", moved(start, 1000 * page), 5),
        ("WrongPageCount", start, 4),
        ("WrongPageCount", moved(start, page), 4),
        ("DoubleFree", moved(start, 5 * page), 5),
    ];
    for (name, place, pages) in cases {
        // SAFETY: not so: this is the fault.
        let text = fault(|| _ = unsafe { arena.resize_run(place, pages, 2) });
        assert!(text.starts_with(name), "{text}");
        // SAFETY: as above.
        let text = fault(|| unsafe { arena.free_run(place, pages) });
        assert!(text.starts_with(name), "{text}");
        arena.validate().expect("nothing has changed");
    }
    assert_eq!(arena.run_pages(start.addr().get()), Some(5));
    // SAFETY: the run is ours.
    unsafe { arena.free_run(start, 5) };
}

/// Mutation that it catches: `Arena::validate` that returns `Ok` always.
#[test]
fn validate_finds_a_tag_of_a_free_page() {
    let mut memory = vec![MaybeUninit::uninit(); 40 * PAGE_SIZE];
    let arena = Arena::new(&mut memory).expect("large enough");
    let block = arena.allocate(Order::ZERO).expect("room");
    let free = moved(block.start(), PAGE_SIZE as isize);
    // SAFETY: not so: the page is free, which is what `validate` is to find.
    unsafe { arena.set_run(free, 1) };
    let violation = arena.validate().expect_err("a free page with a tag");
    assert_eq!(violation.invariant, "I2: free pages have no tag");
    // SAFETY: as above.
    unsafe { arena.set_run(block.start(), 1) };
    // SAFETY: the block is ours; the call takes back the tag of a run.
    unsafe { arena.clear_run(block.start(), Order::ZERO) };
    assert_eq!(arena.tag(block.start().addr().get()), Tag::block(Order::ZERO));
    // SAFETY: allocated above.
    unsafe { arena.free(block) };
}

/// Each region looks after the pages in it; an address of none is refused.
///
/// Mutation that it catches: `Regions::set_run` of the first region for an address of the second.
#[test]
fn regions_keep_the_runs_of_each_region_and_name_foreign_pointers() {
    let regions = Regions::new(SingleCpu::new());
    for _ in 0..2 {
        let memory = Vec::leak(vec![MaybeUninit::<u8>::uninit(); 20 * PAGE_SIZE]);
        let start = NonNull::from(&mut memory[0]).cast();
        // SAFETY: leaked, and used by no other code.
        unsafe { regions.add(start, 20 * PAGE_SIZE) }.expect("large enough");
    }
    let blocks: Vec<_> = std::iter::from_fn(|| regions.allocate(Order::ZERO).ok()).collect();
    assert_eq!(blocks.len(), regions.pages());
    for block in [&blocks[0], &blocks[blocks.len() - 1]] {
        let (start, address) = (block.start(), block.start().addr().get());
        // SAFETY: the block is ours.
        unsafe { regions.set_run(start, 1) };
        assert_eq!((regions.tag(address), regions.run_pages(address)), (Tag::RUN, Some(1)));
        // SAFETY: as above.
        unsafe { regions.clear_run(start, Order::ZERO) };
        assert_eq!(regions.tag(address), Tag::block(Order::ZERO));
        assert_eq!(regions.pointer(address), start);
    }
    let foreign = NonNull::new(ptr::without_provenance_mut::<u8>(PAGE_SIZE)).expect("not null");
    assert_eq!(regions.pointer(PAGE_SIZE), foreign);
    assert_eq!((regions.tag(PAGE_SIZE), regions.run_pages(PAGE_SIZE)), (Tag::NONE, None));
    // SAFETY: no region has the page, so the calls change nothing.
    unsafe { regions.set_run(foreign, 1) };
    // SAFETY: as above.
    unsafe { regions.clear_run(foreign, Order::ZERO) };
    // SAFETY: not so: this is the fault.
    let text = fault(|| unsafe { regions.free_run(foreign, 1) });
    assert!(text.starts_with("ForeignPointer at 0x1000"), "{text}");
    assert!(text.contains("arena_faults.rs"), "the caller is named: {text}");
    let start = blocks[0].start();
    // SAFETY: not so: it is no run.
    let text = fault(|| unsafe { regions.free_run(start, 1) });
    assert!(text.starts_with("WrongPageCount") && text.contains("arena_faults.rs"), "{text}");
    for block in blocks {
        // SAFETY: allocated above.
        unsafe { regions.free(block) };
    }
    regions.validate().expect("nothing else has changed");
}
