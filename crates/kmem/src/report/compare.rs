//! The same object events on other allocators: time, memory, checks and totals side by side.

use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use page_frame::PAGE_SIZE;

use super::table::{Table, VERDICT};
use crate::input_error::InputError;
use crate::picture::text::{size, thousands};
use crate::replay::outcome::{Findings, ObjectTotals};
use crate::replay::pipeline::{Options, Replay, ReplayError, replay};
use crate::replay::rivals::{Visit, with};
use crate::replay::stack::Stack;
use crate::replay::target::{CountOnly, ObjectTarget};
use crate::replay::timed::{Timed, Times};
use crate::trace::source::Source;

/// Opens the trace once more.
pub type Reopen<'o> = &'o dyn Fn() -> Result<Source, InputError>;

/// How others did.
#[derive(Debug)]
pub struct Comparison {
    /// A row for each.
    pub table: Table,
    /// What other replays of the same trace came to, where that is not the same.
    pub differences: Vec<String>,
}

/// Replays the trace, which came to `totals` before, on ours, on nothing, and on each of `rivals`. One whose requests take
/// longer than `patience` altogether is stopped after the one at hand.
///
/// # Errors
/// A trace that is wrong, or that the system gives no memory.
pub fn compare(
    reopen: Reopen<'_>,
    rivals: &[String],
    memory_bytes: usize,
    options: Options,
    patience: Duration,
    totals: &ObjectTotals,
) -> Result<Comparison, ReplayError> {
    let run = || Run { source: reopen(), options, patience };
    let mut rows = Vec::new();
    let mut differences = Vec::new();
    let mut add = |name: &str, done: Done| {
        let difference = done.difference_from(totals);
        differences.extend(difference.as_ref().map(|text| format!("totals of {name}: {text}")));
        rows.push(row(name, &done, difference));
    };
    add("ours", run().visit(|| Stack::new(memory_bytes, options.cpus.unwrap_or(16)))?);
    add("no allocator", run().visit(|| Ok(CountOnly))?);
    let mut failures = Vec::new();
    for name in rivals {
        // A rival that panics has its own reasons; its memory is gone, and the table goes on.
        match catch_unwind(AssertUnwindSafe(|| with(name, memory_bytes, run()))) {
            Ok(Some(done)) => add(name, done?),
            Ok(None) => failures.push(failed(name, "not built in: --features rivals")),
            Err(_) => failures.push(failed(name, "panicked")),
        }
    }
    rows.extend(failures);
    let table = Table {
        name: "comparison",
        title: "Other allocators",
        note: "The same object events with the same checks, each in turn, on one thread. Times of an operation have one \
               reading of the clock in them. Memory is what was ever written of each one's range; for ours the most pages held. \
               Totals are all counts of objects and bytes, compared with those of the replay above."
            .to_owned(),
        columns: ["allocator", "replayed in", "allocate: mean", "p99", "free: mean", "p99", "maximum", "memory", "of live", VERDICT]
            .map(str::to_owned)
            .into(),
        rows,
    };
    Ok(Comparison { table, differences })
}

/// What a run came to.
struct Done {
    seconds: f64,
    allocations: Times,
    frees: Times,
    peak_bytes: u64,
    totals: ObjectTotals,
    /// Why it was stopped.
    stopped: Option<String>,
    /// Whether patterns were looked at.
    is_checked: bool,
    findings: Findings,
}

impl Done {
    /// Says which total is not that of `expected`; nothing of a run that was stopped.
    fn difference_from(&self, expected: &ObjectTotals) -> Option<String> {
        let pairs = expected.named().into_iter().zip(self.totals.named());
        let (one, other) = pairs.into_iter().find(|(one, other)| one != other)?;
        let ((name, expected), (_, found)) = (one, other);
        let (expected, found) = (thousands(expected), thousands(found));
        self.stopped.is_none().then(|| format!("expected {expected} {name}, found {found}"))
    }
}

