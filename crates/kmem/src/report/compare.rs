//! The same events on other allocators: time, memory, checks and totals side by side.
//!
//! Object events and page events are two replays, each with a fresh allocator, as ours have a stack
//! for each: a recorded kernel's page events contain the pages of its slabs.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use page_frame::PAGE_SIZE;

use super::cell::{Cell, Column, Unit};
use super::table::{Table, column};
use super::timed_run::{Done, OfObjects, OfPages, Run, Totals};
use crate::input_error::InputError;
use crate::picture::text::thousands;
use crate::replay::buddy_pages::BuddyPages;
use crate::replay::outcome::Outcome;
use crate::replay::pipeline::{Options, ReplayError};
use crate::replay::rivals::with;
use crate::replay::stack::Stack;
use crate::replay::target::CountOnly;
use crate::replay::times::Times;
use crate::trace::source::Source;

/// Opens the trace once more.
pub type Reopen<'o> = &'o dyn Fn() -> Result<Source, InputError>;

/// How others did.
#[derive(Debug)]
pub struct Comparison {
    /// A row for each: of object events, and of page events.
    pub tables: [Table; 2],
    /// Mistakes of a rival: other totals, changed patterns, running out of memory, panics.
    pub findings: Vec<String>,
}

/// Replays the trace, whose outcome was `expected`, on our allocators, on no allocator, and on each
/// of `rivals`. A rival whose object events, or page events, together take longer than `patience`
/// is stopped after the current event. `begin` is called with the name of each before its replay.
///
/// # Errors
/// When the trace is wrong, or the system has no memory.
pub fn compare(
    reopen: Reopen<'_>,
    rivals: &[String],
    memory_bytes: usize,
    options: Options,
    patience: Duration,
    expected: &Outcome,
    mut begin: impl FnMut(&str),
) -> Result<Comparison, ReplayError> {
    let run = || Run { source: reopen(), options, patience };
    let cpus = options.cpus.unwrap_or(16);
    let mut objects = Side::new("objects", expected.objects.named().into());
    let mut pages = Side::new("pages", expected.pages.named().into());
    begin("ours");
    objects.add("ours", run().objects(|| Stack::new(memory_bytes, cpus))?);
    pages.add("ours", run().pages(|| BuddyPages::new(memory_bytes / PAGE_SIZE, cpus))?);
    objects.add("no allocator", run().objects(|| Ok(CountOnly))?);
    pages.add("no allocator", run().pages(|| Ok(CountOnly))?);
    for name in rivals {
        begin(name);
        // A rival that panics has its own reasons; its memory is gone, and the table goes on.
        let caught = catch_unwind(AssertUnwindSafe(|| with(name, memory_bytes, OfObjects(run()))));
        objects.add_rival(name, caught)?;
        let caught = catch_unwind(AssertUnwindSafe(|| with(name, memory_bytes, OfPages(run()))));
        pages.add_rival(name, caught)?;
    }
    let findings = [objects.findings, pages.findings].concat();
    let object_table = Table {
        name: "comparison",
        title: "Other allocators: object events",
        note: "The same object events with the same checks, each in turn, on one thread. Times of an operation have one \
               reading of the clock in them. Memory is what was ever written of each one's range; for ours the most pages held. \
               Totals are all counts of objects and bytes, compared with those of the replay above."
            .to_owned(),
        columns: columns(true),
        rows: objects.rows,
    };
    let page_table = Table {
        name: "comparison-pages",
        title: "Other allocators: page events",
        note: "The same page events, each in turn, on one thread: a block of an order is memory of 2^order pages, aligned to its \
               size, asked of a fresh allocator. Nothing is written into blocks. Ours keeps what it knows of a block outside of it, \
               the others beside or inside."
            .to_owned(),
        columns: columns(false),
        rows: pages.rows.into_iter().map(without_memory).collect(),
    };
    Ok(Comparison { tables: [object_table, page_table], findings })
}

/// The rows of a table, and what they say of wrong things.
struct Side {
    events: &'static str,
    expected: Totals,
    rows: Vec<Vec<Cell>>,
    findings: Vec<String>,
}

impl Side {
    fn new(events: &'static str, expected: Totals) -> Self {
        Self { events, expected, rows: Vec::new(), findings: Vec::new() }
    }

    fn add(&mut self, name: &str, done: Done) {
        let difference = done.difference_from(&self.expected);
        let verdict = verdict(&done, difference.as_deref());
        if difference.is_some() || done.findings.count() > 0 {
            self.findings.push(format!("{name}, {}: {verdict}", self.events));
        }
        self.rows.push(row(name, &done, verdict));
    }

