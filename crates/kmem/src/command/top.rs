//! `kmem top`: shows caches and refreshes the screen.

use std::io::{self, IsTerminal, Write, stdout};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use kmem::any_input;
use kmem::kernel_files::slabinfo::{self, Line, Slabinfo};
use kmem::replay::buddy_pages::BuddyPages;
use kmem::replay::pipeline::{self, Options, Replay};
use kmem::replay::stack::Stack;
use kmem::trace::losses::Losses;
use kmem::trace::source::Source;
use kmem::views::top::{Sort, screen};

use super::terminal::{Key, Terminal};
use super::{Failure, Screen};

/// Memory of a replay that is watched, in bytes.
const MEMORY_BYTES: usize = 4 << 30;
/// Interval at which a watched replay publishes its state.
const REFRESH: Duration = Duration::from_millis(100);
/// Minimum time between two refreshes.
const SHORTEST_LOOK: Duration = Duration::from_millis(100);
/// Maximum time between two refreshes of a replay.
const LONGEST_LOOK: Duration = Duration::from_secs(1);
/// The name that selects the bundled trace.
const BUNDLED: &str = "bundled";

pub(super) fn command() -> Command {
    Command::new("top")
        .about("Watch caches as slabtop does: the kernel's, a program's, or those of a replay")
        .after_help(
            "Keys: a b c l v n o p s u sort, Space refreshes, q quits.\n\
             a active objects, b objects per slab, c cache size, l slabs, v active slabs,\n\
             n name, o objects, p pages per slab, s object size, u use",
        )
        .arg(
            Arg::new("FILE")
                .value_parser(value_parser!(PathBuf))
                .default_value("/proc/slabinfo")
                .help("A file in slabinfo's format that is read again and again"),
        )
        .arg(
            Arg::new("replay")
                .long("replay")
                .value_name("TRACE")
                .num_args(0..=1)
                .value_parser(value_parser!(PathBuf))
                .default_missing_value(BUNDLED)
                .conflicts_with("FILE")
                .help("Watch a replay of this trace instead, at its own pace [without a name: the bundled one]"),
        )
        .arg(
            Arg::new("sort")
                .long("sort")
                .short('s')
                .value_name("KEY")
                .value_parser(["a", "b", "c", "l", "v", "n", "o", "p", "s", "u"])
                .default_value("o")
                .help("By what to sort"),
        )
        .arg(
            Arg::new("once")
                .long("once")
                .short('o')
                .action(ArgAction::SetTrue)
                .help("Show the caches once; of a replay at its end"),
        )
        .arg(
            Arg::new("delay")
                .long("delay")
                .short('d')
                .value_name("SECONDS")
                .value_parser(super::seconds)
                .default_value("3")
                .help("Time between two looks"),
        )
}

pub(super) fn run(matches: &ArgMatches, shown: Screen) -> Result<(), Failure> {
    let key = matches.get_one::<String>("sort").and_then(|key| key.chars().next());
    let sort = key.and_then(Sort::of).unwrap_or_default();
    let delay: Duration = *matches.get_one("delay").expect("the argument has a default");
    let delay = delay.max(SHORTEST_LOOK);
    let file = super::path(matches, "FILE").expect("the argument has a default");
    let once = matches.get_flag("once") || !stdout().is_terminal();
    let source = match super::path(matches, "replay") {
        Some(trace) if trace == Path::new(BUNDLED) => Some(kmem::bundled::source()?),
        Some(trace) => Some(Source::open(trace)?),
        None => None,
    };
    let watched = source.map(|source| Watched::start(source, once)).transpose()?;
    if once {
        let mut is_certain = true;
        let (lines, note) = match watched {
            Some(watched) => {
                let (lines, losses) = watched.wait()?;
                is_certain = losses.is_none();
                (lines, note_of_losses(losses))
            }
            None => {
                let read = read(file)?;
                let note = note_of(&read);
                (read.lines, note)
            }
        };
        let mut out = stdout().lock();
        for line in screen(lines, sort, &note) {
            writeln!(out, "{line}")?;
        }
        out.flush()?;
        return if is_certain { Ok(()) } else { Err(Failure::Findings) };
    }
    match watched {
        Some(watched) => watch(sort, delay.min(LONGEST_LOOK), shown, look_at_replay(watched)),
        None => watch(sort, delay, shown, look_at_file(file)?),
    }
}

/// The caches, and a note about them (may be empty).
type Look = (Vec<Line>, String);

/// Shows the result of `look` at intervals until `q` is pressed.
fn watch(
    mut sort: Sort,
    delay: Duration,
    shown: Screen,
    mut look: impl FnMut() -> Result<Look, Failure>,
) -> Result<(), Failure> {
    let mut terminal = Terminal::enter(shown.colour)?;
    loop {
        let (lines, note) = look()?;
        terminal.draw(&screen(lines, sort, &note), "OBJ SIZE")?;
        match terminal.key(delay)? {
            Some(Key::Quit) => return Ok(()),
            Some(Key::Letter(letter)) => sort = Sort::of(letter).unwrap_or(sort),
            None => {}
        }
    }
}

