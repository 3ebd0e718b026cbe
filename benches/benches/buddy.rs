//! Question: what does each row of `versus` that is a time cost, and has that changed since the last run?
//!
//! Baselines: the harness alone (`floor`) and the published page allocators of [`benches::pages::contestants`], on the same
//! simulated 8 GiB. An iteration is one operation of `versus`'s workload of the same name, a sample is one round of it.
//! Contestants run one after the other here; `versus` interleaves them, and its ratios are what we claim.

use std::time::Duration;

use benches::measure::scaled;
use benches::pages::contestants;
use benches::workload::Workload;
use criterion::{Criterion, SamplingMode};

/// 8 GiB of frames.
const FRAMES: usize = 8 << 18;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    blocks(&mut criterion);
    criterion.final_summary();
}

fn blocks(criterion: &mut Criterion) {
    // Building takes one round each, which is not for criterion to repeat; shares and bytes are no times.
    let is_measured = |workload: &Workload| workload.is_time() && *workload != Workload::Init;
    for workload in Workload::ALL.into_iter().filter(is_measured) {
        let mut group = criterion.benchmark_group(workload.name());
        group.sampling_mode(SamplingMode::Flat).sample_size(10);
        group.warm_up_time(Duration::from_millis(1)).measurement_time(Duration::from_secs(1));
        for (who, make) in contestants() {
            // Some stand in the rows of several threads only.
            if make(FRAMES).run(workload, FRAMES).is_none() {
                continue;
            }
            group.bench_function(who, |bencher| {
                let round =
                    || make(FRAMES).run(workload, FRAMES).expect("it ran this workload before");
                bencher.iter_custom(|iterations| scaled(round(), iterations));
            });
        }
        group.finish();
    }
}
