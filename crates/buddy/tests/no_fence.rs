//! A machine that refuses fences, as kernels do with interrupts masked: the blocks that the
//! caller's own slot caches are found all the same.

use std::mem::MaybeUninit;

use buddy::{FrameAllocator, Mode, ZeroedMemory};
use page_frame::{Cpu, CpuId, FrameNumber, FrameRange, Order, OutOfMemory};

/// One CPU that cannot fence others.
struct NoFence;

// SAFETY: clauses 1 to 4: each test uses a value of its own in one thread. Clauses 5 and 6: the id
// is always 0 of 1. Clause 7: zero.
unsafe impl Cpu for NoFence {
    fn slots(&self) -> usize {
        1
    }
    fn pin(&self) -> Option<CpuId> {
        Some(CpuId::new(0))
    }
    unsafe fn unpin(&self) {}
    fn fence_all(&self) -> bool {
        false
    }
}

fn order(order: u8) -> Order {
    Order::new(order).expect("small")
}

fn with_frames(end: usize, test: impl FnOnce(&FrameAllocator<'_, NoFence>)) {
    let range = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(end))];
    let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    let memory = ZeroedMemory::zero(&mut memory);
    let frames = FrameAllocator::new_in(memory, &range, NoFence, Mode::Cached).expect("room");
    test(&frames);
    frames.validate().expect("consistent");
}

#[test]
fn a_larger_block_is_found_among_the_frames_that_the_own_slot_caches() {
    for frames in [4, 8, 64, 512] {
        with_frames(frames, |pool| {
            assert_eq!(pool.allocate_frames(Order::ZERO), Ok(FrameNumber::new(0)));
            let largest = frames.ilog2() as u8 - 1;
            for wanted in (1..=largest).rev() {
                let found = pool.allocate_frames(order(wanted)).expect("one such block is free");
                assert!(found.is_aligned_to(order(wanted)) && found > FrameNumber::new(0));
            }
            assert_eq!(pool.allocate_frames(Order::ZERO), Ok(FrameNumber::new(1)));
            assert_eq!(pool.allocate_frames(Order::ZERO), Err(OutOfMemory));
        });
    }
}

#[test]
fn a_named_block_is_taken_out_of_the_own_slot() {
    with_frames(64, |pool| {
        let first = pool.allocate_frames(Order::ZERO).expect("free");
        pool.free_frames(first, Order::ZERO).expect("allocated");
        pool.allocate_at(FrameNumber::new(0), order(6)).expect("all frames are free");
    });
}
