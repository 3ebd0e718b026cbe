//! The commands, one file each: arguments, terminal and files. The library does the work.

mod check;
mod comparison;
mod completions;
mod diff;
mod frag;
mod import;
mod machine;
mod map;
mod outputs;
mod plan;
mod replay;
pub(crate) mod signals;
mod terminal;
mod top;
mod tour;
mod walkthrough;

use std::io::{self, IsTerminal, stdout};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use kmem::input_error::InputError;
use kmem::output_file::{OutputFile, OutputFolder, Overwrite, remove_temporaries};
use kmem::replay::pipeline::ReplayError;
use kmem::trace::source::Source;

/// The reason why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something was found that the output describes.
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

/// Options that all commands share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    /// Whether standard output is coloured.
    pub(crate) colour: bool,
    /// Whether progress bars are hidden.
    pub(crate) quiet: bool,
}

/// The arguments of a command, and the function that runs it.
type Entry = (fn() -> Command, fn(&ArgMatches, Screen) -> Result<(), Failure>);

const COMMANDS: [Entry; 10] = [
    (walkthrough::command, walkthrough::run),
    (replay::command, replay::run),
    (import::command, import::run),
    (check::command, check::run),
    (diff::command, diff::run),
    (map::command, map::run),
    (frag::command, frag::run),
    (plan::command, plan::run),
    (top::command, top::run),
    (completions::command, completions::run),
];

/// Runs the command line. Exits on a usage error and after printing help.
pub(crate) fn run() -> Result<(), Failure> {
    let matches = command().get_matches();
    let screen = Screen { colour: has_colour(&matches), quiet: matches.get_flag("quiet") };
    let Some((name, arguments)) = matches.subcommand() else { return tour::run(screen) };
    let named = COMMANDS.iter().find(|(command, _)| command().get_name() == name);
    let (_, run) = named.expect("clap knows these commands only");
    run(arguments, screen)
}

fn command() -> Command {
    Command::new("kmem")
        .about("Look at memory: pictures drawn from the live state of the allocators")
        .version(env!("CARGO_PKG_VERSION"))
        .after_help(
            "Without a command: the tour. Where to begin:\n  \
             kmem walkthrough buddy        see blocks split and merge\n  \
             kmem replay                   see which cache holds most memory\n  \
             kmem replay --report r.html   see how fragmentation developed\n  \
             kmem replay --against system  compare with another allocator\n  \
             kmem check                    see leaks, by call site and cache\n  \
             kmem diff A B                 see what changed between two recordings\n\
             Exit status: 0 fine, 1 something was found, 2 the command line, an input or\n\
             the output is wrong.",
        )
        .arg(
            Arg::new("color")
                .long("color")
                .value_name("WHEN")
                .value_parser(["auto", "always", "never"])
                .default_value("auto")
                .global(true)
                .help("Colours; auto is on terminals, without NO_COLOR and TERM=dumb"),
        )
        .arg(
            Arg::new("quiet")
                .long("quiet")
                .short('q')
                .action(ArgAction::SetTrue)
                .global(true)
                .help("Show no progress"),
        )
        .subcommands(COMMANDS.map(|(command, _)| command()))
        .term_width(80)
}

/// Exits with a usage error of `command`.
fn refuse(command: Command, kind: ErrorKind, why: impl std::fmt::Display) -> ! {
    remove_temporaries();
    let name = format!("kmem {}", command.get_name());
    command.bin_name(name).error(kind, why).exit()
}

fn has_colour(matches: &ArgMatches) -> bool {
    match matches.get_one::<String>("color").map(String::as_str) {
        Some("always") => true,
        Some("never") => false,
        _ => {
            let is_unset = |name| std::env::var_os(name).is_none_or(|value| value.is_empty());
            stdout().is_terminal() && is_unset("NO_COLOR") && !is_dumb()
        }
    }
}

/// Whether the terminal has neither colours nor a cursor that can be moved.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb")
}

