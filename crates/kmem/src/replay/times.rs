//! Times of one operation, as a histogram.

use std::time::Instant;

use hdrhistogram::Histogram;

/// The longest time in the histogram, one minute in nanoseconds. Longer ones count as this.
const LONGEST_NS: u64 = 60_000_000_000;
/// Readings of the clock that `clock_cost` measures.
const READINGS: usize = 10_000;

/// Times of one operation.
pub type Times = Histogram<u64>;

/// Returns an empty histogram with a precision of three digits.
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

/// Measures the cost of reading the clock: the times of an empty operation.
pub fn clock_cost() -> Times {
    let mut times = empty_times();
    (0..READINGS).for_each(|_| _ = record(&mut times, Instant::now()));
    times
}
