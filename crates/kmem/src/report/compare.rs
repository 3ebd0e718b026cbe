//! The same object events on other allocators: time, memory and checks side by side.

use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use page_frame::PAGE_SIZE;

use super::table::{Table, VERDICT};
use crate::input_error::InputError;
use crate::picture::text::{size, thousands};
use crate::replay::outcome::Findings;
use crate::replay::pipeline::{Options, Replay, ReplayError, replay};
use crate::replay::rivals::{Visit, with};
use crate::replay::stack::Stack;
use crate::replay::target::{CountOnly, ObjectTarget};
use crate::replay::timed::{Timed, Times};
use crate::trace::source::Source;

/// How long an allocator may take for a trace.
const PATIENCE: Duration = Duration::from_secs(30);

/// Opens the trace once more.
pub type Reopen<'o> = &'o dyn Fn() -> Result<Source, InputError>;

/// Replays the trace on ours, on nothing, and on each of `rivals`.
///
/// # Errors
/// A trace that is wrong, or that the system gives no memory.
pub fn compare(
    reopen: Reopen<'_>,
    rivals: &[String],
    memory_bytes: usize,
    options: Options,
) -> Result<Table, ReplayError> {
    let run = || Run { source: reopen(), options };
    let mut rows =
        vec![row("ours", run().visit(|| Stack::new(memory_bytes, options.cpus.unwrap_or(16))))?];
    rows.push(row("no allocator", run().visit(|| Ok(CountOnly)))?);
    for name in rivals {
        // A rival that panics has its own reasons; its memory is gone, and the table goes on.
        let outcome = catch_unwind(AssertUnwindSafe(|| with(name, memory_bytes, run())));
        rows.push(match outcome {
            Ok(Some(outcome)) => row(name, outcome)?,
            Ok(None) => failed(name, "not built in: --features rivals"),
            Err(_) => failed(name, "panicked"),
        });
    }
    Ok(Table {
        name: "comparison",
        title: "Other allocators",
        note: "The same object events with the same checks, each in turn, on one thread. Times of an operation have one \
               reading of the clock in them. Memory is what was ever written of each one's range; for ours the most pages held."
            .to_owned(),
        columns: ["allocator", "replayed in", "allocate: mean", "p99", "free: mean", "p99", "maximum", "memory", "of live", VERDICT]
            .map(str::to_owned)
            .into(),
        rows,
    })
}

/// What a run came to.
struct Done {
    seconds: f64,
    allocations: Times,
    frees: Times,
    peak_bytes: u64,
    live_bytes: u64,
    verdict: String,
}

/// A replay to be done on any target.
struct Run {
    source: Result<Source, InputError>,
    options: Options,
}

impl Visit for Run {
    type Output = Result<Done, ReplayError>;

    fn visit<T: ObjectTarget>(self, make: impl FnOnce() -> io::Result<T>) -> Self::Output {
        let started = Instant::now();
        let played: Replay<Timed<T>, CountOnly> = replay(
            self.source?,
            self.options,
            |_| Ok((Timed::new(make()?), CountOnly)),
            |_, _| match started.elapsed() > PATIENCE {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            },
        )?;
        let target = played.objects.target();
        let (allocations, frees) = (target.allocations().clone(), target.frees().clone());
        let peak_bytes = (target.totals().peak_pages * PAGE_SIZE) as u64;
        let (seconds, events) = (played.duration().as_secs_f64(), played.events());
        let live_bytes = played.objects.totals().peak_live_bytes;
        let is_complete = played.is_complete();
        // A slow one would take as long again to free what is live.
        let verdict = match is_complete {
            true => verdict(&played.finish().findings),
            false => {
                format!("stopped after {} s and {} events", PATIENCE.as_secs(), thousands(events))
            }
        };
        Ok(Done { seconds, allocations, frees, peak_bytes, live_bytes, verdict })
    }
}

fn verdict(findings: &Findings) -> String {
    match findings.shown() {
        [] => "every pattern intact".to_owned(),
        [first, ..] => {
            let what = first.splitn(3, ':').last().unwrap_or(first).trim();
            format!("{} findings: {what}", thousands(findings.count()))
        }
    }
}

fn failed(name: &str, why: &str) -> Vec<String> {
    let mut row = vec![name.to_owned()];
    row.extend(["", "", "", "", "", "", "", ""].map(str::to_owned));
    row.push(why.to_owned());
    row
}

fn row(name: &str, done: Result<Done, ReplayError>) -> Result<Vec<String>, ReplayError> {
    let done = done?;
    let p99 = |times: &Times| format!("{} ns", thousands(times.value_at_quantile(0.99)));
    let mean = |times: &Times| format!("{:.0} ns", times.mean());
    let maximum = done.allocations.max().max(done.frees.max());
    let (memory, ratio) = match done.peak_bytes {
        0 => ("not known".to_owned(), String::new()),
        bytes => (size(bytes), format!("{:.2}", bytes as f64 / done.live_bytes.max(1) as f64)),
    };
    Ok(vec![
        name.to_owned(),
        format!("{:.2} s", done.seconds),
        mean(&done.allocations),
        p99(&done.allocations),
        mean(&done.frees),
        p99(&done.frees),
        format!("{} µs", thousands(maximum / 1000)),
        memory,
        ratio,
        done.verdict,
    ])
}
