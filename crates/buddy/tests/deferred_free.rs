//! Deferred frees: when an area is reconciled without a drain, how many frames searches miss until
//! then, and that no request fails while deferred frees could serve it.
#![cfg(not(loom))]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{NonNull, without_provenance_mut};

use buddy::{Marks, Mode, NodeZone, Request, Trace, Watermarks, ZoneKind, ZoneList};
use common::{Simulated, range};
use page_frame::{
    CpuId, FaultKind, FrameNumber, Order, PAGE_SIZE, PageMap, PageSource, SwitchedCpu,
};
use testkit::Random;

const AREA: usize = 512;
/// Maximum number of deferred frames of an area.
const MAX_DEFERRED: usize = 63;

fn order(order: u8) -> Order {
    Order::new(order).expect("a valid order")
}

/// Allocates all blocks of `size` in a context without a slot, so that no block is cached.
fn take_all<T: Trace>(
    buddy: &Simulated<&SwitchedCpu, T>,
    cpus: &SwitchedCpu,
    size: Order,
) -> Vec<FrameNumber> {
    cpus.switch_to(None);
    std::iter::from_fn(|| buddy.allocate_frames(size).ok()).collect()
}

fn shuffle(blocks: &mut [FrameNumber], seed: u64) {
    let mut random = Random::new(seed);
    (1..blocks.len()).for_each(|index| blocks.swap(index, random.below(index + 1)));
}

/// Frees all blocks in random order on a CPU whose slot caches none of them, so that all are
/// deferred.
#[test]
fn an_area_is_known_to_be_empty_when_its_last_block_is_deferred() {
    let cpus = SwitchedCpu::new(1);
    for (size, seed) in [(0, 1), (1, 2), (2, 3)] {
        let buddy = Simulated::new(&[range(0, 8 * AREA)], &cpus, Mode::Cached);
        let mut blocks = take_all(&buddy, &cpus, order(size));
        shuffle(&mut blocks, seed);
        cpus.switch_to(Some(CpuId::new(0)));
        let mut in_use = [AREA; 8];
        for block in blocks {
            buddy.free_frames(block, order(size)).expect("allocated");
            in_use[block.get() / AREA] -= 1 << size;
            let counts = buddy.free_counts();
            let known = counts[9..].iter().zip([1, 2, 4, 8]);
            let known: usize = known.map(|(count, areas)| count * areas).sum();
            assert_eq!(known, in_use.iter().filter(|frames| **frames == 0).count());
            let free = 8 * AREA - in_use.iter().sum::<usize>();
            let seen = buddy.free_frames_count();
            assert!(seen <= free && free <= seen + 8 * MAX_DEFERRED, "{seen} of {free} are seen");
        }
        buddy.validate().expect("consistent");
        assert_eq!(buddy.free_frames_count(), 8 * AREA, "nothing had to be drained");
    }
}

#[test]
fn the_only_frame_in_use_of_an_area_is_not_deferred() {
    let cpus = SwitchedCpu::new(1);
    let buddy = Simulated::new(&[range(0, 2 * AREA)], &cpus, Mode::Cached);
    let frame = buddy.allocate_as(Order::ZERO, buddy::Mobility::Movable).expect("free");
    cpus.switch_to(Some(CpuId::new(0)));
    buddy.free_frames(frame, Order::ZERO).expect("allocated");
    assert_eq!(buddy.free_frames_count(), 2 * AREA);
}

#[test]
fn direct_frees_count_towards_an_empty_area() {
    let cpus = SwitchedCpu::new(1);
    let buddy = Simulated::new(&[range(0, AREA)], &cpus, Mode::Cached);
    cpus.switch_to(None);
    let large = buddy.allocate_frames(order(8)).expect("free");
    let small = take_all(&buddy, &cpus, Order::ZERO);
    cpus.switch_to(Some(CpuId::new(0)));
    for frame in small {
        buddy.free_frames(frame, Order::ZERO).expect("allocated");
    }
    cpus.switch_to(None);
    buddy.free_frames(large, order(8)).expect("allocated");
    assert_eq!(buddy.largest_free(), Some(order(9)), "no drain was needed");
}

