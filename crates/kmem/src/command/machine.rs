//! Replays a trace on our own allocators with a progress bar. Shared by `replay`, `map` and
//! comparisons.

use std::ops::ControlFlow;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kmem::replay::buddy_pages::{BuddyPages, Division};
use kmem::replay::pipeline::{self, Options, Replay};
use kmem::replay::stack::Stack;
use kmem::replay::target::{ObjectTarget, PageTarget};
use kmem::trace::source::Source;
use page_frame::{FrameNumber, FrameRange};

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
    let whole = FrameNumber::new(machine.memory_bytes / page_frame::PAGE_SIZE);
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
