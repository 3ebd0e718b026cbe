//! A second free of the object that was freed last is a fault and changes nothing, whatever the
//! state of the CPU slot.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::alloc::Layout;
use std::mem::MaybeUninit;

use page_frame::{Arena, Fault, FaultKind, SingleCpu};
use slab::Registry;

/// Frees `before` objects of a fresh cache and then one more, and frees that one again. The fault
/// hook must be called each time, and no object may be allocated twice afterwards.
fn free_twice_after(before: usize, size: usize) {
    static FAULTS: AtomicUsize = AtomicUsize::new(0);
    let count = |fault: &Fault| {
        assert_eq!(fault.kind, FaultKind::DoubleFree);
        FAULTS.fetch_add(1, Relaxed);
    };
    let mut memory = vec![MaybeUninit::uninit(); 4 << 20];
    let arena = Arena::new(&mut memory).expect("large enough");
    let registry = Registry::with_fault_hook(&arena, SingleCpu::new(), count).expect("room");
    let layout = Layout::from_size_align(size, 8).expect("a layout");
    let cache = registry.cache("test", layout).build().expect("fits");
    let objects: Vec<_> = (0..=before).map(|_| cache.allocate().expect("room")).collect();
    for object in &objects {
        // SAFETY: allocated above, each freed once.
        unsafe { cache.free(*object) };
    }
    let faults = FAULTS.load(Relaxed);
    for times in 1..=3 {
        // SAFETY: the bug that is looked for. The hook returns, and the free must change nothing.
        unsafe { cache.free(objects[before]) };
        assert_eq!(FAULTS.load(Relaxed), faults + times, "{before} objects of {size} before");
    }
    cache.validate().expect("consistent");
    let mut again: Vec<_> = (0..=before + 5).map(|_| cache.allocate().expect("room")).collect();
    again.sort_unstable();
    again.windows(2).for_each(|pair| assert_ne!(pair[0], pair[1], "{before} of {size}"));
    for object in again {
        // SAFETY: allocated above.
        unsafe { cache.free(object) };
    }
}

/// The numbers of frees lead from a slot without magazines to a slot with two full ones and a
/// depot.
///
/// Mutations that it catches: no comparison with the last object of a full magazine; no comparison
/// with the slab's last freed object for a slot without magazines.
#[test]
fn the_object_freed_last_is_not_freed_again() {
    for size in [16, 300, 2000] {
        (0..200).for_each(|before| free_twice_after(before, size));
    }
}
