//! The types that the files of the soak share: the memory of an episode, its counts, and the
//! planned panics and interrupts.

use std::sync::atomic::{AtomicU64, Ordering};

use hosted::Threads;
use page_frame::{Limited, Reclaiming, ShrinkList};
use slab::Cache;
use testkit::{Pattern, Random};

use crate::objects::allocator::Pages;

pub(super) type Source<'w> = Reclaiming<Limited<&'w Pages>, &'w ShrinkList<2>>;
pub(super) type Kmalloc<'w, K> = kmalloc::Kmalloc<(&'w Source<'w>, Threads), K>;
pub(super) type Objects<'w, K> = Cache<(&'w Source<'w>, Threads), K>;

/// The constructed state of objects.
pub(super) const OBJECT: Pattern = Pattern(0x0b1e);

/// Counts of the current run.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) operations: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) panics: AtomicU64,
    pub(super) areas: AtomicU64,
}

impl Counts {
    pub(super) fn add(count: &AtomicU64) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// The allocator of an episode, for signal handlers.
pub(super) struct Interrupted {
    pub(super) allocator: *const (),
    pub(super) allocate_and_free: fn(*const (), u64),
}

// SAFETY: the pointer is to a `Kmalloc`, which may be shared.
unsafe impl Sync for Interrupted {}

impl Interrupted {
    pub(super) fn allocate_and_free(&self, step: u64) {
        (self.allocate_and_free)(self.allocator, step);
    }
}

/// The payload of a planned panic.
pub(super) struct Planned;

/// Panics as planned about once in `n` calls, without a report.
pub(super) fn panic_one_in(random: &mut Random, n: usize) {
    if random.one_in(n) {
        std::panic::resume_unwind(Box::new(Planned));
    }
}
