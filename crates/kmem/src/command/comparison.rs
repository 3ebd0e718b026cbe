//! `kmem replay --against`: replays the same trace on other allocators.

use std::path::Path;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Arg, ArgMatches, Command};
use indicatif::ProgressStyle;
use kmem::bundled;
use kmem::input_error::Mismatch;
use kmem::replay::outcome::Outcome;
use kmem::replay::pipeline::ReplayError;
use kmem::replay::rivals::{ALL, NAMES};
use kmem::report::compare::{Comparison, compare};
use kmem::trace::source::{Source, Text};

use super::machine::{Machine, progress_bar};
use super::{Failure, Screen, paths, refuse};

/// Returns the options of a comparison.
pub(super) fn arguments() -> [Arg; 2] {
    [
        Arg::new("against")
                .long("against")
                .value_name("NAME,...")
                .value_delimiter(',')
                .value_parser(ALL)
                .help("Replay on these allocators too and compare; all but system need `--features rivals`"),
        Arg::new("patience")
                .long("patience")
                .value_name("SECONDS")
                .value_parser(super::seconds)
                .default_value("30")
                .help("Stop each of them when its own code took so long for object events, or for page events"),
    ]
}

/// The other allocators that a trace is replayed on.
pub(super) struct Rivals<'m> {
    names: Vec<String>,
    /// The trace; `None` for the bundled one.
    trace: Option<&'m Path>,
    patience: Duration,
}

impl<'m> Rivals<'m> {
    /// Returns the allocators that `matches` names for this trace. `command` explains itself when
    /// one is not built in.
    pub(super) fn named(
        source: &Source,
        command: Command,
        matches: &'m ArgMatches,
    ) -> Result<Option<Self>, Failure> {
        let Some(names) = matches.get_many::<String>("against") else { return Ok(None) };
        if let Some(name) = names.clone().find(|name| !NAMES.contains(&name.as_str())) {
            let there = NAMES.join(", ");
            let why = format!(
                "{name} is not built in: build with `--features rivals`; built in: {there}"
            );
            refuse(command, ErrorKind::InvalidValue, why);
        }
        let name = source.name();
        let trace = paths(matches).into_iter().find(|path| path.to_string_lossy() == name);
        if trace.is_some_and(|path| !path.is_file()) {
            let mismatch =
                Mismatch::new("a trace that can be read again for each allocator", "a stream");
            return Err(mismatch.in_file(name).into());
        }
        let patience = *matches.get_one("patience").expect("the argument has a default");
        Ok(Some(Self { names: names.cloned().collect(), trace, patience }))
    }

    /// Replays the trace on each of them and compares with `expected`, the outcome on our own
    /// allocators.
    pub(super) fn compare(
        &self,
        machine: &Machine,
        expected: &Outcome,
        screen: Screen,
    ) -> Result<Comparison, ReplayError> {
        let bar = progress_bar(None, screen);
        bar.set_style(ProgressStyle::with_template("  replaying on {msg}").expect("well formed"));
        let reopen = || self.trace.map_or_else(bundled::source, Source::open);
        let Machine { memory_bytes, options, .. } = *machine;
        let begin = |name: &str| {
            bar.set_message(name.to_owned());
            bar.tick();
        };
        let compared =
            compare(&reopen, &self.names, memory_bytes, options, self.patience, expected, begin);
        bar.finish_and_clear();
        compared
    }
}
