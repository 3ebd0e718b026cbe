//! The floor: the harness without an allocator, whose times are those of the harness.

use page_frame::Order;

use crate::measure::Sample;
use crate::pages::allocator::SharedPages;
use crate::pages::contestant::{Contestant, Shared};
use crate::pages::workload::Workload;

/// The harness without an allocator: hands out one number.
pub(super) struct Nothing;

impl SharedPages for Nothing {
    #[inline]
    fn allocate(&self, order: Order) -> Option<usize> {
        std::hint::black_box(Some(order.pages()))
    }

    #[inline]
    fn free(&self, frame: usize, _: Order) {
        std::hint::black_box(frame);
    }
}

/// The floor takes part in rows of times only.
impl Contestant for Nothing {
    fn run(&mut self, workload: Workload, frames: usize) -> Option<Sample> {
        workload.is_time().then(|| Shared(Self).run(workload, frames))?
    }
}
