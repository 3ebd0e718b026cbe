//! Replays a trace on our own allocators with a progress bar. Shared by `replay`, `map` and
//! comparisons.

use std::ops::ControlFlow;

use clap::ArgMatches;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kmem::input_error::InputError;
use kmem::replay::buddy_pages::{BuddyPages, Division};
use kmem::replay::pipeline::{self, Options, Replay};
use kmem::replay::stack::Stack;
use kmem::replay::target::{CountOnly, ObjectTarget, PageTarget};
use kmem::trace::source::{Source, Text};
use page_frame::{FrameNumber, FrameRange, PAGE_SIZE};

use super::{Failure, Screen};

/// Number of events between two updates of a progress bar.
const EVENTS_PER_TICK: u64 = 1 << 16;

/// The simulated machine of a replay.
#[derive(Clone)]
pub(super) struct Machine {
    /// Frames of the page side. `None`: as much memory as the object side has, without holes.
    pub(super) frames: Option<Vec<FrameRange>>,
    /// How the frames are divided into zones and nodes.
    pub(super) division: Division,
    pub(super) memory_bytes: usize,
    /// Share of the object side's memory that is withheld, in percent.
    pub(super) pressure: u8,
    pub(super) options: Options,
}

impl Machine {
    /// Returns a machine with one zone without holes, with nothing withheld.
    pub(super) fn new(memory_bytes: usize, options: Options) -> Self {
        Self { frames: None, division: Division::default(), memory_bytes, pressure: 0, options }
    }
}

/// Memory of each side where no other amount is asked for.
pub(super) const USUAL_BYTES: usize = 4 << 30;
/// Frames of the page side are a multiple of this number, 16 MiB.
const STEP_FRAMES: usize = 4096;

/// Returns a function that opens the trace of `source` once more; `None` for a stream.
pub(super) fn reopen(
    matches: &ArgMatches,
    source: &Source,
) -> Option<Box<dyn Fn() -> Result<Source, InputError>>> {
    let paths = super::paths(matches);
    if paths.is_empty() {
        return Some(Box::new(kmem::bundled::source));
    }
    let path = paths.into_iter().find(|path| path.to_string_lossy() == source.name())?;
    let path = path.is_file().then(|| path.to_owned())?;
    Some(Box::new(move || Source::open(&path)))
}

/// Returns the frames of a page side in which fragmentation can be seen: a quarter more than the
/// most pages that are live at once, and more if a request would fail. Reads the trace twice or
/// more.
pub(super) fn fitting_frames(
    reopen: &dyn Fn() -> Result<Source, InputError>,
    machine: &Machine,
) -> Result<Vec<FrameRange>, Failure> {
    let options = Options { checks: false, ..machine.options };
    let go_on = |_: &mut Replay<CountOnly, CountOnly>, _| ControlFlow::Continue(());
    let counted = pipeline::replay(reopen()?, options, |_| Ok((CountOnly, CountOnly)), go_on)?;
    let mut frames = counted.pages.totals().peak_live_pages as usize;
    loop {
        frames = (frames + frames / 4 + 1).next_multiple_of(STEP_FRAMES);
        let whole = FrameRange::new(FrameNumber::new(0), FrameNumber::new(frames));
        let replayed = pipeline::replay(
            reopen()?,
            options,
            |cpus| Ok((CountOnly, BuddyPages::with_ranges(&[whole], machine.division, cpus)?)),
            |replay, _| match replay.pages.totals().failed {
                0 => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            },
        )?;
        if replayed.pages.totals().failed == 0 || frames * PAGE_SIZE >= USUAL_BYTES {
            return Ok(vec![whole]);
        }
    }
}

/// Replays `source` on our object stack and our page allocator. `dress` may wrap both.
pub(super) fn play<T: ObjectTarget, P: PageTarget>(
    source: Source,
    machine: &Machine,
    screen: Screen,
    dress: impl FnOnce(Stack, BuddyPages) -> (T, P),
    mut watch: impl FnMut(&Replay<T, P>),
) -> Result<Replay<T, P>, Failure> {
    let bar = progress_bar(source.size_bytes(), screen);
    let mut next_tick = 0;
    let whole = FrameNumber::new(machine.memory_bytes / PAGE_SIZE);
    let whole = [FrameRange::new(FrameNumber::new(0), whole)];
    let frames = machine.frames.as_deref().unwrap_or(&whole);
    let played = pipeline::replay(
        source,
        machine.options,
        |cpus| {
            let stack = Stack::new(machine.memory_bytes, cpus)?.under_pressure(machine.pressure);
            Ok(dress(stack, BuddyPages::with_ranges(frames, machine.division, cpus)?))
        },
        |replay, bytes| {
            if replay.events() >= next_tick {
                next_tick = replay.events() + EVENTS_PER_TICK;
                bar.set_position(bytes);
            }
            watch(replay);
            ControlFlow::Continue(())
        },
    );
    bar.finish_and_clear();
    Ok(played?)
}

/// Returns a progress bar on standard error. It draws nothing when that is not a terminal.
pub(super) fn progress_bar(size_bytes: Option<u64>, screen: Screen) -> ProgressBar {
    let target = match screen.quiet || super::is_dumb() {
        true => ProgressDrawTarget::hidden(),
        false => ProgressDrawTarget::stderr(),
    };
    let bar = ProgressBar::with_draw_target(size_bytes, target);
    let template = match size_bytes {
        Some(_) => "  replaying {bar:50} {percent:>3} %",
        None => "  replaying {spinner} {bytes}",
    };
    let style = ProgressStyle::with_template(template);
    bar.set_style(style.expect("the template is well formed"));
    bar
}
