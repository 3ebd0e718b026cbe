//! Hooks that panic: that of the watermarks, and that of faults.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use buddy::{Marks, Mode, Pressure, Watermarks};
use page_frame::{CpuId, Order, PAGE_SIZE, PageMap, SwitchedCpu, Tag};

use crate::common::{ROOT, Simulated, range};
use crate::traces::quietly;

const FRAMES: usize = 16 * 512;

fn order(order: u8) -> Order {
    Order::new(order).expect("a valid order")
}

/// A hook that panics once: afterwards the watermarks count what the buddy has.
/// Mutation seen to fail: `Watermarks::take` without its guard.
#[test]
fn watermarks_count_right_after_their_hook_has_panicked() {
    let marks = Marks { min: 20, low: 2000, high: 3000 };
    let calls = AtomicUsize::new(0);
    let hook = |_: Pressure| {
        assert!(calls.fetch_add(1, Ordering::Relaxed) != 0, "the first call panics");
    };
    for size in [0, 3, 7, 9, 10].map(order) {
        calls.store(0, Ordering::Relaxed);
        let watermarks = Watermarks::new(FRAMES, marks, hook);
        let cpus = SwitchedCpu::new(1);
        cpus.switch_to(Some(CpuId::new(0)));
        let buddy = Simulated::new(&[range(0, FRAMES)], &cpus, Mode::Cached).traced(&watermarks);
        let mut held = Vec::new();
        let mut panics = 0;
        loop {
            match quietly(|| buddy.allocate_frames(size)) {
                Some(Ok(block)) => held.push(block),
                Some(Err(_)) => break,
                None => panics += 1,
            }
        }
        assert_eq!((panics, held.len()), (1, FRAMES / size.pages()), "{size:?}");
        assert_eq!(watermarks.free_frames(), 0, "{size:?}");
        for block in held {
            buddy.free_frames(block, size).expect("allocated above");
        }
        buddy.drain();
        assert_eq!(watermarks.free_frames(), FRAMES, "{size:?}");
    }
}

/// Two CPUs free one block, and the double free is found when a slot is drained. The hook panics,
/// and the other blocks of the slot are returned. Mutation seen to fail: `FreeRestOnUnwind` without
/// its `Drop`.
#[test]
fn a_fault_hook_that_panics_while_a_slot_is_drained_loses_no_frame() {
    for size in [0, 1, 5, 7] {
        let cpus = SwitchedCpu::new(2);
        let buddy = Simulated::new(&[range(0, FRAMES)], &cpus, Mode::Cached);
        cpus.switch_to(Some(CpuId::new(0)));
        let blocks: Vec<_> =
            (0..6).map(|_| buddy.allocate_frames(order(size)).expect("free")).collect();
        let address = ROOT + blocks[0].get() * PAGE_SIZE;
        let start = NonNull::new(std::ptr::without_provenance_mut(address)).expect("not zero");
        for block in [blocks[0]].iter().chain(&blocks) {
            // SAFETY: frames are only numbers. This restores the tag that the other CPU saw before
            // the first one cleared it.
            unsafe { buddy.clear_owner(start, order(size)) };
            buddy.free_frames(*block, order(size)).expect("the tag says allocated");
        }
        // SAFETY: as above: the block is free, twice, and has no tag.
        unsafe { buddy.set_owner(start, 1, Tag::NONE, NonNull::dangling()) };
        let mut panics = 0;
        while quietly(|| buddy.drain()).is_none() {
            panics += 1;
        }
        assert_eq!(panics, 1, "order {size}: the double free is reported once");
        assert_eq!(buddy.free_frames_count(), FRAMES, "order {size}: frames are lost");
        buddy.validate().expect("consistent");
    }
}
