//! Times of one operation, as a histogram.

use std::time::Instant;

use hdrhistogram::Histogram;

/// Times are kept up to a minute, to three digits.
const LONGEST_NS: u64 = 60_000_000_000;
/// Readings of the clock by which it is judged.
const READINGS: usize = 10_000;

/// Times of one operation.
pub type Times = Histogram<u64>;

/// Returns no times yet.
pub(super) fn empty_times() -> Times {
    Times::new_with_bounds(1, LONGEST_NS, 3).expect("the bounds are in order")
}

/// Adds the time since `since` to `times`, and returns it in nanoseconds.
#[inline]
pub(super) fn record(times: &mut Times, since: Instant) -> u64 {
    let ns = since.elapsed().as_nanos() as u64;
    times.saturating_record(ns);
    ns
}

/// Returns the times of doing nothing.
pub fn clock_cost() -> Times {
    let mut times = empty_times();
    (0..READINGS).for_each(|_| _ = record(&mut times, Instant::now()));
    times
}
