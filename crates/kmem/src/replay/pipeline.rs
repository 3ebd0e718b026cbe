//! Reads and replays in parallel: one thread decodes, one parses, and the caller's thread replays.
//!
//! Batches circulate between the parser and the replay over bounded channels, so the faster of the
//! two waits for the slower. The number of batches does not depend on the length of the trace.

use std::io;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use super::caches::CacheState;
use super::caller::sort;
use super::objects::{Objects, Request};
use super::outcome::{CacheUse, Findings, Outcome};
use super::pages::{self, Pages};
use super::target::{ObjectTarget, PageTarget};
use crate::input_error::{InputError, Mismatch};
use crate::trace::event::{Action, Event};
use crate::trace::losses::Losses;
use crate::trace::read_ahead::Ahead;
use crate::trace::reader::{Batch, EVENTS_PER_BATCH, TraceReader};
use crate::trace::source::{Source, Text};

/// Batches in flight.
const BATCHES: usize = 8;

/// Number of events between the prefetch of an object or block and its use: about the latency of a
/// cache miss.
const PREFETCHED: usize = 8;

/// Parts in which a trace of one batch is replayed.
const PARTS: usize = 64;

/// How a trace is to be replayed.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Whether objects carry a pattern that is checked.
    pub checks: bool,
    /// The number of CPU slots; `None` means the number of CPUs in the trace.
    pub cpus: Option<u16>,
}

/// The state of a replay after a batch. Objects and blocks are still live.
pub struct Replay<T: ObjectTarget, P: PageTarget> {
    /// The object side.
    pub objects: Objects<T>,
    /// The page side.
    pub pages: Pages<P>,
    outcome: Outcome,
    last_line: u64,
    micros: u64,
    counts_pinned: bool,
}

/// Why a replay ended early.
#[derive(Debug)]
pub enum ReplayError {
    /// The input is not a trace, or the trace requests something impossible.
    Input(InputError),
    /// The system gave no memory or no thread.
    System(io::Error),
}

impl From<InputError> for ReplayError {
    fn from(error: InputError) -> Self {
        Self::Input(error)
    }
}

impl From<io::Error> for ReplayError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// Replays `source` to its end.
///
/// `targets` makes both targets for a number of CPU slots: `options.cpus`, or one more than the
/// highest CPU in the first batch. A higher CPU in a later batch shares a slot. `replay` calls
/// `watch` after each batch, and more often in a trace of one batch, with the replay and the number
/// of input bytes read; `watch` may end the replay early.
///
/// # Errors
/// [`ReplayError`].
pub fn replay<T: ObjectTarget, P: PageTarget>(
    source: Source,
    options: Options,
    targets: impl FnOnce(u16) -> io::Result<(T, P)>,
    mut watch: impl FnMut(&mut Replay<T, P>, u64) -> ControlFlow<()>,
) -> Result<Replay<T, P>, ReplayError> {
    let started = Instant::now();
    let bytes_read = source.progress();
    let trace = source.name().to_owned();
    let (filled, to_replay) = sync_channel::<Result<Batch, InputError>>(BATCHES);
    let (emptied, to_fill) = sync_channel::<Batch>(BATCHES);
    for _ in 0..BATCHES {
        emptied.send(Batch::default()).expect("the channel has room for all batches");
    }
    let ahead = Ahead::new(source)?;
    std::thread::scope(|scope| {
        let reading = std::thread::Builder::new().name("trace reader".into());
        reading.spawn_scoped(scope, move || read(TraceReader::new(ahead), &to_fill, &filled))?;
        // Owned here, so that an early return closes the channels, which ends the reader.
        let (emptied, to_replay) = (emptied, to_replay);
        let Ok(first) = to_replay.recv() else { unreachable!("the reader sends before it ends") };
        let first = first?;
        let seen = || first.events.iter().map(|event| event.cpu).max().unwrap_or(0) + 1;
        let cpus = options.cpus.unwrap_or_else(seen);
        let (objects, pages) = targets(cpus)?;
        let mut replay = Replay {
            objects: Objects::new(objects, options.checks),
            pages: Pages::new(pages),
            outcome: Outcome::new(&trace),
            last_line: 0,
            micros: 0,
            counts_pinned: false,
        };
        let mut next = Some(first);
        while let Some(batch) = next {
            replay.begin(&batch);
            // A trace of one batch is watched in parts: a chart of one moment shows nothing.
            let events = batch.events.len();
            let is_small = replay.outcome.events == 0 && events < EVENTS_PER_BATCH;
            let part = if is_small { events.div_ceil(PARTS) } else { events }.max(1);
            let mut from = 0;
            let is_ended = loop {
                let to = events.min(from + part);
                replay.play(&batch, from..to, cpus)?;
                let watched = watch(&mut replay, bytes_read.load(Ordering::Relaxed));
                if watched.is_break() || replay.has_given_up() || to == events {
                    break watched.is_break() || replay.has_given_up();
                }
                from = to;
            };
            if is_ended {
                replay.outcome.is_complete = false;
                break;
            }
            // Fails once the reader has read everything and ended; the batch is not needed then.
            let _ = emptied.send(batch);
            next = to_replay.recv().ok().transpose()?;
        }
        replay.outcome.duration = started.elapsed();
        Ok(replay)
    })
}

