//! One allocator's turn in a comparison: a replay of a trace's object events, or of its page
//! events, timed and bounded.

use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use page_frame::PAGE_SIZE;

use crate::input_error::InputError;
use crate::picture::text::thousands;
use crate::replay::heap::{Heap, HeapPages, HeapTarget};
use crate::replay::outcome::{Findings, Outcome};
use crate::replay::pipeline::{Options, Replay, ReplayError, replay};
use crate::replay::rivals::Visit;
use crate::replay::target::{CountOnly, ObjectTarget, PageTarget};
use crate::replay::timed::Timed;
use crate::replay::times::Times;
use crate::trace::source::Source;

/// Totals by name.
pub(super) type Totals = Vec<(&'static str, u64)>;

/// The result of a run.
pub(super) struct Done {
    pub(super) seconds: f64,
    pub(super) allocations: Times,
    pub(super) frees: Times,
    pub(super) peak_bytes: u64,
    pub(super) live_bytes: u64,
    pub(super) totals: Totals,
    /// Why it was stopped.
    pub(super) stopped: Option<String>,
    /// Whether the run reached the trace's end. After that only the live allocations are freed.
    pub(super) reached_the_end: bool,
    /// Whether patterns were checked; `None` for a target without patterns.
    pub(super) is_checked: Option<bool>,
    pub(super) findings: Findings,
}

impl Done {
    /// Says which total is not that of `expected`; nothing of a run that was stopped before the
    /// end.
    pub(super) fn difference_from(&self, expected: &Totals) -> Option<String> {
        let mut pairs = expected.iter().zip(&self.totals);
        let ((name, expected), (_, found)) = pairs.find(|(one, other)| one != other)?;
        let (expected, found) = (thousands(*expected), thousands(*found));
        self.reached_the_end.then(|| format!("expected {expected} {name}, found {found}"))
    }
}

/// A replay to be done on any target.
pub(super) struct Run {
    pub(super) source: Result<Source, InputError>,
    pub(super) options: Options,
    pub(super) patience: Duration,
}

/// Its object events on a heap.
pub(super) struct OfObjects(pub(super) Run);
/// Its page events on a heap.
pub(super) struct OfPages(pub(super) Run);

impl Visit for OfObjects {
    type Output = Result<Done, ReplayError>;

    fn visit<H: Heap>(self, make: impl FnOnce() -> io::Result<H>) -> Self::Output {
        self.0.objects(|| make().map(HeapTarget))
    }
}

impl Visit for OfPages {
    type Output = Result<Done, ReplayError>;

    fn visit<H: Heap>(self, make: impl FnOnce() -> io::Result<H>) -> Self::Output {
        self.0.pages(|| make().map(HeapPages))
    }
}

impl Run {
    /// Replays the object events.
    pub(super) fn objects<T: ObjectTarget>(
        self,
        make: impl FnOnce() -> io::Result<T>,
    ) -> Result<Done, ReplayError> {
        let is_checked = Some(self.options.checks && T::BACKED);
        let patience = self.patience;
        let played = self.play(|| Ok((Timed::with_time_limit(make()?, patience), CountOnly)))?;
        let target = played.objects.target();
        let times = (target.allocations().clone(), target.frees().clone());
        let peak_bytes = (target.totals().peak_pages * PAGE_SIZE) as u64;
        let totals = |outcome: &Outcome| outcome.objects.named().into();
        Ok(Done { peak_bytes, is_checked, ..done(played, patience, times, totals) })
    }

    /// Replays the page events.
    pub(super) fn pages<P: PageTarget>(
        self,
        make: impl FnOnce() -> io::Result<P>,
    ) -> Result<Done, ReplayError> {
        let patience = self.patience;
        let played = self.play(|| Ok((CountOnly, Timed::with_time_limit(make()?, patience))))?;
        let target = played.pages.target();
        let times = (target.allocations().clone(), target.frees().clone());
        Ok(done(played, patience, times, |outcome| outcome.pages.named().into()))
    }

    fn play<T: ObjectTarget, P: PageTarget>(
        self,
        targets: impl FnOnce() -> io::Result<(T, P)>,
    ) -> Result<Replay<T, P>, ReplayError> {
        replay(self.source?, self.options, |_| targets(), |_, _| ControlFlow::Continue(()))
    }
}

/// Frees what is left and says what all of it came to, but for memory and checks.
fn done<T: ObjectTarget, P: PageTarget>(
    played: Replay<T, P>,
    patience: Duration,
    (allocations, frees): (Times, Times),
    totals: impl FnOnce(&Outcome) -> Totals,
) -> Done {
    let seconds = played.duration().as_secs_f64();
    let reached_the_end = played.is_complete();
    let outcome = played.finish();
    let stopped = (!outcome.is_complete).then(|| {
        let at = match reached_the_end {
            true => "freeing the rest".to_owned(),
            false => format!("at event {}", thousands(outcome.events)),
        };
        format!("too slow: stopped after {} s, {at}", patience.as_secs_f64())
    });
    Done {
        seconds,
        allocations,
        frees,
        peak_bytes: 0,
        live_bytes: outcome.objects.peak_live_bytes,
        totals: totals(&outcome),
        stopped,
        reached_the_end,
        is_checked: None,
        findings: outcome.findings,
    }
}
