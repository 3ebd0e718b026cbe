//! `kmem import`: converts recordings of Linux to a compact trace.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write, stdout};
use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Command, value_parser};
use kmem::import::compact::Counts;
use kmem::import::text::{self, ImportError};
use kmem::input_error::Mismatch;
use kmem::picture::text::thousands;
use kmem::trace::source::Source;

use super::{Failure, OUTPUTS, Screen};
use crate::say;

pub(super) fn command() -> Command {
    Command::new("import")
        .about("Make a compact trace of perf.data, of perf script's text, or of the kernel's trace file")
        .after_help(format!(
            "Record with: perf record -e 'kmem:*' -a -- COMMAND\n\
             Names of programs, hosts and files are not kept. Exit status 1: the recording lost events.\n\
             {OUTPUTS}",
        ))
        .arg(
            Arg::new("FILE")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("The recording, - for text on standard input"),
        )
        .arg(
            Arg::new("output")
                .long("output")
                .short('o')
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Where the trace goes [default: standard output]"),
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
    let output = super::output(matches, "output")?;
    let counts = match output {
        None => import(path, stdout().lock()).map_err(|error| match error {
            ImportError::Input(error) => Failure::Input(error),
            ImportError::Output(error) => Failure::System(error),
        })?,
        Some(mut output) => {
            let counts = import(path, &mut output).map_err(|error| match error {
                ImportError::Input(error) => error,
                ImportError::Output(error) => output.unwritable(&error),
            })?;
            output.commit()?;
            counts
        }
    };
    let Counts { written, left_out, failed, hidden, losses } = counts;
    if !screen.quiet {
        let (written, left_out) = (thousands(written), thousands(left_out));
        say(format_args!("{written} events; {left_out} of other kinds or of null left out"));
        if failed > 0 {
            let failed = thousands(failed);
            say(format_args!(
                "{failed} allocations of pages failed in the recorded kernel: left out"
            ));
        }
    }
    if hidden > 0 {
        let hidden = thousands(hidden);
        say(format_args!("{hidden} events whose pointers the kernel has hidden: left out"));
    }
    if !losses.is_none() {
        say(format_args!("the recording lost {losses}: totals will be too small"));
    }
    if hidden > 0 || !losses.is_none() {
        return Err(Failure::Findings);
    }
    Ok(())
}

fn import(path: &Path, out: impl Write) -> Result<Counts, ImportError> {
    let out = BufWriter::new(out);
    match perf_data(path) {
        Some(file) => binary(path, file, out),
        None => text::import(&mut Source::open(path)?, out),
    }
}

/// Opens the file if it is `perf.data`.
fn perf_data(path: &Path) -> Option<File> {
    let mut file = File::open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut start = [0; 8];
    file.read_exact(&mut start).ok()?;
    file.seek(SeekFrom::Start(0)).ok()?;
    (&start == b"PERFILE2").then_some(file)
}

#[cfg(feature = "perf-data")]
fn binary(path: &Path, file: File, out: impl Write) -> Result<Counts, ImportError> {
    let file = std::io::BufReader::new(file);
    kmem::import::perf_data::import(&path.to_string_lossy(), file, out)
}

#[cfg(not(feature = "perf-data"))]
fn binary(path: &Path, _: File, _: impl Write) -> Result<Counts, ImportError> {
    let expected = "text (perf script), or kmem built with --features perf-data";
    Err(Mismatch::new(expected, "a binary recording").in_file(&path.to_string_lossy()).into())
}
