//! Question: does anything break in a long run?
//!
//! # Concepts
//! The run consists of **episodes**, each over memory of its own with a seed of its own, so that a
//! failure is found again by its seed without the hours before it. An episode consists of rounds. In
//! a round several threads work at random on all layers ([`worker`]), while faults are injected:
//! - the page source refuses requests at random, in half of the episodes;
//! - a shrinker allocates from the allocator that is short of memory;
//! - constructors panic, in a third of the episodes;
//! - signals interrupt the threads at random instructions and allocate there;
//! - areas of memory are taken offline and brought back;
//! - threads end with each round, and others begin: to the allocators these are CPUs.
//!
//! At the end of a round nothing runs, and everything is validated. At the end of an episode
//! everything is freed, and all pages must be back.

mod episode;
mod interrupts;
mod worker;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use testkit::Random;

/// How long a round may take before the run is said to hang.
const LIMIT: Duration = Duration::from_secs(180);

/// What a run is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long new episodes begin.
    pub time: Duration,
    /// The seed of the first episode; the next one has the next number.
    pub seed: u64,
    /// Threads at the same time, at most.
    pub threads: usize,
}

/// What a run has done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Episodes that ended.
    pub episodes: u64,
    /// Operations of all workers.
    pub operations: u64,
    /// Requests that failed, as memory or the source refused.
    pub failures: u64,
    /// Planned panics that were caught.
    pub panics: u64,
    /// Signals whose handler allocated.
    pub interrupts: u64,
    /// Areas that were offline for a while.
    pub areas: u64,
}

/// Counts of the current run.
#[derive(Debug, Default)]
struct Counts {
    operations: AtomicU64,
    failures: AtomicU64,
    panics: AtomicU64,
    areas: AtomicU64,
}

impl Counts {
    fn add(count: &AtomicU64) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Runs episodes until the time is over. A failure panics, after `say` was told the seed of its
/// episode.
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

/// The payload of a planned panic.
struct Planned;

/// Panics as planned about once in `n` calls, without a report.
fn panic_one_in(random: &mut Random, n: usize) {
    if random.one_in(n) {
        std::panic::resume_unwind(Box::new(Planned));
    }
}
