//! Question: what does each row of `versus` cost, and has that changed since the last run?
//!
//! Baselines: the harness alone (`floor`) and the published page allocators of
//! [`benches::pages::rows::contestants`], on the same simulated 8 GiB; and ours on 64 GiB
//! (`ours-64g`). An iteration is one operation of `versus`'s workload of the same name, or
//! one GiB built, a sample is one round of it. Shares and bytes do not change between rounds and
//! are taken once, of ours. Contestants run one after the other here; `versus` interleaves them,
//! and its ratios are what we claim.

use std::time::Duration;

use benches::pages::rows::{contestants, measure};
use benches::pages::workload::Workload;
use criterion::measurement::{Measurement, ValueFormatter};
use criterion::{Criterion, SamplingMode, Throughput};

/// 8 GiB of frames.
const FRAMES: usize = 8 << 18;

fn main() {
    for unit in ["ns", "us", "%", "B"] {
        let mut criterion = Criterion::default().with_measurement(Unit(unit)).configure_from_args();
        for row in Workload::ALL.into_iter().filter(|row| row.unit() == unit) {
            measure_row(&mut criterion, row);
        }
        criterion.final_summary();
    }
}

fn measure_row(criterion: &mut Criterion<Unit>, row: Workload) {
    let mut group = criterion.benchmark_group(format!("buddy/{}", row.name()));
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.warm_up_time(Duration::from_millis(1)).measurement_time(Duration::from_secs(1));
    let (_, ours) = contestants()[0];
    let others = contestants().map(|(who, make)| (who, make, FRAMES));
    let those_wanted = if row.is_time() { others.len() } else { 1 };
    let larger = row.is_time().then_some(("ours-64g", ours, 8 * FRAMES));
    for (who, make, frames) in others.into_iter().take(those_wanted).chain(larger) {
        // Some stand in the rows of several threads only.
        let Some(first) = measure(make, row, frames) else { continue };
        group.bench_function(who, |bencher| {
            let round = || measure(make, row, frames).expect("it ran this workload before");
            bencher.iter_custom(|iterations| {
                // Criterion asks for more and more iterations until some time has passed; these
                // rounds take none.
                if row.unit() != "ns" {
                    std::thread::sleep(Duration::from_millis(20));
                }
                let sample = if row.is_time() { round() } else { first };
                sample.mean_ns * iterations as f64
            });
        });
    }
    group.finish();
}

/// The result of a workload, in a unit of its own: criterion's own times are whole nanoseconds.
struct Unit(&'static str);

impl Measurement for Unit {
    type Intermediate = ();
    type Value = f64;

    fn start(&self) {}

    fn end(&self, (): ()) -> f64 {
        unreachable!("rounds are measured by the workload")
    }

    fn add(&self, one: &f64, other: &f64) -> f64 {
        one + other
    }

    fn zero(&self) -> f64 {
        0.0
    }

    fn to_f64(&self, value: &f64) -> f64 {
        *value
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        self
    }
}

impl ValueFormatter for Unit {
    fn scale_values(&self, _: f64, _: &mut [f64]) -> &'static str {
        self.0
    }

    fn scale_throughputs(&self, _: f64, _: &Throughput, _: &mut [f64]) -> &'static str {
        self.0
    }

    fn scale_for_machines(&self, _: &mut [f64]) -> &'static str {
        self.0
    }
}
