//! Two CPUs that free the same block at the same moment both pass the check of its tag. The bits tell when the second one comes
//! home, and nothing is credited twice.
#![cfg(not(loom))]

mod common;

use std::alloc::alloc_zeroed;
use std::ptr::{NonNull, without_provenance_mut};
use std::sync::atomic::{AtomicUsize, Ordering};

use buddy::{Buddy, Mode};
use common::range;
use page_frame::{CpuId, DirectMap, Fault, FaultKind, FrameNumber, Order, PageMap, SwitchedCpu};

/// How many double frees the hook has heard of.
static DOUBLE_FREES: AtomicUsize = AtomicUsize::new(0);

fn count(fault: &Fault) {
    assert_eq!(fault.kind, FaultKind::DoubleFree);
    DOUBLE_FREES.fetch_add(1, Ordering::Relaxed);
}

/// Where frame 0 would be.
const ROOT: usize = 1 << 40;

#[test]
fn a_block_freed_by_two_cpus_at_once_is_reported_at_write_back_and_credited_once() {
    let cpus = SwitchedCpu::new(2);
    let frames = [range(0, 4096)];
    let layout = Buddy::<DirectMap, &SwitchedCpu>::metadata_layout(&frames, 2).expect("frames");
    // SAFETY: the layout is not empty.
    let metadata = NonNull::new(unsafe { alloc_zeroed(layout) }).expect("memory");
    let root = NonNull::new(without_provenance_mut(ROOT)).expect("not zero");
    // SAFETY: no pointer of the map is used.
    let map = unsafe { DirectMap::from_root(root, FrameNumber::new(0)) };
    // SAFETY: the metadata is zero and leaked; the frames are numbers.
    let buddy = unsafe { Buddy::new_in(metadata, &frames, map, &cpus, Mode::Cached) };
    let buddy = buddy.expect("good frames").with_fault_hook(count);

    for order in [0, 1, 5].map(|order| Order::new(order).expect("small")) {
        let before = DOUBLE_FREES.load(Ordering::Relaxed);
        let block = buddy.allocate_frames(order).expect("free");
        for cpu in 0..2 {
            cpus.switch_to(Some(CpuId::new(cpu)));
            let address = ROOT + block.get() * page_frame::PAGE_SIZE;
            let start = NonNull::new(without_provenance_mut(address)).expect("not zero");
            // SAFETY: the second time the tag is what the other CPU saw just before the first one cleared it.
            unsafe { buddy.clear_owner(start, order) };
            buddy.free_frames(block, order).expect("the tag says allocated");
        }
        buddy.drain();
        assert_eq!(DOUBLE_FREES.load(Ordering::Relaxed), before + 1, "{order:?}");
        assert_eq!(buddy.free_frames_count(), 4096, "{order:?}: each frame is free once");
        buddy.validate().expect("consistent");
    }
}