/// A replay to be done on any target.
struct Run {
    source: Result<Source, InputError>,
    options: Options,
    patience: Duration,
}

impl Visit for Run {
    type Output = Result<Done, ReplayError>;

    fn visit<T: ObjectTarget>(self, make: impl FnOnce() -> io::Result<T>) -> Self::Output {
        let Self { source, options, patience } = self;
        let played: Replay<Timed<T>, CountOnly> = replay(
            source?,
            options,
            |_| Ok((Timed::with_patience(make()?, patience), CountOnly)),
            |_, _| ControlFlow::Continue(()),
        )?;
        let target = played.objects.target();
        let (allocations, frees) = (target.allocations().clone(), target.frees().clone());
        let peak_bytes = (target.totals().peak_pages * PAGE_SIZE) as u64;
        let seconds = played.duration().as_secs_f64();
        let reached_the_end = played.is_complete();
        let outcome = played.finish();
        let stopped = (!outcome.is_complete).then(|| {
            let at = match reached_the_end {
                true => "freeing what was live at the end".to_owned(),
                false => format!("at event {}", thousands(outcome.events)),
            };
            format!("too slow: stopped after {} s, {at}", patience.as_secs_f64())
        });
        let is_checked = options.checks && T::BACKED;
        let (totals, findings) = (outcome.objects, outcome.findings);
        Ok(Done { seconds, allocations, frees, peak_bytes, totals, stopped, is_checked, findings })
    }
}

fn failed(name: &str, why: &str) -> Vec<String> {
    let mut row = vec![name.to_owned()];
    row.extend(["", "", "", "", "", "", "", ""].map(str::to_owned));
    row.push(why.to_owned());
    row
}

fn row(name: &str, done: &Done, difference: Option<String>) -> Vec<String> {
    let p99 = |times: &Times| format!("{} ns", thousands(times.value_at_quantile(0.99)));
    let mean = |times: &Times| format!("{:.0} ns", times.mean());
    let maximum = done.allocations.max().max(done.frees.max());
    let (memory, ratio) = match done.peak_bytes {
        0 => ("not known".to_owned(), String::new()),
        bytes => {
            let live = done.totals.peak_live_bytes.max(1);
            (size(bytes), format!("{:.2}", bytes as f64 / live as f64))
        }
    };
    vec![
        name.to_owned(),
        format!("{:.2} s", done.seconds),
        mean(&done.allocations),
        p99(&done.allocations),
        mean(&done.frees),
        p99(&done.frees),
        format!("{} µs", thousands(maximum / 1000)),
        memory,
        ratio,
        verdict(done, difference),
    ]
}

