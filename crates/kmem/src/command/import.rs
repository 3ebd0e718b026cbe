//! `kmem import`: converts recordings of Linux to a compact trace.

#[cfg(feature = "perf-data")]
use std::fs::File;
#[cfg(feature = "perf-data")]
use std::io::Seek;
use std::io::{BufRead, BufWriter, Cursor, Read, Write, stdout};
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use kmem::any_input;
use kmem::import::compact::Counts;
use kmem::import::error::ImportError;
use kmem::import::text::{self, Unshown};
use kmem::input_error::Mismatch;
use kmem::picture::text::{counted, thousands};
use kmem::trace::source::Source;

use super::{Failure, OUTPUTS, Screen};
use crate::say;

pub(super) fn command() -> Command {
    Command::new("import")
        .about("Make a compact trace of perf.data, of perf script's text, or of the kernel's trace file")
        .after_help(format!(
            "Record with: perf record -e 'kmem:*' -a -- COMMAND\n\
             Names of programs, hosts and files are not kept.\n\
             Exit status: 0 fine, 1 the recording lost events or may have lost some,\n\
             2 the command line, the recording or the output is wrong.\n\
             {OUTPUTS}",
        ))
        .arg(
            Arg::new("FILE")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("The recording, - for standard input; plain or zstd"),
        )
        .arg(
            Arg::new("output")
                .long("output")
                .short('o')
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Where the trace goes [default: standard output]"),
        )
        .arg(
            Arg::new("lost-events-shown")
                .long("lost-events-shown")
                .action(ArgAction::SetTrue)
                .help(
                    "The text is of perf script --show-lost-events, so \
                     that where it shows no loss there was none",
                ),
        )
        .arg(super::force())
}

pub(super) fn run(matches: &ArgMatches, screen: Screen) -> Result<(), Failure> {
    let path = super::path(matches, "FILE").expect("it is required");
    let name = super::path(matches, "output").filter(|path| *path != Path::new("-"));
    let same = |output: &Path| {
        output
            .canonicalize()
            .is_ok_and(|output| path.canonicalize().is_ok_and(|path| path == output))
    };
    if let Some(name) = name.filter(|name| same(name)) {
        let mismatch = Mismatch::new("a file to write", "the recording itself");
        return Err(mismatch.in_file(&name.to_string_lossy()).into());
    }
    let unshown = match matches.get_flag("lost-events-shown") {
        true => Unshown::None,
        false => Unshown::Unknown,
    };
    let output = super::output(matches, "output")?;
    let counts = match output {
        None => import(path, stdout().lock(), unshown).map_err(|error| match error {
            ImportError::Input(error) => Failure::Input(error),
            ImportError::Output(error) => Failure::System(error),
        })?,
        Some(mut output) => {
            let counts = import(path, &mut output, unshown).map_err(|error| match error {
                ImportError::Input(error) => error,
                ImportError::Output(error) => output.unwritable(&error),
            })?;
            output.commit()?;
            counts
        }
    };
    let Counts { written, left_out, failed, hidden, unreadable, losses } = counts;
    if !screen.quiet {
        let (written, left_out) = (counted(written as usize, "event"), thousands(left_out));
        say(format_args!("{written}; {left_out} of other kinds or of null left out"));
        if failed > 0 {
            let failed = counted(failed as usize, "allocation");
            say(format_args!("{failed} of pages failed in the recorded kernel: left out"));
        }
    }
    if hidden > 0 {
        let hidden = counted(hidden as usize, "event");
        say(format_args!("{hidden} whose pointers the kernel has hidden: left out"));
    }
    if unreadable > 0 {
        let unreadable = counted(unreadable as usize, "event");
        say(format_args!("{unreadable} could not be read: counted as lost"));
    }
    if !losses.is_none() {
        let [first, second] = losses.sentence();
        say(format_args!("{first}\n{second}"));
    }
    if hidden > 0 || !losses.is_none() {
        return Err(Failure::Findings);
    }
    Ok(())
}

fn import(path: &Path, out: impl Write, unshown: Unshown) -> Result<Counts, ImportError> {
    let out = BufWriter::new(out);
    let name = path.to_string_lossy();
    if let Some(found) = folder_of_perf(path) {
        return Err(Mismatch::new("a file", found).in_file(&name).into());
    }
    let mut input = any_input::open(path)?;
    let mut start = Vec::with_capacity(START_BYTES);
    let read = input.by_ref().take(START_BYTES as u64).read_to_end(&mut start);
    if read.is_err() && path.is_file() {
        // The reader of text says what is wrong with the stream.
        return text::import(Source::open(path)?, out, unshown);
    }
    read.map_err(|error| Mismatch::new("readable input", error.to_string()).in_file(&name))?;
    if ["PERFILE2", "2ELIFREP"].iter().any(|magic| start.starts_with(magic.as_bytes())) {
        return binary(&name, path, &start, input, out);
    }
    if start.starts_with(b"\x17\x08\x44tracing") {
        let found = "a binary recording of trace-cmd; import the text of trace-cmd report";
        return Err(Mismatch::new("perf.data or text", found).in_file(&name).into());
    }
    if path.is_file() {
        // Opened once more, as the reader of text has better messages about broken streams.
        return text::import(Source::open(path)?, out, unshown);
    }
    text::import(Source::reader(&name, Cursor::new(start).chain(input))?, out, unshown)
}

/// Says what to import in place of a folder that perf wrote; `None` for anything else.
fn folder_of_perf(path: &Path) -> Option<String> {
    let file = Some(path.join("data")).filter(|file| path.is_dir() && file.is_file())?;
    Some(match path.join("data.0").is_file() {
        true => "a folder of perf record --threads; import the text of \
                 perf script --show-lost-events -i FOLDER"
            .to_owned(),
        false => format!("a folder of perf record --kcore; import {}", file.display()),
    })
}

/// Bytes that tell binary recordings apart: the magic number, and the size of the header.
const START_BYTES: usize = 16;

/// Imports `perf.data`, whose first bytes are `start` and whose rest is `input`.
#[cfg(feature = "perf-data")]
fn binary(
    name: &str,
    path: &Path,
    start: &[u8],
    mut input: Box<dyn BufRead + Send>,
    out: impl Write,
) -> Result<Counts, ImportError> {
    use kmem::import::perf_data;
    if perf_data::is_piped(start) {
        return perf_data::import_piped(name, Cursor::new(start.to_vec()).chain(input), out);
    }
    // A plain file is read where it is.
    let mut file =
        File::open(path).ok().filter(|file| file.metadata().is_ok_and(|it| it.is_file()));
    let mut own = [0; START_BYTES];
    if let Some(mut file) = file.take_if(|file| file.read_exact(&mut own).is_ok() && own == start) {
        file.rewind().map_err(ImportError::Output)?;
        return perf_data::import(name, std::io::BufReader::new(file), out);
    }
    let mut whole = start.to_vec();
    let read = input.read_to_end(&mut whole);
    read.map_err(|error| Mismatch::new("readable input", error.to_string()).in_file(name))?;
    perf_data::import(name, Cursor::new(whole), out)
}

#[cfg(not(feature = "perf-data"))]
fn binary(
    name: &str,
    _: &Path,
    _: &[u8],
    _: Box<dyn BufRead + Send>,
    _: impl Write,
) -> Result<Counts, ImportError> {
    let expected = "text (perf script), or kmem built with --features perf-data";
    Err(Mismatch::new(expected, "a binary recording").in_file(name).into())
}
