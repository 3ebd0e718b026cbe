//! Question: does anything break in a long run?
//!
//! # Concepts
//! The run consists of **episodes**. Each has memory and a seed of its own, so the seed repeats a
//! failure without the hours before it. The seed decides the preset of checks and the requests of
//! each thread, but not how the threads interleave. An episode consists of rounds. In a round one
//! or several threads do random operations on all layers (`worker.rs`), while faults are injected:
//! - the page source refuses requests at random, in half of the episodes;
//! - a shrinker allocates from the allocator that is short of memory;
//! - constructors panic, in a third of the episodes;
//! - signals interrupt the threads at random instructions, and their handler allocates and frees;
//! - areas of memory are taken offline and brought back at once;
//! - the threads end with each round, and new ones begin. To the allocators each thread is a CPU.
//!
//! At the end of a round no thread runs, and the run validates all layers. At the end of an episode
//! it frees all memory, and the buddy must have all its pages again.

mod episode;
mod interrupts;
mod worker;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::soak::world::Counts;

/// The options of a run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long new episodes begin. The last one may end later.
    pub time: Duration,
    /// The seed of the first episode. Each further episode has the next number.
    pub seed: u64,
    /// Maximum threads at the same time.
    pub threads: usize,
}

/// The counts of a finished run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Episodes that ended.
    pub episodes: u64,
    /// Operations of all workers.
    pub operations: u64,
    /// Requests that failed for lack of memory, or because the source refused.
    pub failures: u64,
    /// Planned panics that were caught.
    pub panics: u64,
    /// Signals whose handler allocated.
    pub interrupts: u64,
    /// Areas that were offline for a moment.
    pub areas: u64,
}

/// Runs episodes until the time is over, at least one. Calls `say` with the seed of each before it
/// begins.
///
/// # Panics
/// At the first failure.
pub fn run(options: Options, mut say: impl FnMut(u64)) -> Summary {
    let (start, counts) = (Instant::now(), Counts::default());
    let mut summary = Summary::default();
    interrupts::install();
    while start.elapsed() < options.time || summary.episodes == 0 {
        let seed = options.seed + summary.episodes;
        say(seed);
        episode::run(seed, options.threads, &counts);
        summary.episodes += 1;
    }
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    summary.operations = count(&counts.operations);
    summary.failures = count(&counts.failures);
    summary.panics = count(&counts.panics);
    summary.areas = count(&counts.areas);
    summary.interrupts = interrupts::count();
    summary
}