/// Returns a function that reads a file. When the file later disappears or is incomplete, the last
/// good state stays, with a note.
fn look_at_file(path: &Path) -> Result<impl FnMut() -> Result<Look, Failure>, Failure> {
    // Reads once before the screen is taken, so that an error stays visible.
    let mut last = read(path)?.lines;
    Ok(move || match read(path) {
        Ok(read) => {
            let note = note_of(&read);
            last = read.lines.clone();
            Ok((read.lines, note))
        }
        Err(Failure::Input(error)) => {
            Ok((last.clone(), format!(" waiting for the file; found now: {}", error.found())))
        }
        Err(failure) => Err(failure),
    })
}

/// Returns the note about a file's parts that could not be used; empty where all of it could.
fn note_of(read: &Slabinfo) -> String {
    read.complaint().map_or_else(String::new, |text| format!(" {text}"))
}

fn read(path: &Path) -> Result<Slabinfo, Failure> {
    let name = path.to_string_lossy();
    Ok(slabinfo::read(&name, any_input::open(path)?)?)
}

/// Returns a function that reads the state of a replay, which may end.
fn look_at_replay(mut watched: Watched) -> impl FnMut() -> Result<Look, Failure> {
    move || {
        let note = if watched.has_ended()? { " the replay has ended: its last state" } else { "" };
        let (lines, losses) = watched.look()?;
        Ok((lines, format!("{note}{}", note_of_losses(losses))))
    }
}

/// Returns the note about lost events; empty where nothing was lost.
fn note_of_losses(losses: Losses) -> String {
    match losses.is_none() {
        true => String::new(),
        false => format!(" {}", losses.sentence().join(" ")),
    }
}

/// What a replay on another thread shows.
#[derive(Default, Clone)]
struct Shown {
    slabinfo: String,
    losses: Losses,
}

/// A replay on another thread, which publishes its caches at intervals.
struct Watched {
    shown: Arc<Mutex<Shown>>,
    /// `None` after the thread was joined.
    thread: Option<std::thread::JoinHandle<Result<(), Failure>>>,
}

impl Watched {
    /// Starts the replay, at the trace's own pace unless `at_once`.
    fn start(source: Source, at_once: bool) -> io::Result<Self> {
        let shown = Arc::new(Mutex::new(Shown::default()));
        let to_show = Arc::clone(&shown);
        let thread = std::thread::Builder::new()
            .name("replay".into())
            .spawn(move || replay(source, at_once, &to_show))?;
        Ok(Self { shown, thread: Some(thread) })
    }

    /// Returns whether the replay has ended, or its error.
    fn has_ended(&mut self) -> Result<bool, Failure> {
        match self.thread.take_if(|thread| thread.is_finished()) {
            Some(thread) => join(thread).map(|()| true),
            None => Ok(self.thread.is_none()),
        }
    }

    fn look(&self) -> Result<(Vec<Line>, Losses), Failure> {
        // After a panic of the thread the text of the last refresh is still valid.
        let Shown { slabinfo, losses } =
            self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let lines = match slabinfo.is_empty() {
            true => Vec::new(),
            false => slabinfo::read("the replay", slabinfo.as_bytes())?.lines,
        };
        Ok((lines, losses))
    }

    /// Waits for the end and returns the last state.
    fn wait(mut self) -> Result<(Vec<Line>, Losses), Failure> {
        self.thread.take().map_or(Ok(()), join)?;
        self.look()
    }
}

fn join(thread: std::thread::JoinHandle<Result<(), Failure>>) -> Result<(), Failure> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn replay(source: Source, at_once: bool, shown: &Mutex<Shown>) -> Result<(), Failure> {
    let started = Instant::now();
    let mut last_shown = started;
    let options = Options { checks: false, cpus: None };
    let frames = MEMORY_BYTES / page_frame::PAGE_SIZE;
    let show = |replay: &Replay<Stack, BuddyPages>| {
        let now = Shown { slabinfo: replay.objects.target().slabinfo(), losses: replay.losses() };
        *shown.lock().unwrap_or_else(PoisonError::into_inner) = now;
    };
    let replay = pipeline::replay(
        source,
        options,
        |cpus| Ok((Stack::new(MEMORY_BYTES, cpus)?, BuddyPages::new(frames, cpus)?)),
        |replay, _| {
            let due = Duration::from_micros(replay.micros());
            if !at_once {
                std::thread::sleep(due.saturating_sub(started.elapsed()));
                if last_shown.elapsed() > REFRESH {
                    last_shown = Instant::now();
                    show(replay);
                }
            }
            ControlFlow::Continue(())
        },
    )?;
    show(&replay);
    Ok(())
}