    /// Adds the result of a rival. The result is `None` when the rival panicked, and its inner
    /// value is `None` when it is not built in.
    fn add_rival(
        &mut self,
        name: &str,
        came: Result<Option<Result<Done, ReplayError>>, Box<dyn Any + Send>>,
    ) -> Result<(), ReplayError> {
        match came {
            Ok(Some(done)) => self.add(name, done?),
            Ok(None) => self.rows.push(failed(name, "not built in: --features rivals".to_owned())),
            Err(panic) => {
                let said = panic.downcast_ref::<String>().map(String::as_str);
                let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
                let verdict = format!("FAILED: panicked: {}", said.unwrap_or("nothing was said"));
                self.findings.push(format!("{name}, {}: {verdict}", self.events));
                self.rows.push(failed(name, verdict));
            }
        }
        Ok(())
    }
}

/// Columns of memory.
const MEMORY: std::ops::Range<usize> = 7..9;

fn columns(has_memory: bool) -> Vec<Column> {
    let ns = |name| column(name, Unit::Nanoseconds);
    let mut columns = vec![
        column("allocator", Unit::Text),
        column("replayed in", Unit::Seconds),
        ns("allocate: mean"),
        ns("allocate: p99"),
        ns("free: mean"),
        ns("free: p99"),
        ns("maximum"),
    ];
    if has_memory {
        columns.extend([column("memory", Unit::Bytes), column("of live", Unit::Ratio)]);
    }
    columns.push(column("verdict", Unit::Text));
    columns
}

fn without_memory(mut row: Vec<Cell>) -> Vec<Cell> {
    row.drain(MEMORY);
    row
}

fn failed(name: &str, why: String) -> Vec<Cell> {
    let mut row = vec![Cell::Empty; MEMORY.end];
    row[0] = Cell::text(name);
    row.push(Cell::Text(why));
    row
}

fn row(name: &str, done: &Done, verdict: String) -> Vec<Cell> {
    let p99 = |times: &Times| Cell::number(times.value_at_quantile(0.99));
    let mean = |times: &Times| Cell::Number(times.mean().round());
    let maximum = done.allocations.max().max(done.frees.max());
    let (memory, ratio) = match done.peak_bytes {
        0 => (Cell::Empty, Cell::Empty),
        bytes => {
            let live = Some(done.live_bytes).filter(|live| *live > 0);
            let ratio = live.map(|live| Cell::Number(bytes as f64 / live as f64));
            (Cell::number(bytes), ratio.unwrap_or(Cell::Empty))
        }
    };
    vec![
        Cell::text(name),
        Cell::Number(done.seconds),
        mean(&done.allocations),
        p99(&done.allocations),
        mean(&done.frees),
        p99(&done.frees),
        Cell::number(maximum),
        memory,
        ratio,
        Cell::Text(verdict),
    ]
}

