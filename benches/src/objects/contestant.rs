//! An object allocator behind a pointer, so that a table can hold all of them.

use std::alloc::Layout;

use crate::measure::Sample;
use crate::objects::allocator::Objects;
use crate::objects::workload::{self, Workload};

/// Makes a fresh allocator of objects of a layout.
pub type Make = fn(Layout) -> Box<dyn Contestant>;

/// An [`Objects`] behind a pointer: the workloads are compiled once for each implementation, inside
/// it.
pub trait Contestant {
    /// Runs `workload` on this allocator; see [`workload::run`].
    fn run(&self, workload: Workload) -> Sample;
}

impl<O: Objects> Contestant for O {
    fn run(&self, workload: Workload) -> Sample {
        workload::run(self, workload)
    }
}
