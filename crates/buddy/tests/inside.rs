//! Buddies that lie in their own memory: every frame that they lend can be written, and the
//! metadata stays whole.
#![cfg(not(loom))]

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;

use buddy::{Buddy, BuildError};
use page_frame::{
    DirectMap, FrameNumber, FrameRange, Order, PAGE_SIZE, PageBlock, PageSource, SingleCpu,
};
use testkit::Random;

const FRAMES: usize = 3000;
const LAYOUT: Layout = match Layout::from_size_align(FRAMES * PAGE_SIZE, PAGE_SIZE) {
    Ok(layout) => layout,
    Err(_) => panic!("a multiple of the page size"),
};

fn range(start: usize, end: usize) -> FrameRange {
    FrameRange::new(FrameNumber::new(start), FrameNumber::new(end))
}

/// Runs `test` with memory whose first frame is `first`.
fn with_memory(first: usize, test: impl FnOnce(DirectMap)) {
    // SAFETY: the layout is not empty.
    let memory = NonNull::new(unsafe { alloc(LAYOUT) }).expect("room");
    // Not zero, as a machine's memory.
    // SAFETY: fresh memory of that size.
    unsafe { memory.write_bytes(0xa5, LAYOUT.size()) };
    // SAFETY: the memory of `FRAMES` frames from `first` on.
    test(unsafe { DirectMap::from_root(memory, FrameNumber::new(first)) });
    // SAFETY: allocated above, and not used any more.
    unsafe { dealloc(memory.as_ptr(), LAYOUT) };
}

/// Allocates everything and overwrites it; then frees it.
fn overwrite(buddy: &Buddy<'_, DirectMap, SingleCpu>, random: &mut Random) {
    for _ in 0..3 {
        let order = Order::new(random.below(4) as u8).expect("small");
        let take = || buddy.allocate(order).or_else(|_| buddy.allocate(Order::ZERO)).ok();
        let blocks: Vec<PageBlock> = std::iter::from_fn(take).collect();
        for block in &blocks {
            // SAFETY: the block is ours.
            unsafe { block.start().write_bytes(0x5a, block.pages() * PAGE_SIZE) };
        }
        buddy.validate().expect("the metadata is not lent");
        assert_eq!(buddy.free_frames_count(), 0);
        // SAFETY: clauses 1 and 2: the blocks came from this buddy, and nothing refers to them.
        blocks.into_iter().for_each(|block| unsafe { buddy.free(block) });
    }
    buddy.drain();
    buddy.validate().expect("consistent");
}

#[test]
fn random_machines_hold_their_own_metadata() {
    for seed in 1..20 {
        let mut random = Random::new(seed);
        let first = random.below(1 << 19);
        with_memory(first, |map| {
            let (mut ranges, mut next) = (Vec::new(), first);
            while next < first + FRAMES {
                let end = (next + 1 + random.below(1200)).min(first + FRAMES);
                ranges.push(range(next, end));
                next = end + [0, 100][random.below(2)];
            }
            let frames: usize = ranges.iter().map(|range| range.frames()).sum();
            // SAFETY: clauses 1 and 2: no other code uses the memory, which the map covers.
            let built = unsafe { Buddy::new_inside(&ranges, map, SingleCpu::new()) };
            let buddy = match built {
                Ok(buddy) => buddy,
                Err(error) => {
                    let largest = ranges.iter().map(|range| range.frames()).max().expect("one");
                    let given = largest * PAGE_SIZE;
                    assert!(matches!(error, BuildError::MetadataTooSmall { needed, given: found }
                        if found == given && needed + PAGE_SIZE > given));
                    return;
                }
            };
            buddy.validate().expect("consistent");
            let metadata = frames - buddy.free_frames_count();
            assert!(buddy.frames() == frames && metadata > 0 && metadata < 150);
            overwrite(&buddy, &mut random);
            assert_eq!(frames - buddy.free_frames_count(), metadata);
        });
    }
}

#[test]
fn memory_without_room_for_its_metadata_is_an_error() {
    with_memory(0, |map| {
        // SAFETY: clauses 1 and 2: no other code uses the memory, which the map covers.
        let error = unsafe { Buddy::new_inside(&[range(0, 3)], map, SingleCpu::new()) };
        let error = error.expect_err("three frames are too few");
        let given = 3 * PAGE_SIZE;
        assert!(
            matches!(error, BuildError::MetadataTooSmall { given: found, .. } if found == given)
        );
    });
}