fn verdict(done: &Done, difference: Option<&str>) -> String {
    let compared = match difference {
        Some(text) => format!("OTHER TOTALS: {text}"),
        None => "same totals".to_owned(),
    };
    let totals = match &done.stopped {
        Some(stopped) if done.reached_the_end => format!("{compared}; {stopped}"),
        Some(stopped) => stopped.clone(),
        None => compared,
    };
    match (done.findings.shown(), done.is_checked) {
        ([first, ..], _) => {
            let what = first.splitn(3, ':').last().unwrap_or(first).trim();
            format!("FAILED {} times: {what}; {totals}", thousands(done.findings.count()))
        }
        _ if done.stopped.is_some() => totals,
        (_, Some(true)) => format!("{totals}, every pattern intact"),
        (_, Some(false)) => format!("{totals}, patterns not checked"),
        (_, None) => totals,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io;
    use std::ops::ControlFlow;
    use std::ptr::NonNull;
    use std::time::Instant;

    use page_frame::OutOfMemory;

    use super::*;
    use crate::replay::pipeline::replay;
    use crate::replay::target::{NoCache, ObjectTarget, PageTarget};

    /// A delay that exceeds any patience.
    const PER_FREE: Duration = Duration::from_millis(5);

    /// Counts only, and takes its time for it.
    struct SlowToFree;

    // SAFETY: not `BACKED`, so nothing is promised.
    unsafe impl ObjectTarget for SlowToFree {
        type Cache = ();

        const BACKED: bool = false;

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
    }

    /// Returns a trace with the given numbers of allocations and frees.
    fn source(allocations: u64, frees: u64) -> Source {
        let allocations = (0..allocations).map(|n| format!("a,0,0,{:x},64,64,0,0\n", 64 * (n + 1)));
        let frees = (0..frees).map(|n| format!("f,0,0,{:x}\n", 64 * (n + 1)));
        let text: String = allocations.chain(frees).collect();
        Source::reader("t", io::Cursor::new(format!("!g,0,G\n!s,0,S\n{text}")))
            .expect("it can be read")
    }

    fn verdict_of(row: &[super::Cell]) -> String {
        row.last().expect("a row has a verdict").base()
    }

    const OPTIONS: Options = Options { checks: true, cpus: None };

    #[test]
    fn one_that_is_too_slow_is_stopped_within_a_batch_and_while_everything_is_freed() {
        for (frees, expected) in [
            (2000, "too slow: stopped after 0.05 s, at event 2,0"),
            (0, "same totals; too slow: stopped after 0.05 s, freeing the rest"),
        ] {
            let started = Instant::now();
            let patience = Duration::from_millis(50);
            let run = Run { source: Ok(source(2000, frees)), options: OPTIONS, patience };
            let done = run.objects(|| Ok(SlowToFree)).expect("the trace is well formed");
            // Those of a run that ended before are not looked at, whatever they are.
            let other = done.totals.iter().map(|(name, count)| (*name, count + 1)).collect();
            let difference = done.difference_from(&other);
            assert_eq!(difference.is_some(), frees == 0, "{difference:?}");
            let verdict = verdict(&done, None);
            assert!(verdict.starts_with(expected), "{verdict}");
            assert!(started.elapsed() < 400 * PER_FREE, "all frees would take 2000");
        }
    }

    #[test]
    fn whoever_runs_out_of_pages_or_is_too_slow_with_them_is_said_to() {
        /// Has no blocks for the first 200 requests, or takes its time for all.
        struct Scarce(u64, Duration);
        impl PageTarget for Scarce {
            fn allocate(&mut self, _: u8, _: u8) -> Result<u64, OutOfMemory> {
                std::thread::sleep(self.1);
                self.0 += 1;
                if self.0 > 200 { Ok(self.0) } else { Err(OutOfMemory) }
            }

            fn free(&mut self, _: u64, _: u8) -> Result<(), String> {
                Ok(())
            }
        }
        let play = |nap| {
            let blocks: String = (0..300).map(|n| format!("p,0,0,{n:x},1,0,0\n")).collect();
            let text = io::Cursor::new(format!("!g,0,G\n{blocks}"));
            let source = Source::reader("t", text).expect("it can be read");
            let run = Run { source: Ok(source), options: OPTIONS, patience: PER_FREE * 10 };
            let mut side = Side::new("pages", vec![]);
            side.add("scarce", run.pages(|| Ok(Scarce(0, nap))).expect("well formed"));
            (side.findings, verdict_of(&side.rows[0]))
        };
        let verdict = "FAILED 200 times: no memory for a block of order 1; same totals";
        let (findings, said) = play(Duration::ZERO);
        assert_eq!((findings, &*said), (vec![format!("scarce, pages: {verdict}")], verdict));
        let (_, said) = play(PER_FREE);
        assert!(said.contains("too slow: stopped after 0.05 s, at event "), "{said}");
    }

    #[test]
    fn a_panic_is_a_finding() {
        let mut side = Side::new("objects", vec![]);
        side.add_rival("bad", Err(Box::new("mine"))).expect("nothing is wrong with the trace");
        assert_eq!(verdict_of(&side.rows[0]), "FAILED: panicked: mine");
        assert_eq!(side.findings, ["bad, objects: FAILED: panicked: mine"]);
    }

    #[test]
    fn totals_that_differ_are_said_and_patterns_are_not_praised_unseen() {
        let opened = Cell::new(0);
        // The trace grows between two looks.
        let reopen = || {
            opened.set(opened.get() + 1);
            Ok(source(3 + opened.get() / 5, 1))
        };
        let compared = |checks| {
            let nothing = |_| Ok((CountOnly, CountOnly));
            let played = replay(source(3, 1), OPTIONS, nothing, |_, _| ControlFlow::Continue(()));
            let expected = played.expect("the trace is well formed").finish();
            opened.set(0);
            let options = Options { checks, cpus: None };
            let rivals = ["system".to_owned()];
            compare(&reopen, &rivals, 1 << 24, options, Duration::MAX, &expected, |_| ())
                .expect("well formed")
        };
        let verdicts = |comparison: &Comparison| -> Vec<String> {
            comparison.tables[0].rows.iter().map(|row| verdict_of(row)).collect()
        };
        let checked = compared(true);
        let difference = "expected 3 objects allocated, found 4";
        let verdict = format!("OTHER TOTALS: {difference}, every pattern intact");
        assert_eq!(checked.findings, [format!("system, objects: {verdict}")]);
        assert_eq!(
            verdicts(&checked),
            [
                "same totals, every pattern intact".to_owned(),
                "same totals, patterns not checked".to_owned(),
                verdict,
            ]
        );
        let unchecked = verdicts(&compared(false));
        assert!(
            unchecked.iter().all(|text| text.ends_with("patterns not checked")),
            "{unchecked:?}"
        );
    }
}
