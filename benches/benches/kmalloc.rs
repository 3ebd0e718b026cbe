//! Question: what does memory of any size cost, requested directly and by the standard library's
//! collections, and has that changed since the last run?
//!
//! Measured: a `hosted::Heap`. Compared: the harness alone (`floor`, where a workload need not copy
//! or zero memory), and the other allocators of [`benches::memory::contestants`], the system's
//! among them. An iteration is one operation of `versus`'s workload of the same name. A sample is
//! one round of the workload, whatever number of iterations criterion asks for: its mean time for
//! an operation, in CPU time of the thread, times that number.
//!
//! Rows in bytes and rows in fresh processes are only in `versus`. Criterion runs contestants one
//! after the other. `versus` interleaves them, and the documentation quotes only its ratios.

use std::time::Duration;

use benches::measure::{Sample, scaled};
use benches::memory::collections::Collection;
use benches::memory::contestant::Contestant;
use benches::memory::contestants::contestants;
use benches::memory::workload::Workload;
use benches::row::FLOOR;
use criterion::{Criterion, SamplingMode};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    direct(&mut criterion);
    collections(&mut criterion);
    criterion.final_summary();
}

/// Requests to the allocators themselves.
fn direct(criterion: &mut Criterion) {
    for workload in Workload::ALL {
        let has_floor = workload.has_floor();
        bench(criterion, &workload.name(), has_floor, |contestant| contestant.run(workload));
    }
}

fn collections(criterion: &mut Criterion) {
    for collection in Collection::ALL {
        bench(criterion, collection.name(), false, |contestant| {
            contestant.run_collection(collection)
        });
    }
}

fn bench(
    criterion: &mut Criterion,
    name: &str,
    has_floor: bool,
    round: impl Fn(&'static dyn Contestant) -> Sample,
) {
    let mut group = criterion.benchmark_group(format!("kmalloc/{name}"));
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.warm_up_time(Duration::from_millis(1)).measurement_time(Duration::from_secs(1));
    for (who, contestant) in contestants() {
        if who == FLOOR && !has_floor {
            continue;
        }
        group.bench_function(who, |bencher| {
            bencher.iter_custom(|iterations| scaled(round(contestant()), iterations));
        });
    }
    group.finish();
}