/// Reads all batches of a trace; ends early when the replay has closed its channels.
fn read(
    mut reader: TraceReader<Ahead>,
    to_fill: &Receiver<Batch>,
    filled: &SyncSender<Result<Batch, InputError>>,
) {
    while let Ok(mut batch) = to_fill.recv() {
        match reader.read_batch(&mut batch) {
            Ok(more) => {
                if filled.send(Ok(batch)).is_err() || !more {
                    return;
                }
            }
            Err(error) => {
                // Fails only if the replay has ended, which then does not need the error.
                let _ = filled.send(Err(error));
                return;
            }
        }
    }
}

impl<T: ObjectTarget, P: PageTarget> Replay<T, P> {
    /// Returns how many events were replayed so far.
    pub fn events(&self) -> u64 {
        self.outcome.events
    }

    /// Returns the time of the trace so far, in microseconds.
    pub fn micros(&self) -> u64 {
        self.micros
    }

    /// Makes `finish` count what call sites pin, which takes a look at every live object and block.
    pub fn count_pinned(&mut self) {
        self.counts_pinned = true;
    }

    /// Returns the losses that the recording reported so far.
    pub fn losses(&self) -> Losses {
        self.outcome.losses
    }

    /// Returns how long replaying took, from the first byte read to the last event.
    pub fn duration(&self) -> std::time::Duration {
        self.outcome.duration
    }

    /// Returns whether the trace was replayed to its end.
    pub fn is_complete(&self) -> bool {
        self.outcome.is_complete
    }

    /// Takes over what a batch has beside events.
    fn begin(&mut self, batch: &Batch) {
        for (id, name) in &batch.new_names {
            self.objects.name(*id, name);
            self.pages.name_site(*id, name);
        }
        for (id, name) in &batch.new_gfps {
            self.pages.name_gfp(*id, name);
        }
        let failed = self.outcome.failed_in_recording.iter_mut().zip(batch.failed);
        failed.for_each(|(sum, failed)| *sum += failed);
        self.outcome.losses.add(batch.losses);
    }

    /// Replays a part of the events of a batch.
    fn play(&mut self, batch: &Batch, part: Range<usize>, cpus: u16) -> Result<(), InputError> {
        let start_micros = batch.start_ns / 1000;
        let events = &batch.events[part];
        let mut played = 0;
        for event in events {
            played += 1;
            if let Some(later) = events.get(played + PREFETCHED - 1) {
                self.prefetch(later);
            }
            let line = batch.first_line + u64::from(event.line_in_batch);
            let micros = start_micros + u64::from(event.micros_in_batch);
            let moment = Moment { micros, line, cpus };
            let trace = &self.outcome.trace;
            let mismatch = |mismatch: Mismatch| mismatch.at_line(trace, line);
            play(&mut self.objects, &mut self.pages, event, moment, &mut self.outcome.findings)
                .map_err(mismatch)?;
            if self.has_given_up() {
                break;
            }
        }
        self.outcome.events += played as u64;
        if let Some(last) = played.checked_sub(1).map(|last| events[last]) {
            self.last_line = batch.first_line + u64::from(last.line_in_batch);
            self.micros = start_micros + u64::from(last.micros_in_batch);
        }
        Ok(())
    }

