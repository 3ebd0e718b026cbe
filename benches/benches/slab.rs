//! Question: what does an object cost, hot, in bulk, with two threads, and handed from one thread
//! to another? What are constructed state and colours worth? Has any of that changed since the last
//! run?
//!
//! Baselines: the harness alone (`floor`), the published object allocators, and the system's
//! allocator as a yardstick, all from [`benches::objects::rows::contestants`]. Constructed state is
//! compared with initialising each time, colours with the same cache uncoloured, and hardening with
//! none. Only `versus` has the count `idle-pages`. An iteration is one operation of `versus`'s
//! workload of the same name; a sample is one round of it. Criterion runs contestants one after the
//! other. `versus` interleaves them, and we claim only its ratios.

use std::time::Duration;

use benches::measure::{Sample, scaled};
use benches::objects::rows::contestants;
use benches::objects::workload::Workload;
use benches::objects::{colour, constructed, costs};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode};
use slab::{Debugging, Hardened, Off};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    objects(&mut criterion);
    constructed_state(&mut criterion);
    colours(&mut criterion);
    costs(&mut criterion);
    criterion.final_summary();
}

fn objects(criterion: &mut Criterion) {
    for workload in Workload::ALL {
        let mut group = group(criterion, &workload.name());
        for (who, make) in contestants() {
            bench(&mut group, who, || make(workload.layout()).run(workload));
        }
        group.finish();
    }
}

fn constructed_state(criterion: &mut Criterion) {
    let mut group = group(criterion, "constructed-488");
    bench(&mut group, "kept", || alone(constructed::kept_ns()));
    bench(&mut group, "initialised", || alone(constructed::initialised_ns()));
    group.finish();
}

fn colours(criterion: &mut Criterion) {
    for (name, walk) in
        [("colour-640x32", colour::FIRST_OBJECTS), ("colour-1280x1024", colour::ALL_OBJECTS)]
    {
        let mut group = group(criterion, name);
        bench(&mut group, "coloured", || alone(colour::step_ns(walk, true)));
        bench(&mut group, "uncoloured", || alone(colour::step_ns(walk, false)));
        group.finish();
    }
}

fn costs(criterion: &mut Criterion) {
    let mut checks = group(criterion, "checks-64");
    bench(&mut checks, "off", || alone(costs::pair_ns::<Off>()));
    bench(&mut checks, "hardened", || alone(costs::pair_ns::<Hardened>()));
    bench(&mut checks, "debug", || alone(costs::pair_ns::<Debugging>()));
    checks.finish();
    let mut costs = group(criterion, "costs");
    bench(&mut costs, "grow-cost", || alone(costs::slab_costs().0));
    bench(&mut costs, "shrink-cost", || alone(costs::slab_costs().1));
    bench(&mut costs, "cpu-slot-miss", || alone(costs::slot_miss_ns()));
    costs.finish();
}

fn group<'c>(criterion: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    let mut group = criterion.benchmark_group(format!("slab/{name}"));
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.warm_up_time(Duration::from_millis(1)).measurement_time(Duration::from_secs(1));
    group
}

fn bench(group: &mut BenchmarkGroup<'_, WallTime>, who: &str, round: impl Fn() -> Sample) {
    group.bench_function(who, |bencher| {
        bencher.iter_custom(|iterations| scaled(round(), iterations));
    });
}

/// A round of which only the mean is known.
fn alone(mean_ns: f64) -> Sample {
    Sample { mean_ns, p999_ns: f64::NAN, max_ns: f64::NAN }
}
