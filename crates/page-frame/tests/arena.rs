//! Blocks and runs of an arena, and misuse that it detects.

use std::alloc::Layout;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use page_frame::{
    Arena, FaultKind, Order, PAGE_SIZE, PageBlock, PageMap, PageResize, PageSource, Tag,
};
use testkit::Random;

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

/// What one allocation of a history came from.
enum Kind {
    Block(Order),
    Run(usize),
    Bytes,
}

/// Blocks, runs and bytes of a small arena, at random: no two overlap, and everything comes back.
#[test]
fn pages_and_bytes_of_a_small_arena_share_its_memory() {
    let order = |number: usize| Order::new(number as u8).expect("small");
    for (seed, bytes) in [9_000, 40_000, 300_000].into_iter().enumerate() {
        let mut memory = memory(bytes);
        let arena = Arena::new(&mut memory).expect("large enough");
        let source = arena.byte_source().expect("a small memory");
        let mut random = Random::new(seed as u64 + 1);
        let mut live: Vec<(usize, usize, NonNull<u8>, Kind)> = Vec::new();
        for _ in 0..4000 {
            if random.below(5) < 3 {
                let made = match random.below(6) {
                    0 => arena.allocate(order(random.below(3))).ok().map(|block| {
                        let (start, order) = block.into_raw();
                        (start, order.bytes(), Kind::Block(order))
                    }),
                    1 => arena
                        .allocate_run(1 + random.below(5), Order::ZERO)
                        .ok()
                        .map(|run| (run.start(), run.pages() * PAGE_SIZE, Kind::Run(run.pages()))),
                    _ => {
                        let layout =
                            Layout::from_size_align(random.below(700), 1 << random.below(9));
                        let layout = layout.expect("small");
                        source.allocate_bytes(layout).ok().map(|start| {
                            assert_eq!(start.addr().get() % layout.align(), 0);
                            (start, layout.size().max(1), Kind::Bytes)
                        })
                    }
                };
                let Some((start, length, kind)) = made else { continue };
                let (first, end) = (start.addr().get(), start.addr().get() + length);
                let overlaps =
                    live.iter().any(|(other, other_end, ..)| first < *other_end && *other < end);
                assert!(!overlaps, "memory in use was allocated again");
                live.push((first, end, start, kind));
            } else if !live.is_empty() {
                let (first, _, start, kind) = live.swap_remove(random.below(live.len()));
                match kind {
                    Kind::Block(order) => {
                        // SAFETY: no bytes start here, so nothing changes.
                        assert!(unsafe { source.free_at(start) }.is_err());
                        // SAFETY: clauses 1 to 3: allocated here and taken apart.
                        let block = unsafe { PageBlock::from_raw(start, order, false) };
                        // SAFETY: from this arena, not in use.
                        unsafe { arena.free(block) };
                    }
                    Kind::Run(pages) => {
                        // SAFETY: no bytes start here, so nothing changes.
                        assert!(unsafe { source.free_at(start) }.is_err());
                        // SAFETY: from this arena, not in use.
                        unsafe { arena.free_run(start, pages) };
                    }
                    Kind::Bytes => {
                        assert_eq!(source.bytes_at(first + 1), Err(FaultKind::InteriorPointer));
                        // SAFETY: from this source, not in use.
                        assert_eq!(unsafe { source.free_at(start) }, Ok(()));
                        assert_eq!(source.bytes_at(first), Err(FaultKind::DoubleFree));
                    }
                }
            }
            arena.validate().expect("consistent");
            let byte_pages = |(first, end, _, kind): &(usize, usize, NonNull<u8>, Kind)| match kind
            {
                Kind::Bytes => Some(first / PAGE_SIZE..=(end - 1) / PAGE_SIZE),
                _ => None,
            };
            let pages: std::collections::HashSet<usize> =
                live.iter().filter_map(byte_pages).flatten().collect();
            let whole = pages.iter().filter(|page| arena.contains(**page * PAGE_SIZE)).count();
            assert_eq!(source.byte_pages(), whole);
        }
        for (_, _, start, kind) in live {
            match kind {
                Kind::Block(order) => {
                    // SAFETY: clauses 1 to 3: allocated here and taken apart.
                    let block = unsafe { PageBlock::from_raw(start, order, false) };
                    // SAFETY: from this arena, not in use.
                    unsafe { arena.free(block) };
                }
                // SAFETY: from this arena, not in use.
                Kind::Run(pages) => unsafe { arena.free_run(start, pages) },
                // SAFETY: from this source, not in use.
                Kind::Bytes => assert_eq!(unsafe { source.free_at(start) }, Ok(())),
            }
        }
        assert_eq!((arena.free_bytes(), arena.free_pages()), (arena.bytes(), arena.pages()));
    }
}