    #[inline(always)]
    fn has_given_up(&self) -> bool {
        self.objects.target().has_given_up() || self.pages.target().has_given_up()
    }

    #[inline(always)]
    fn prefetch(&self, event: &Event) {
        match event.action {
            Action::AllocateBytes { object, .. }
            | Action::AllocateObject { object, .. }
            | Action::FreeObject { object } => self.objects.prefetch(object),
            Action::AllocatePages { frame, .. } | Action::FreePages { frame, .. } => {
                self.pages.prefetch(frame);
            }
        }
    }

    /// Frees all live objects and blocks, shrinks both targets, and returns the outcome. If a
    /// target gives up, or gave up before, the rest stays live and the outcome is not complete.
    pub fn finish(mut self) -> Outcome {
        let mut outcome = self.outcome;
        outcome.objects = self.objects.totals().clone();
        outcome.pages = self.pages.totals().clone();
        let used = |state: CacheState| CacheUse {
            name: state.name,
            requested_bytes: state.requested_bytes,
            allocations: state.allocations,
            peak_bytes: state.at_peak.bytes,
            live_bytes: state.live.bytes,
        };
        outcome.caches = self.objects.caches().into_iter().map(used).collect();
        outcome.caches.sort_by(|one, other| {
            other.allocations.cmp(&one.allocations).then_with(|| one.name.cmp(&other.name))
        });
        let kmalloc = Some(self.objects.kmalloc()).filter(|kmalloc| kmalloc.allocations > 0);
        outcome.kmalloc = kmalloc.map(used);
        outcome.callers = match self.counts_pinned {
            true => [self.objects.pinning_callers(), self.pages.pinning_callers()].concat(),
            false => [self.objects.callers(), self.pages.callers()].concat(),
        };
        sort(&mut outcome.callers);
        outcome.peak_micros = [self.objects.peak_micros(), self.pages.peak_micros()];
        self.objects.finish(self.last_line, &mut outcome.findings);
        self.pages.finish(self.last_line, &mut outcome.findings);
        outcome.is_complete &=
            !self.objects.target().has_given_up() && !self.pages.target().has_given_up();
        outcome.stack = self.objects.target().totals();
        outcome.page_splits_and_merges = self.pages.target().splits_and_merges();
        outcome.buddy_equals_initial =
            self.objects.target().is_as_at_start() && self.pages.target().is_as_at_start();
        outcome
    }
}

/// Where an event is in its trace.
#[derive(Clone, Copy)]
struct Moment {
    /// The time of the trace in microseconds.
    micros: u64,
    line: u64,
    /// The number of CPU slots of the replay.
    cpus: u16,
}

#[inline(always)]
fn play<T: ObjectTarget, P: PageTarget>(
    objects: &mut Objects<T>,
    pages: &mut Pages<P>,
    event: &Event,
    Moment { micros, line, cpus }: Moment,
    findings: &mut Findings,
) -> Result<(), Mismatch> {
    let cpu = if event.cpu < cpus { event.cpu } else { event.cpu % cpus };
    match event.action {
        Action::AllocateBytes { object, requested_bytes, allocated_bytes, site } => {
            objects.switch_to(cpu, micros);
            let request = Request { object, requested_bytes, allocated_bytes, site };
            objects.allocate_bytes(&request, line, findings);
        }
        Action::AllocateObject { object, requested_bytes, allocated_bytes, cache, site } => {
            objects.switch_to(cpu, micros);
            let site = site.into();
            let request = Request { object, requested_bytes, allocated_bytes, site };
            objects.allocate_object(&request, cache, line, findings)?;
        }
        Action::FreeObject { object } => {
            objects.switch_to(cpu, micros);
            objects.free(object, line, findings);
        }
        Action::AllocatePages { frame, order, migratetype, gfp, site } => {
            pages.switch_to(cpu, micros);
            let request = pages::Request { frame, order, migratetype, gfp, site };
            pages.allocate(&request, line, findings);
        }
        Action::FreePages { frame, order } => {
            pages.switch_to(cpu, micros);
            pages.free(frame, order, line, findings);
        }
    }
    Ok(())
}
