//! Ours against rivals, interleaved in one run: a table, and JSON.
//!
//! Question: how long does an operation take, what is its tail, and how does that compare with the
//! best rival? Figures are medians over the rounds; machines are noisy, so only the ratio is a
//! claim.

use std::path::PathBuf;
use std::process::ExitCode;

use benches::asked::Asked;
#[cfg(not(feature = "counted"))]
use benches::pages::workload::Workload;
use benches::row::Row;
use benches::{memory, objects, pages};
use clap::{Arg, ArgAction, Command, value_parser};
use serde_json::{Value, json};

/// 8 GiB of frames.
#[cfg(not(feature = "counted"))]
const FRAMES: usize = 8 << 18;

/// Measures a layer in the given number of rounds and passes on its rows.
type Measure = fn(&Asked, &mut dyn FnMut(Row));

/// The layers, bottom up.
const LAYERS: [(&str, Measure); 3] = [
    ("buddy", measure_pages),
    ("slab", |asked, each| objects::rows::measure(asked, each)),
    ("kmalloc", |asked, each| memory::rows::measure(asked, each)),
];

fn main() -> ExitCode {
    if memory::rows::answer(&std::env::args().skip(1).collect::<Vec<_>>()) {
        return ExitCode::SUCCESS;
    }
    let matches = Command::new("versus")
        .about("Measures our allocators beside published ones, interleaved in one run")
        .arg(
            Arg::new("layer")
                .value_parser(["buddy", "slab", "kmalloc", "all"])
                .default_value("all")
                .help("Which layer to measure"),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Write the figures as JSON too; for all layers an array"),
        )
        .arg(Arg::new("row").long("row").value_name("NAME").action(ArgAction::Append).help(
            "Only the rows whose name begins so; may be given again. Rows of pages with 1 TiB, \
                     as bulk-0-allocate-1t, run only when named in full",
        ))
        .arg(
            Arg::new("alone")
                .long("alone")
                .action(ArgAction::SetTrue)
                .help("Measure ours alone, without rivals"),
        )
        .arg(Arg::new("quick").long("quick").action(ArgAction::SetTrue).help("One round, not five"))
        .get_matches();
    let asked = matches.get_one::<String>("layer").map_or("all", String::as_str);
    let rounds = if matches.get_flag("quick") { 1 } else { 5 };
    let rows = matches.get_many::<String>("row").unwrap_or_default().cloned().collect();
    let wanted = Asked { rounds, rows, alone: matches.get_flag("alone") };
    let (machine, commit) = (machine(), commit());
    println!("{machine}, commit {commit}, median of {rounds}; ns but where another unit stands");
    let chosen = LAYERS.iter().filter(|(layer, _)| asked == "all" || asked == *layer);
    let mut reports: Vec<Value> = chosen
        .map(|(layer, measure)| {
            println!("\n{layer}");
            let mut rows = Vec::new();
            measure(&wanted, &mut |row| {
                row.print();
                rows.push(row.json());
            });
            json!({ "layer": layer, "machine": machine, "commit": commit, "workloads": rows })
        })
        .collect();
    print_left_out(matches!(asked, "buddy" | "all"));
    let report = if asked == "all" { Value::Array(reports) } else { reports.remove(0) };
    if let Some(path) = matches.get_one::<PathBuf>("json") {
        if let Err(error) = std::fs::write(path, format!("{report:#}\n")) {
            eprintln!("{}: {error}", path.display());
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// Counts atomic changes of lines that CPUs share. Times are for a build that does not count.
#[cfg(feature = "counted")]
fn measure_pages(asked: &Asked, each: &mut dyn FnMut(Row)) {
    pages::counted::measure(|row| asked.wants(row), each);
}

#[cfg(not(feature = "counted"))]
fn measure_pages(asked: &Asked, each: &mut dyn FnMut(Row)) {
    let contestants = pages::rows::contestants();
    let contestants = asked.among(&contestants);
    for workload in Workload::ALL.into_iter().filter(|row| asked.wants(&row.name())) {
        // Shares and bytes are the same in each round, and need no more memory than to be typical.
        let (rounds, frames) = match (workload.is_time(), asked.rounds) {
            (true, rounds) => (rounds, FRAMES),
            (false, 1) => (1, FRAMES / 32),
            (false, _) => (1, FRAMES),
        };
        let row = Row::compare(workload.name(), contestants, rounds, |_, make| {
            pages::rows::measure(*make, workload, frames)
        });
        each(row.in_unit(workload.unit()));
    }
    // Ours beside itself with 64 GiB and 1 TiB of memory, for which some rivals would need
    // gibibytes of metadata.
    for workload in Workload::ALL.into_iter().filter(|row| row.is_time()) {
        let [larger, largest] = ["64g", "1t"].map(|size| format!("{}-{size}", workload.name()));
        let larger = asked.wants(&larger).then_some((larger, 8));
        let largest = asked.names(&largest).then_some((largest, 128));
        for (name, times) in larger.into_iter().chain(largest) {
            let row =
                Row::compare(name, benches::asked::ours(contestants), asked.rounds, |_, make| {
                    pages::rows::measure(*make, workload, times * FRAMES)
                });
            each(row.in_unit(workload.unit()));
        }
    }
}

fn print_left_out(is_buddy_there: bool) {
    println!();
    if cfg!(not(feature = "c-rivals")) {
        println!(
            "left out, as they are built from C or C++: jemalloc, mimalloc, rpmalloc, snmalloc"
        );
        println!("with them: cargo run --release -p benches --features c-rivals --bin versus");
    }
    if !is_buddy_there {
        return;
    }
    println!("left out, as it is no published crate: LLFree");
    if cfg!(not(feature = "counted")) {
        println!("atomic changes of shared lines are counted, with no times of pages, by:");
        println!("    cargo run --release -p benches --features counted --bin versus -- buddy");
    }
}

fn machine() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| "unknown".into(), |(_, name)| name.into())
}

/// Returns what the working folder's repository stands at, or that it is not known.
fn commit() -> String {
    let mut git = std::process::Command::new("git");
    let output = git.args(["rev-parse", "--short=12", "HEAD"]).output();
    let text = output.ok().filter(|output| output.status.success());
    let text = text.and_then(|output| String::from_utf8(output.stdout).ok());
    text.map_or_else(|| "unknown".into(), |text| text.trim().into())
}
