//! Two CPUs that free the same block at the same moment both pass the check of its tag. The bits
//! reveal the double free when the second slot returns the block, and no frame is credited twice.
//! With checked frees one of the two calls returns a fault.
#![cfg(not(loom))]

mod common;

use std::ptr::{NonNull, without_provenance_mut};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use buddy::{Buddy, Mode};
use common::{Metadata, ROOT, Simulated, range};
use hosted::Threads;
use page_frame::{
    CpuId, DirectMap, Fault, FaultKind, FrameNumber, Order, PAGE_SIZE, PageMap, PageResize,
    SwitchedCpu,
};

/// Number of double frees that the hook received.
static DOUBLE_FREES: AtomicUsize = AtomicUsize::new(0);

fn count(fault: &Fault) {
    assert_eq!(fault.kind, FaultKind::DoubleFree);
    DOUBLE_FREES.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn a_block_freed_by_two_cpus_at_once_is_reported_at_the_drain_and_credited_once() {
    let cpus = SwitchedCpu::new(2);
    let frames = [range(0, 4096)];
    let layout = Buddy::<DirectMap, &SwitchedCpu>::metadata_layout(&frames, 2).expect("frames");
    let metadata = Metadata::new(layout);
    let root = NonNull::new(without_provenance_mut(ROOT)).expect("not zero");
    // SAFETY: no pointer of the map is used.
    let map = unsafe { DirectMap::from_root(root, FrameNumber::new(0)) };
    // SAFETY: the frames are numbers, and no pointer to them is used.
    let buddy = unsafe { Buddy::new_in(metadata.memory(), &frames, map, &cpus, Mode::Cached) };
    let buddy = buddy.expect("good frames").with_fault_hook(count);

    for order in [0, 1, 5].map(|order| Order::new(order).expect("small")) {
        let before = DOUBLE_FREES.load(Ordering::Relaxed);
        let block = buddy.allocate_frames(order).expect("free");
        for cpu in 0..2 {
            cpus.switch_to(Some(CpuId::new(cpu)));
            let address = ROOT + block.get() * PAGE_SIZE;
            let start = NonNull::new(without_provenance_mut(address)).expect("not zero");
            // SAFETY: the second time this restores the tag that the other CPU saw before the first
            // one cleared it.
            unsafe { buddy.clear_owner(start, order) };
            // SAFETY: the second time it is a double free; the frames are numbers.
            unsafe { buddy.free_frames(block, order) }.expect("the tag says allocated");
        }
        buddy.drain();
        assert_eq!(DOUBLE_FREES.load(Ordering::Relaxed), before + 1, "{order:?}");
        assert_eq!(buddy.free_frames_count(), 4096, "{order:?}: each frame is free once");
        buddy.validate().expect("consistent");
    }
}

/// Number of faults of checked frees that the hook received.
static RUNS_FREED_TWICE: AtomicUsize = AtomicUsize::new(0);

fn count_run(fault: &Fault) {
    assert_eq!(fault.kind, FaultKind::DoubleFree);
    RUNS_FREED_TWICE.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn of_two_checked_frees_of_one_block_at_once_one_returns_a_fault() {
    const ROUNDS: usize = 400;
    let buddy = Simulated::new(&[range(0, 4096)], Threads, Mode::Cached).checked_free();
    let both = Barrier::new(2);
    let block = AtomicUsize::new(0);
    let orders = [0, 1, 5, 6, 9, 10].map(|order| Order::new(order).expect("valid"));
    let free = |is_first: bool| {
        let mut served = 0;
        for round in 0..ROUNDS {
            let order = orders[round % orders.len()];
            if is_first {
                let fresh = buddy.allocate_frames(order).expect("free");
                block.store(fresh.get(), Ordering::Relaxed);
            }
            both.wait();
            match buddy.free_frames(FrameNumber::new(block.load(Ordering::Relaxed)), order) {
                Ok(()) => served += 1,
                Err(fault) => assert_eq!(fault.kind, FaultKind::DoubleFree, "{order:?}"),
            }
            both.wait();
        }
        served
    };
    let served: usize = std::thread::scope(|scope| {
        let threads = [true, false].map(|is_first| scope.spawn(move || free(is_first)));
        threads.map(|thread| thread.join().expect("no panic")).iter().sum()
    });
    assert_eq!(served, ROUNDS, "each block is freed once");
    buddy.drain();
    assert_eq!(buddy.free_frames_count(), 4096);
    buddy.validate().expect("consistent");
}

#[test]
fn of_two_checked_frees_of_one_run_at_once_one_reports_a_fault() {
    const ROUNDS: usize = 400;
    let buddy = Simulated::new(&[range(0, 4096)], Threads, Mode::Cached).checked_free();
    let buddy = buddy.with_fault_hook(count_run);
    let both = Barrier::new(2);
    let run = AtomicUsize::new(0);
    let free = |is_first: bool| {
        for round in 0..ROUNDS {
            let pages = [1, 3, 70, 700][round % 4];
            if is_first {
                let fresh = buddy.allocate_run(pages, Order::ZERO).expect("free");
                run.store(fresh.start().addr().get(), Ordering::Relaxed);
            }
            both.wait();
            let start = NonNull::new(without_provenance_mut(run.load(Ordering::Relaxed)));
            // SAFETY: one of the two threads owns the run. The free of the other is the misuse
            // under test, and frames are numbers.
            unsafe { buddy.free_run(start.expect("not zero"), pages) };
            both.wait();
        }
    };
    std::thread::scope(|scope| {
        let threads = [true, false].map(|is_first| scope.spawn(move || free(is_first)));
        threads.map(|thread| thread.join().expect("no panic"))
    });
    assert_eq!(RUNS_FREED_TWICE.load(Ordering::Relaxed), ROUNDS, "each run is freed once");
    buddy.drain();
    assert_eq!(buddy.free_frames_count(), 4096);
    buddy.validate().expect("consistent");
}