#[test]
fn deferred_frees_are_found_before_a_request_fails() {
    let cpus = SwitchedCpu::new(1);
    let buddy = Simulated::new(&[range(0, 4 * AREA)], &cpus, Mode::Cached);
    let mut frames = take_all(&buddy, &cpus, Order::ZERO);
    shuffle(&mut frames, 4);
    cpus.switch_to(Some(CpuId::new(0)));
    for frame in &frames[..100] {
        buddy.free_frames(*frame, Order::ZERO).expect("allocated");
        let twice = buddy.free_frames(*frame, Order::ZERO).expect_err("free already");
        assert_eq!(twice.kind, FaultKind::DoubleFree);
    }
    assert!(buddy.free_frames_count() < 100, "some are deferred");
    buddy.validate().expect("consistent");
    let mut again = take_all(&buddy, &cpus, Order::ZERO);
    again.sort_unstable();
    frames.truncate(100);
    frames.sort_unstable();
    assert_eq!(again, frames);
}

/// The watermark of a zone refuses a request, although enough frames are free: they are deferred.
#[test]
fn a_zone_is_reconciled_before_its_reserve_is_refused() {
    let cpus = SwitchedCpu::new(1);
    let marks = Marks { min: 20, low: 22, high: 24 };
    let watermarks: Watermarks = Watermarks::new(4 * AREA, marks, |_| ());
    let buddy = Simulated::new(&[range(0, 4 * AREA)], &cpus, Mode::Cached).traced(&watermarks);
    let mut frames = take_all(&buddy, &cpus, Order::ZERO);
    shuffle(&mut frames, 5);
    cpus.switch_to(Some(CpuId::new(0)));
    for frame in &frames[..100] {
        buddy.free_frames(*frame, Order::ZERO).expect("allocated");
    }
    assert!(watermarks.free_frames() < 20, "{} are counted", watermarks.free_frames());
    let zones = [NodeZone { node: 0, kind: ZoneKind::Normal, buddy: &*buddy }];
    let zones = ZoneList::new(&zones).expect("one zone");
    let allocate = || zones.source(Request::default()).allocate(Order::ZERO).ok();
    let served = std::iter::from_fn(allocate).map(|block| _ = block.into_raw()).count();
    // The count of the watermarks is off by less than half of `min`.
    assert!(served > 70, "{served} were served");
}

/// A fault hook that panics, as the default one does, does not prevent a later reconciliation.
#[test]
fn an_area_can_be_reconciled_after_a_double_free_in_it_was_reported() {
    let cpus = SwitchedCpu::new(2);
    let buddy = Simulated::new(&[range(0, 4 * AREA)], &cpus, Mode::Cached);
    let frame = buddy.allocate_frames(Order::ZERO).expect("free");
    buddy.free_frames(frame, Order::ZERO).expect("into the first CPU's slot");
    let address = common::ROOT + frame.get() * PAGE_SIZE;
    let start = NonNull::new(without_provenance_mut(address)).expect("not zero");
    // SAFETY: the tag is what the second CPU saw just before the first one cleared it.
    unsafe { buddy.clear_owner(start, Order::ZERO) };
    cpus.switch_to(Some(CpuId::new(1)));
    buddy
        .free_frames(frame, Order::ZERO)
        .expect("the tag says allocated, so the block is deferred");
    assert!(catch_unwind(AssertUnwindSafe(|| buddy.drain())).is_err(), "reported");
    cpus.switch_to(None);
    let other = buddy.allocate_frames(Order::ZERO).expect("free");
    assert_eq!(other.get() / AREA, frame.get() / AREA);
    cpus.switch_to(Some(CpuId::new(1)));
    buddy.free_frames(other, Order::ZERO).expect("allocated");
    buddy.drain();
    assert_eq!(buddy.free_frames_count(), 4 * AREA);
    buddy.validate().expect("consistent");
}
