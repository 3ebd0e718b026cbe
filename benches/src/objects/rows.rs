//! The rows of the `slab` table: each workload on all contestants, then the costs of our own
//! caches.

use std::ptr::NonNull;

use crate::asked::Asked;
use crate::objects::allocator::{Objects, Ours};
use crate::objects::contestant::Make;
use crate::objects::workload::Workload;
use crate::objects::{costs, rivals};
use crate::row::{FLOOR, OURS, Row};

/// Measures the layer: each workload on all contestants, then the rows about our own caches.
pub fn measure(asked: &Asked, mut each: impl FnMut(Row)) {
    let contestants = contestants();
    for workload in Workload::ALL.into_iter().filter(|it| asked.wants(&it.name())) {
        let contestants = asked.among(&contestants);
        each(Row::compare(workload.name(), contestants, asked.rounds, |_, make| {
            Some(make(workload.layout()).run(workload))
        }));
    }
    costs::measure(asked, each);
}

/// Returns ours, the harness's floor, and the rivals, by name.
pub fn contestants() -> Vec<(&'static str, Make)> {
    let mut all: Vec<(&'static str, Make)> = vec![
        (OURS, |layout| Box::new(Ours::new(1 << 30, layout, |builder| builder))),
        (FLOOR, |_| Box::new(Nothing)),
    ];
    all.extend(rivals::all());
    all
}

/// The harness without an allocator.
struct Nothing;

// SAFETY: the workloads that run on it never write to objects.
unsafe impl Objects for Nothing {
    #[inline]
    fn allocate(&self) -> NonNull<u8> {
        std::hint::black_box(NonNull::dangling())
    }

    #[inline]
    unsafe fn free(&self, object: NonNull<u8>) {
        std::hint::black_box(object);
    }
}
