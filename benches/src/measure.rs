//! How a time is taken: batches until a limit, and single operations for the tail.
//!
//! Means are CPU time of the running thread: on a machine where other programs run, wall time says
//! nothing. Tails are wall time, as whoever waits for an operation sees it.

use std::sync::Barrier;
use std::time::{Duration, Instant};

/// How long one phase of one round may take before it is cut off.
pub const LIMIT: Duration = Duration::from_millis(250);
/// Operations between two looks at the clock.
const BATCH: usize = 1024;

/// The times of one round of one workload.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// CPU nanoseconds per operation, the mean of the round.
    pub mean_ns: f64,
    /// The 99.9th percentile of single operations, the clock's own time included.
    pub p999_ns: f64,
    /// The longest single operation, the clock's own time included.
    pub max_ns: f64,
}

/// Runs `operation` with the numbers 0 to `count` (excluded), or until [`LIMIT`]; returns the mean
/// CPU time in nanoseconds and how many ran.
pub fn mean(count: usize, mut operation: impl FnMut(usize)) -> (f64, usize) {
    let (start, cpu) = (Instant::now(), CpuTime::now());
    let mut done = 0;
    while done < count {
        let end = (done + BATCH).min(count);
        (done..end).for_each(&mut operation);
        done = end;
        if start.elapsed() > LIMIT {
            break;
        }
    }
    (cpu.elapsed_ns() / done.max(1) as f64, done)
}

/// A moment in this thread's CPU time.
#[derive(Clone, Copy, Debug)]
pub struct CpuTime(u64);

impl CpuTime {
    /// Returns this moment. One system call.
    pub fn now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Self(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
    }

    /// Returns the nanoseconds since then, on the same thread.
    pub fn elapsed_ns(self) -> f64 {
        (Self::now().0 - self.0) as f64
    }
}

/// Times each of `count` operations by itself; returns the 99.9th percentile and the maximum in
/// nanoseconds.
pub fn tail(count: usize, mut operation: impl FnMut(usize)) -> (f64, f64) {
    let mut times: Vec<u64> = (0..count)
        .map(|number| {
            let start = Instant::now();
            operation(number);
            start.elapsed().as_nanos() as u64
        })
        .collect();
    times.sort_unstable();
    let at = times.len() * 999 / 1000;
    let time = |index: usize| times.get(index).map_or(0.0, |time| *time as f64);
    (time(at), time(times.len().saturating_sub(1)))
}

/// Returns the median of `values`, which are not empty.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Runs `work` on two threads at once, which tells each which of the two it is and returns how many
/// operations it did; returns the CPU time of both per operation in nanoseconds.
pub fn cpu_time_of_two(work: impl Fn(usize) -> usize + Sync) -> f64 {
    let both_are_there = Barrier::new(2);
    let timed = |which| {
        both_are_there.wait();
        let start = CpuTime::now();
        let operations = work(which);
        (start.elapsed_ns(), operations)
    };
    let (first, second) = std::thread::scope(|scope| {
        let other = scope.spawn(|| timed(1));
        (timed(0), other.join().expect("a workload does not panic"))
    });
    (first.0 + second.0) / (first.1 + second.1).max(1) as f64
}

/// Returns the time of `iterations` operations of which a round has found the mean: what criterion
/// asks for. Its samples are rounds then, each of as many operations as the workload has, and not
/// of as many as criterion would choose.
pub fn scaled(sample: Sample, iterations: u64) -> Duration {
    Duration::from_secs_f64(sample.mean_ns * iterations as f64 * 1e-9)
}
