//! CPU time of one thread: it includes spinning, and excludes other threads on the same core.

use rustix::time::{ClockId, clock_gettime};

/// Maximum CPU time of one phase of one round, in nanoseconds.
const LIMIT_NS: u64 = 250_000_000;
/// Operations between two readings of the clock.
const BATCH: usize = 1024;

/// Returns the CPU time of the calling thread in nanoseconds.
pub(crate) fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Runs `operation` with the numbers 0 to `count` (excluded), or until the limit; returns the mean
/// CPU time in nanoseconds and the number of calls.
pub(crate) fn mean(count: usize, mut operation: impl FnMut(usize)) -> (f64, usize) {
    let start = cpu_ns();
    let mut done = 0;
    while done < count {
        let end = (done + BATCH).min(count);
        (done..end).for_each(&mut operation);
        done = end;
        if cpu_ns() - start > LIMIT_NS {
            break;
        }
    }
    ((cpu_ns() - start) as f64 / done.max(1) as f64, done)
}
