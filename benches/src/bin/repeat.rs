//! Question: how many instructions does an operation of a page allocator take?
//!
//! Runs a number of operations of one row without reading a clock, for `valgrind --tool=callgrind`
//! or any other counter. Two runs that differ only in the number of operations differ by the cost
//! of those operations.
//!
//!     repeat pair-0 ours 100000

use std::process::ExitCode;

use benches::pages;
use benches::pages::workload::Workload;

/// 8 GiB of frames.
const FRAMES: usize = 8 << 18;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [row, who, count] = &arguments[..] else { return usage() };
    let workload = Workload::ALL.into_iter().find(|workload| workload.name() == *row);
    let contestants = pages::rows::contestants();
    let contestant = contestants.iter().find(|(name, _)| name == who);
    let (Some(workload), Some((_, make)), Ok(count)) = (workload, contestant, count.parse()) else {
        return usage();
    };
    make(FRAMES).repeat(workload, count, FRAMES);
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("usage: repeat ROW CONTESTANT COUNT, names as `versus` prints them");
    ExitCode::from(2)
}
