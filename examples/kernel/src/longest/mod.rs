//! The longest path of each operation over long histories, in instructions.
//!
//! Question: how long can one operation take, beside its usual path? Each operation is counted by
//! itself: under QEMU's instruction counter an instruction takes 32 ticks, and each repetition of a
//! string instruction counts. The histories (`history.rs`) let slots, depots and slabs run empty
//! and full, areas fill up, and memory run out. One CPU runs, and no interrupt comes, so no
//! operation waits for another CPU.
//!
//! `longest.csv` has the figures that the documentation states. A row that exceeds its figure by
//! more than a tenth is a failure. It was tried: a figure that is too small ends the kernel with
//! failure. `tests/longest.rs` compares the documentation with the file, and updates both.

mod bytes;
mod compaction;
mod history;
mod objects;
mod pages;
mod row;
mod scarce;
mod sections;

use crate::console::print;
use crate::longest::row::Report;

/// Prints median, 99.9th percentile, maximum and limit of each operation; returns whether all are
/// within their limits.
pub(crate) fn run() -> bool {
    print!("instructions of an operation: median, 99.9 %, longest, limit");
    let report = &mut Report::new();
    pages::run(report);
    objects::run(report);
    bytes::run(report);
    sections::run(report);
    compaction::run(report);
    scarce::run(report);
    report.is_good()
}
