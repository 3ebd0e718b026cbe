//! The commands: what each does with terminal, files and the library.

use std::fs::File;
use std::io::{self, IsTerminal, Write, stdout};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kmem::input_error::{InputError, Mismatch};
use kmem::replay::json::json;
use kmem::replay::outcome::Outcome;
use kmem::replay::pipeline::{self, Options, Replay, ReplayError};
use kmem::replay::report::report;
use kmem::replay::stack::Stack;
use kmem::trace::source::Source;
use kmem::walkthrough::style::Style;
use kmem::walkthrough::{buddy, pressure, slab};
use kmem::{buddyinfo, bundled};

use crate::cli::{ReplayRequest, Walkthrough};

/// Progress bars are drawn at most once in so many events.
const EVENTS_PER_TICK: u64 = 1 << 16;

/// How long a step of a walkthrough stays on a terminal.
const PAUSE: Duration = Duration::from_millis(900);
/// The same in the tour: its 34 steps take about nine seconds.
const TOUR_PAUSE: Duration = Duration::from_millis(280);

/// Why a command did not end well.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An allocator did something wrong; the report says what.
    Findings,
    /// An input is wrong.
    Input(InputError),
    /// Something could not be written, or the system gave no memory.
    System(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl From<InputError> for Failure {
    fn from(error: InputError) -> Self {
        Self::Input(error)
    }
}

impl From<ReplayError> for Failure {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::Input(error) => Self::Input(error),
            ReplayError::System(error) => Self::System(error),
        }
    }
}

/// All walkthroughs and the bundled trace, one after the other.
pub(crate) fn tour() -> Result<(), Failure> {
    for layer in [Walkthrough::Buddy, Walkthrough::Slab, Walkthrough::Pressure] {
        play(layer, false, TOUR_PAUSE)?;
    }
    let options = Options { checks: true, memory_bytes: 4 << 30 };
    let outcome = replay_one(bundled::source()?, options)?.finish();
    conclude(&[outcome], None)
}

/// One walkthrough.
pub(crate) fn walkthrough(layer: Walkthrough, plain: bool) -> Result<(), Failure> {
    play(layer, plain, PAUSE)
}

fn play(layer: Walkthrough, plain: bool, pause: Duration) -> Result<(), Failure> {
    let terminal = stdout().is_terminal();
    let pause = if terminal && !plain { pause } else { Duration::ZERO };
    let style = Style { plain, colour: has_colour() && !plain, pause };
    let mut out = stdout().lock();
    match layer {
        Walkthrough::Buddy => buddy::play(&mut out, &style)?,
        Walkthrough::Slab => slab::play(&mut out, &style)?,
        Walkthrough::Pressure => pressure::play(&mut out, &style)?,
    }
    Ok(out.flush()?)
}

/// Replays each trace and writes what was asked for.
pub(crate) fn replay(request: &ReplayRequest) -> Result<(), Failure> {
    let options = Options { checks: request.checks, memory_bytes: request.memory_bytes };
    let mut outcomes = Vec::new();
    let sources: Box<dyn Iterator<Item = Result<Source, InputError>>> =
        match request.traces.is_empty() {
            true => Box::new(std::iter::once_with(bundled::source)),
            false => Box::new(request.traces.iter().map(|path| Source::open(path))),
        };
    for source in sources {
        let replay = replay_one(source?, options)?;
        if let Some(path) = &request.slabinfo {
            write_file(path, &replay.objects.target().slabinfo())?;
        }
        if let Some(path) = &request.buddyinfo {
            let pages = replay.pages.target();
            write_file(path, &buddyinfo::line(0, "Normal", &pages.free_counts()))?;
        }
        outcomes.push(replay.finish());
    }
    conclude(&outcomes, request.json.as_deref())
}

fn replay_one(source: Source, options: Options) -> Result<Replay<Stack>, Failure> {
    let size = source.size_bytes();
    let bar = progress_bar(size);
    let mut next_tick = 0;
    let played = pipeline::replay(
        source,
        options,
        |cpus| Stack::new(options.memory_bytes, cpus),
        |events, bytes| {
            if events >= next_tick {
                next_tick = events + EVENTS_PER_TICK;
                bar.set_position(bytes);
            }
        },
    );
    bar.finish_and_clear();
    Ok(played?)
}

/// Returns a bar on standard error, which draws nothing where that is no terminal.
fn progress_bar(size_bytes: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(size_bytes, ProgressDrawTarget::stderr());
    let template = match size_bytes {
        Some(_) => "  replaying {bar:50} {percent:>3} %",
        None => "  replaying {spinner} {bytes}",
    };
    let style = ProgressStyle::with_template(template);
    bar.set_style(style.expect("the template is well formed"));
    bar
}

/// Writes reports and JSON, and says whether everything was right.
fn conclude(outcomes: &[Outcome], json_path: Option<&Path>) -> Result<(), Failure> {
    let json_alone = json_path.is_some_and(|path| path == Path::new("-"));
    let mut out = stdout().lock();
    if json_alone {
        out.write_all(json(outcomes).as_bytes())?;
    } else {
        for (index, outcome) in outcomes.iter().enumerate() {
            if index > 0 {
                writeln!(out)?;
            }
            report(&mut out, outcome, has_colour())?;
        }
        if let Some(path) = json_path {
            write_file(path, &json(outcomes))?;
        }
    }
    out.flush()?;
    match outcomes.iter().all(Outcome::is_sound) {
        true => Ok(()),
        false => Err(Failure::Findings),
    }
}

fn write_file(path: &Path, text: &str) -> Result<(), Failure> {
    let written = File::create(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| {
        Mismatch::new("a file that can be written", error.to_string())
            .in_file(&path.to_string_lossy())
            .into()
    })
}

fn has_colour() -> bool {
    let is_unset = |name| std::env::var_os(name).is_none_or(|value| value.is_empty());
    stdout().is_terminal() && is_unset("NO_COLOR")
}