/// Returns an option that names a file.
fn file(name: &'static str, help: &'static str) -> Arg {
    let named = PathBufValueParser::new().try_map(|path| match path == Path::new("-") {
        true => Err("a file's name; only --json takes - for standard output"),
        false => Ok(path),
    });
    Arg::new(name).long(name).value_name("FILE").value_parser(named).help(help)
}

/// Returns an option that names a folder.
fn folder(name: &'static str, help: &'static str) -> Arg {
    file(name, help).value_name("DIR")
}

/// Returns the argument for input files.
fn inputs(help: &'static str) -> Arg {
    Arg::new("FILE").num_args(0..).value_parser(value_parser!(PathBuf)).help(help)
}

fn path<'m>(matches: &'m ArgMatches, name: &str) -> Option<&'m Path> {
    matches.get_one::<PathBuf>(name).map(PathBuf::as_path)
}

fn paths(matches: &ArgMatches) -> Vec<&Path> {
    matches.get_many::<PathBuf>("FILE").unwrap_or_default().map(PathBuf::as_path).collect()
}

/// Opens the traces one after the other, or the bundled trace when none is named.
fn traces(matches: &ArgMatches) -> Box<dyn Iterator<Item = Result<Source, InputError>> + '_> {
    let paths = paths(matches);
    match paths.is_empty() {
        true => Box::new(std::iter::once_with(kmem::bundled::source)),
        false => Box::new(paths.into_iter().map(Source::open)),
    }
}

/// Returns the option that lets outputs replace recordings.
fn force() -> Arg {
    Arg::new("force")
        .long("force")
        .action(ArgAction::SetTrue)
        .help("Outputs may replace recordings and read-only\nfiles [default: other files only]")
}

/// How outputs are written, for the help of commands that write files.
const OUTPUTS: &str = "Outputs are written beside their place and then moved there: they are whole or\n\
     not there. A symbolic link is refused. A recording stays without --force.\n\
     Devices and pipes (/dev/stdout) are written directly.";

fn overwrite(matches: &ArgMatches) -> Overwrite {
    match matches.get_flag("force") {
        true => Overwrite::Anything,
        false => Overwrite::NoRecordings,
    }
}

/// Opens the output that the option `name` asks for.
fn output(matches: &ArgMatches, name: &str) -> Result<Option<OutputFile>, Failure> {
    let path = path(matches, name).filter(|path| *path != Path::new("-"));
    Ok(path.map(|path| OutputFile::open(path, overwrite(matches))).transpose()?)
}

/// Opens the folder that the option `name` asks for, for files of these names.
fn output_folder<'n>(
    matches: &ArgMatches,
    name: &str,
    names: impl IntoIterator<Item = &'n str>,
    extension: &'static str,
) -> Result<Option<OutputFolder>, Failure> {
    let open = |folder| OutputFolder::open(folder, names, extension, overwrite(matches));
    Ok(path(matches, name).map(open).transpose()?)
}

/// Parses `4G`, `512M`, `2048K` or a number of bytes.
fn bytes(text: &str) -> Option<usize> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits.parse::<usize>().ok().and_then(|number| number.checked_mul(1 << shift))
}

/// Parses a number of seconds, at most a day.
fn seconds(text: &str) -> Result<Duration, String> {
    text.parse::<f64>()
        .ok()
        .filter(|seconds| (0.0..=86_400.0).contains(seconds))
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "a number of seconds from 0 to 86400".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(
            (bytes("4G"), bytes("1024k"), bytes("7")),
            (Some(4 << 30), Some(1 << 20), Some(7))
        );
        for wrong in ["", "G", "-1", "4T", "99999999999999999999G", "ä"] {
            assert!(bytes(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn seconds_are_numbers_that_a_clock_can_wait_for() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!((seconds("0"), seconds("86400").is_ok()), (Ok(Duration::ZERO), true));
        for wrong in ["nan", "inf", "-inf", "-1", "86401", "1e99", "", "x"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
