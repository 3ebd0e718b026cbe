//! Ours against rivals, interleaved in one run: a table, and JSON.
//!
//! Question: how long does an operation take, what is its tail, and how does that compare with the best rival? Figures are
//! medians over the rounds; machines are noisy, so only the ratio is a claim.

use std::path::PathBuf;
use std::process::ExitCode;

use benches::measure::{Sample, median};
use benches::pages::{contestants, measure};
use benches::workload::Workload;
use clap::{Arg, ArgAction, Command, value_parser};
use serde_json::{Map, Value, json};

/// 8 GiB of frames.
const FRAMES: usize = 8 << 18;

fn main() -> ExitCode {
    let matches = Command::new("versus")
        .about("Measures our allocators beside published ones, interleaved in one run")
        .arg(
            Arg::new("layer")
                .value_parser(["buddy", "all"])
                .default_value("all")
                .help("Which layer to measure"),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Write the figures as JSON too"),
        )
        .arg(Arg::new("quick").long("quick").action(ArgAction::SetTrue).help("One round, not five"))
        .get_matches();
    let rounds = if matches.get_flag("quick") { 1 } else { 5 };
    let rows: Vec<Value> = Workload::ALL
        .into_iter()
        .map(|workload| match workload.is_time() {
            true => row(workload, FRAMES, rounds),
            // Shares and bytes are the same in each round, and need no more memory than to be typical.
            false if rounds == 1 => row(workload, FRAMES / 32, 1),
            false => row(workload, FRAMES, 1),
        })
        .collect();
    println!(
        "left out: rivals that are built from C or C++, and LLFree, which is no published crate"
    );
    let report = json!({
        "layer": "buddy",
        "machine": machine(),
        "commit": option_env!("GIT_COMMIT").unwrap_or("unknown"),
        "workloads": rows,
    });
    if let Some(path) = matches.get_one::<PathBuf>("json") {
        if let Err(error) = std::fs::write(path, format!("{report:#}\n")) {
            eprintln!("{}: {error}", path.display());
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// Measures one workload on all contestants, `rounds` times in turn, prints its line and returns it.
fn row(workload: Workload, frames: usize, rounds: usize) -> Value {
    let all = contestants();
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); all.len()];
    for _ in 0..rounds {
        for ((_, make), samples) in all.iter().zip(&mut samples) {
            samples.extend(measure(*make, workload, frames));
        }
    }
    let of = |samples: &[Sample], figure: fn(&Sample) -> f64| {
        median(samples.iter().map(figure).collect())
    };
    let means: Vec<f64> = samples.iter().map(|samples| of(samples, |s| s.mean_ns)).collect();
    let rivals: Map<String, Value> = all
        .iter()
        .zip(&means)
        .skip(2)
        .filter(|(_, mean)| mean.is_finite())
        .map(|((name, _), mean)| ((*name).into(), json!(mean)))
        .collect();
    let best = means.iter().skip(2).copied().fold(f64::INFINITY, f64::min);
    let (p999, max) = (of(&samples[0], |s| s.p999_ns), of(&samples[0], |s| s.max_ns));
    let (ours, floor, unit) = (means[0], means[1], workload.unit());
    let ratio = (workload.is_time() && best.is_finite()).then_some(ours / best);
    println!(
        "{:<24} ours {ours:>8.2} {unit:<2}  floor {floor:>6.2}  p99.9 {p999:>7.0}  max {max:>9.0}  best rival {best:>9.1}  ratio {:.3}",
        workload.name(),
        ratio.unwrap_or(f64::NAN),
    );
    json!({
        "name": workload.name(), "unit": unit, "ours": ours, "floor": floor, "p999": p999, "max": max,
        "rivals": rivals, "ratio_to_best": ratio,
    })
}

fn machine() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| "unknown".into(), |(_, name)| name.into())
}
