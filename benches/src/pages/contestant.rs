//! A contestant: a page allocator behind a pointer, with the workloads that it takes part in.

use crate::measure::Sample;
use crate::pages::allocator::{Pages, SharedPages};
use crate::pages::workload::Workload;
use crate::pages::{single_thread, two_threads};

/// Makes a fresh allocator with the given number of frames.
pub type Make = fn(usize) -> Box<dyn Contestant>;

/// An allocator behind a pointer: the workloads are compiled once for each implementation, inside
/// it.
pub trait Contestant {
    /// Runs one round of `workload`; `None` when this allocator cannot, or takes too long.
    fn run(&mut self, workload: Workload, frames: usize) -> Option<Sample>;
    /// Runs `count` operations of `workload` without measuring; see `single_thread.rs`.
    fn repeat(&mut self, workload: Workload, count: usize, frames: usize) {
        let _ = (workload, count, frames);
    }
}

/// A contestant for one thread.
pub(super) struct Alone<P>(pub(super) P);

impl<P: Pages> Contestant for Alone<P> {
    fn run(&mut self, workload: Workload, frames: usize) -> Option<Sample> {
        single_thread::run(&mut self.0, workload, frames)
    }

    fn repeat(&mut self, workload: Workload, count: usize, frames: usize) {
        single_thread::repeat(&mut self.0, workload, count, frames);
    }
}

/// A contestant for one thread or several.
pub(super) struct Shared<S>(pub(super) S);

impl<S: SharedPages> Contestant for Shared<S> {
    fn run(&mut self, workload: Workload, frames: usize) -> Option<Sample> {
        self.0.back();
        match workload.threads() {
            1 => single_thread::run(&mut &self.0, workload, frames),
            _ => two_threads::run(&self.0, workload, frames),
        }
    }

    fn repeat(&mut self, workload: Workload, count: usize, frames: usize) {
        single_thread::repeat(&mut &self.0, workload, count, frames);
    }
}

/// A contestant for several threads only. The same allocator without its lock takes part in the
/// rows of one thread.
pub(super) struct OnlyShared<S>(pub(super) S);

impl<S: SharedPages> Contestant for OnlyShared<S> {
    fn run(&mut self, workload: Workload, frames: usize) -> Option<Sample> {
        match workload.threads() {
            1 => None,
            _ => two_threads::run(&self.0, workload, frames),
        }
    }
}