fn verdict(done: &Done, difference: Option<String>) -> String {
    if let Some(stopped) = &done.stopped {
        return stopped.clone();
    }
    let totals =
        difference.map_or("same totals".to_owned(), |text| format!("OTHER TOTALS: {text}"));
    match done.findings.shown() {
        [first, ..] => {
            let what = first.splitn(3, ':').last().unwrap_or(first).trim();
            format!("{} findings: {what}; {totals}", thousands(done.findings.count()))
        }
        [] if done.is_checked => format!("{totals}, every pattern intact"),
        [] => format!("{totals}, patterns not checked"),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::ptr::NonNull;
    use std::time::Instant;

    use page_frame::OutOfMemory;

    use super::*;
    use crate::replay::outcome::StackTotals;
    use crate::replay::target::NoCache;

    /// As slow as nobody has the patience for.
    const PER_FREE: Duration = Duration::from_millis(5);

    /// Counts only, and takes its time for it.
    struct SlowToFree;

    // SAFETY: not `BACKED`, so nothing is promised.
    unsafe impl ObjectTarget for SlowToFree {
        type Cache = ();

        const BACKED: bool = false;

        fn switch_cpu(&mut self, _: u16) {}

        fn open_cache(&mut self, _: &str, _: usize) -> Result<(), NoCache> {
            Ok(())
        }

        fn allocate_object(&mut self, (): ()) -> Result<NonNull<u8>, OutOfMemory> {
            Ok(NonNull::dangling())
        }

        unsafe fn free_object(&mut self, (): (), _: NonNull<u8>) {
            std::thread::sleep(PER_FREE);
        }

        fn allocate_bytes(&mut self, _: usize) -> Result<NonNull<u8>, OutOfMemory> {
            Ok(NonNull::dangling())
        }

        unsafe fn free_bytes(&mut self, _: NonNull<u8>, _: usize) {
            std::thread::sleep(PER_FREE);
        }

        fn totals(&self) -> StackTotals {
            StackTotals::default()
        }

        fn shrink(&mut self) -> Result<(), String> {
            Ok(())
        }

        fn is_as_at_start(&self) -> bool {
            true
        }
    }

    /// A trace of so many allocations and frees.
    fn source(allocations: u64, frees: u64) -> Source {
        let allocations = (0..allocations).map(|n| format!("a,0,0,{:x},64,64,0,0\n", 64 * (n + 1)));
        let frees = (0..frees).map(|n| format!("f,0,0,{:x}\n", 64 * (n + 1)));
        let text: String = allocations.chain(frees).collect();
        Source::reader("t", io::Cursor::new(format!("!g,0,G\n!s,0,S\n{text}")))
            .expect("it can be read")
    }

    const OPTIONS: Options = Options { checks: true, cpus: None };

    #[test]
    fn one_that_is_too_slow_is_stopped_within_a_batch_and_while_everything_is_freed() {
        for (frees, expected) in [
            (2000, "too slow: stopped after 0.05 s, at event 2,0"),
            (0, "too slow: stopped after 0.05 s, freeing what was live at the end"),
        ] {
            let started = Instant::now();
            let patience = Duration::from_millis(50);
            let run = Run { source: Ok(source(2000, frees)), options: OPTIONS, patience };
            let done = run.visit(|| Ok(SlowToFree)).expect("the trace is well formed");
            let verdict = row("slow", &done, None).pop().expect("a row has a verdict");
            assert!(verdict.starts_with(expected), "{verdict}");
            assert!(started.elapsed() < 400 * PER_FREE, "all frees would take 2000");
        }
    }

    #[test]
    fn totals_that_differ_are_said_and_patterns_are_not_praised_unseen() {
        let opened = Cell::new(0);
        // The trace grows between two looks.
        let reopen = || {
            opened.set(opened.get() + 1);
            Ok(source(3 + opened.get() / 3, 1))
        };
        let compared = |checks| {
            let expected =
                Run { source: Ok(source(3, 1)), options: OPTIONS, patience: Duration::MAX };
            let totals = expected.visit(|| Ok(CountOnly)).expect("the trace is well formed").totals;
            opened.set(0);
            let options = Options { checks, cpus: None };
            let rivals = ["system".to_owned()];
            compare(&reopen, &rivals, 1 << 24, options, Duration::MAX, &totals)
                .expect("well formed")
        };
        let verdicts = |comparison: &Comparison| -> Vec<String> {
            comparison.table.rows.iter().map(|row| row[row.len() - 1].clone()).collect()
        };
        let checked = compared(true);
        let difference = "expected 3 objects allocated, found 4";
        assert_eq!(checked.differences, [format!("totals of system: {difference}")]);
        assert_eq!(
            verdicts(&checked),
            [
                "same totals, every pattern intact".to_owned(),
                "same totals, patterns not checked".to_owned(),
                format!("OTHER TOTALS: {difference}, every pattern intact"),
            ]
        );
        let unchecked = verdicts(&compared(false));
        assert!(
            unchecked.iter().all(|text| text.ends_with("patterns not checked")),
            "{unchecked:?}"
        );
    }
}
