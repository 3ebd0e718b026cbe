//! Frees of any number: they are faults, and never free a block that is held by address.

use std::mem::MaybeUninit;

use buddy::{FrameAllocator, Mode, ZeroedMemory};
use page_frame::{FrameNumber, Order, SwitchedCpu};
use testkit::{Random, steps};

use crate::common::range;

/// Random numbers of present and absent frames: a free is a fault, or frees an allocated block.
#[test]
fn frees_of_any_number_leave_the_allocator_whole() {
    let frames = [range(5, 3000), range(5000, 5100)];
    let cpus = SwitchedCpu::new(2);
    let layout = FrameAllocator::<&SwitchedCpu>::metadata_layout(&frames, 2).expect("good");
    let mut buffer = vec![MaybeUninit::uninit(); layout.size() + 64];
    let memory = ZeroedMemory::zero(&mut buffer);
    let frames = FrameAllocator::new_in(memory, &frames, &cpus, Mode::Cached).expect("enough");
    let mut random = Random::new(9);
    let far = [usize::MAX, usize::MAX - 1, usize::MAX >> 12, 1 << 40, 0, 3000, 4999, 5100];
    let (mut freed, mut faults) = (0, 0);
    for _ in 0..steps(20_000) {
        cpus.switch_to(Some(page_frame::CpuId::new(random.below(2) as u32)));
        let order = Order::new(random.below(Order::COUNT) as u8).expect("valid");
        let number = match random.one_in(20) {
            true => far[random.below(far.len())],
            false => random.below(5200),
        };
        let small = Order::new(random.below(4) as u8).expect("valid");
        match random.below(4) {
            0 => _ = frames.allocate_frames(small),
            1 => _ = frames.allocate_at(FrameNumber::new(number), small),
            2 => _ = frames.try_allocate_at(FrameNumber::new(number), order),
            _ => {
                match frames.free_frames(FrameNumber::new(number), [small, order][random.below(2)])
                {
                    Ok(()) => freed += 1,
                    Err(_) => faults += 1,
                }
            }
        }
        let _ = frames.mobility_at(FrameNumber::new(number));
    }
    assert!(freed > 100 && faults > 100, "{freed} frees, {faults} faults");
    frames.drain();
    frames.validate().expect("consistent");
    let held: usize = frames
        .blocks()
        .filter(|block| block.state != buddy::BlockState::Free)
        .map(|block| block.frames)
        .sum();
    assert_eq!(frames.free_frames_count() + held, frames.frames());
}
