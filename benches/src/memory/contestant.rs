//! An allocator of any size behind a pointer, so that a table can hold all of them.

use std::alloc::GlobalAlloc;

use crate::measure::Sample;
use crate::memory::cold::Cold;
use crate::memory::collections::Collection;
use crate::memory::footprint::Footprint;
use crate::memory::workload::{self, Workload};

/// Returns the one instance of an allocator.
pub type Make = fn() -> &'static dyn Contestant;

/// A [`GlobalAlloc`] behind a pointer: the workloads are compiled once for each, collections
/// excepted, which have to reach it through [`crate::switch`].
pub trait Contestant {
    /// Runs `workload` on this allocator; see [`workload::run`].
    fn run(&'static self, workload: Workload) -> Sample;
    /// Fills and drops collections on this allocator; see [`Collection::run`].
    fn run_collection(&'static self, collection: Collection) -> Sample;
    /// Runs what a fresh process does; see [`Cold::run`].
    fn run_cold(&'static self, cold: Cold) -> f64;
    /// Returns what memory this allocator holds; see [`Footprint::run`].
    fn footprint(&'static self, footprint: Footprint) -> f64;
}

impl<A: GlobalAlloc + Sync> Contestant for A {
    fn run(&'static self, workload: Workload) -> Sample {
        workload::run(self, workload)
    }

    fn run_collection(&'static self, collection: Collection) -> Sample {
        collection.run(self)
    }

    fn run_cold(&'static self, cold: Cold) -> f64 {
        cold.run(self)
    }

    fn footprint(&'static self, footprint: Footprint) -> f64 {
        footprint.run(self)
    }
}
