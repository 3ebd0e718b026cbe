//! Many blocks at once, blocks at a given frame, blocks of a mobility, and the statistics that show
//! them.
#![cfg(not(loom))]

mod common;

use std::collections::BTreeSet;

use buddy::{Mobility, Mode};
use common::{Simulated, range};
use page_frame::{CpuId, FaultKind, FrameNumber, Order, SingleCpu, SwitchedCpu};
use testkit::steps;

fn order(order: u8) -> Order {
    Order::new(order).expect("a valid order")
}

#[test]
fn many_blocks_are_distinct_and_can_all_be_freed() {
    for mode in [Mode::Cached, Mode::Plain] {
        for (size, wanted, there) in [(0, 3000, 2048), (3, 100, 100), (9, 9, 4), (10, 3, 2)] {
            let buddy = Simulated::new(&[range(0, 2048)], SingleCpu::new(), mode);
            let initial = buddy.free_counts();
            let mut blocks = vec![FrameNumber::new(0); wanted];
            let had = buddy.allocate_many(order(size), &mut blocks);
            assert_eq!(had, there, "order {size}");
            let frames = |block: &FrameNumber| block.get()..block.get() + (1 << size);
            let frames: BTreeSet<_> = blocks[..had].iter().flat_map(frames).collect();
            assert_eq!(frames.len(), there << size, "no frame twice");
            buddy.free_many(order(size), &blocks[..had]).expect("all allocated");
            let twice = buddy.free_many(order(size), &blocks[..1]).expect_err("free already");
            assert_eq!(twice.kind, FaultKind::DoubleFree);
            buddy.drain();
            assert_eq!(buddy.free_counts(), initial);
            buddy.validate().expect("consistent");
        }
    }
}

#[test]
fn a_fault_among_many_does_not_stop_the_rest() {
    let buddy = Simulated::new(&[range(0, 512)], SingleCpu::new(), Mode::Cached);
    let mut blocks = [FrameNumber::new(0); 3];
    assert_eq!(buddy.allocate_many(order(2), &mut blocks), 3);
    let list = [blocks[0], FrameNumber::new(9999), blocks[1], blocks[0], blocks[2]];
    let fault = buddy.free_many(order(2), &list).expect_err("two faults");
    assert_eq!(
        (fault.kind, fault.frame()),
        (FaultKind::ForeignPointer, Some(FrameNumber::new(9999)))
    );
    buddy.drain();
    assert_eq!(buddy.free_frames_count(), 512);
}

#[test]
fn a_block_at_a_frame_is_allocated_exactly_if_all_of_it_is_free() {
    let cpus = SwitchedCpu::new(2);
    let buddy = Simulated::new(&[range(0, 4096)], &cpus, Mode::Cached);
    let one = buddy.allocate_frames(Order::ZERO).expect("free");
    let beside = FrameNumber::new(one.get() ^ 1);
    cpus.switch_to(Some(CpuId::new(1)));
    buddy.allocate_at(beside, Order::ZERO).expect("the other CPU's slot is taken over");
    assert!(buddy.allocate_at(beside, Order::ZERO).is_err(), "twice");
    for (frame, size) in [(1024, 10), (512, 9), (128, 5), (2048, 11)] {
        let frame = FrameNumber::new(frame);
        buddy.allocate_at(frame, order(size)).expect("free");
        assert!(buddy.allocate_at(frame, Order::ZERO).is_err(), "inside");
        buddy.free_frames(frame, order(size)).expect("allocated above");
        buddy.allocate_at(frame, order(size)).expect("free again, if only in a slot");
    }
    for (frame, size) in [(3, 1), (4096, 0), (2048, 12), (usize::MAX, 0), (0, 9)] {
        assert!(buddy.allocate_at(FrameNumber::new(frame), order(size)).is_err(), "{frame} {size}");
    }
    buddy.validate().expect("consistent");
}

#[test]
fn movable_blocks_stay_out_of_the_way_of_unmovable_ones() {
    let buddy = Simulated::new(&[range(0, 256 * 512)], SingleCpu::new(), Mode::Cached);
    let mut by_mobility = [const { Vec::new() }; 3];
    for _ in 0..steps(3000) {
        for mobility in Mobility::ALL {
            for size in [0, 2] {
                let block = buddy.allocate_as(order(size), mobility).expect("room");
                by_mobility[mobility as usize].push((block, order(size)));
            }
        }
    }
    let areas = |mobility: Mobility| -> BTreeSet<_> {
        by_mobility[mobility as usize].iter().map(|(block, _)| block.get() / 512).collect()
    };
    let [unmovable, reclaimable, movable] = Mobility::ALL.map(areas);
    assert!(unmovable.is_disjoint(&movable) && unmovable.is_disjoint(&reclaimable));
    assert!(movable.is_disjoint(&reclaimable));
    let counts = buddy.free_counts_by_mobility();
    let by_order: Vec<usize> =
        (0..Order::COUNT).map(|at| counts.iter().map(|counts| counts[at]).sum()).collect();
    assert_eq!(by_order, buddy.free_counts());
    assert!(counts[Mobility::Movable as usize].iter().any(|count| *count > 0));
    // After all movable blocks are freed, each of their areas is empty.
    let [fixed, reclaimable, movable] = by_mobility;
    for (block, size) in movable {
        buddy.free_frames(block, size).expect("ours");
    }
    buddy.drain();
    let used = (fixed.len() + reclaimable.len()).div_ceil(2) * 5;
    assert!(buddy.free_counts()[9..].iter().sum::<usize>() > 0);
    let whole = buddy.fragmentation(order(9)).fitting_blocks;
    assert!(whole + used / 512 + 8 >= 256, "{whole} areas free, {used} frames in use");
}

#[test]
fn fragmentation_tells_short_memory_from_fragmented_memory() {
    let buddy = Simulated::new(&[range(0, 512)], SingleCpu::new(), Mode::Plain);
    let all = buddy.fragmentation(order(4));
    assert_eq!((all.unusable(), all.index(), all.fitting_blocks), (0, None, 32));
    let frames: Vec<_> =
        (0..512).map(|_| buddy.allocate_frames(Order::ZERO).expect("free")).collect();
    let none = buddy.fragmentation(order(4));
    assert_eq!((none.unusable(), none.index()), (1000, Some(0)));
    for frame in frames.iter().filter(|frame| frame.get() % 2 == 0) {
        buddy.free_frames(*frame, Order::ZERO).expect("ours");
    }
    let pieces = buddy.fragmentation(order(4));
    assert_eq!(pieces.unusable(), 1000);
    assert!(pieces.index().is_some_and(|index| index > 900), "{pieces:?}");
}
