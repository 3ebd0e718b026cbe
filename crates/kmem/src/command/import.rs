//! `kmem import`: converts recordings of Linux to a compact trace.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write, stdout};
use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Command, value_parser};
use kmem::import::compact::Counts;
use kmem::import::text::{self, ImportError};
use kmem::input_error::Mismatch;
use kmem::picture::text::thousands;
use kmem::trace::source::Source;

use super::{Failure, Screen};
use crate::say;

pub(super) fn command() -> Command {
    Command::new("import")
        .about("Make a compact trace of perf.data, of perf script's text, or of the kernel's trace file")
        .after_help(
            "Record with: perf record -e 'kmem:*' -a -- COMMAND\n\
             Names of programs, hosts and files are not kept. Exit status 1: the recording lost events.",
        )
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
}

pub(super) fn run(matches: &ArgMatches, screen: Screen) -> Result<(), Failure> {
    let path = super::path(matches, "FILE").expect("it is required");
    let output = super::path(matches, "output").filter(|path| *path != Path::new("-"));
    let imported = match output {
        None => import(path, stdout().lock()),
        Some(output) => {
            if output
                .canonicalize()
                .is_ok_and(|output| path.canonicalize().is_ok_and(|path| path == output))
            {
                let mismatch = Mismatch::new("a file to write", "the recording itself");
                return Err(mismatch.in_file(&output.to_string_lossy()).into());
            }
            super::spare_traces(output)?;
            let mut late = LateFile::new(output);
            import(path, &mut late).and_then(|counts| Ok(late.keep().map(|()| counts)?))
        }
    };
    let counts = imported.map_err(|error| match (error, output) {
        (ImportError::Input(error), _) => Failure::Input(error),
        (ImportError::Output(error), None) => Failure::System(error),
        (ImportError::Output(error), Some(output)) => {
            let mismatch = Mismatch::new("a file that can be written", error.to_string());
            mismatch.in_file(&output.to_string_lossy()).into()
        }
    })?;
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

/// An output file that appears only when it is complete. An input that is no recording, or that
/// ends early, leaves the old file in place.
struct LateFile {
    path: PathBuf,
    /// Where the output is written until then: a file beside its place, or the place itself when
    /// that is a pipe or a device.
    begun: PathBuf,
    file: Option<File>,
}

impl LateFile {
    fn new(path: &Path) -> Self {
        // The target of a symbolic link is written, not the link.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let begun = match path.metadata() {
            Ok(about) if !about.is_file() => path.clone(),
            _ => {
                let mut name = path.clone().into_os_string();
                name.push(".part");
                name.into()
            }
        };
        Self { path, begun, file: None }
    }

    /// Moves the complete file to its place.
    fn keep(mut self) -> io::Result<()> {
        match self.file.take() {
            Some(_) if self.begun != self.path => std::fs::rename(&self.begun, &self.path),
            _ => Ok(()),
        }
    }
}

impl Write for LateFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(File::create(&self.begun)?),
        };
        file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LateFile {
    fn drop(&mut self) {
        if self.file.is_some() && self.begun != self.path {
            // An incomplete trace is removed. A failure to remove it has no reader any more.
            let _ = std::fs::remove_file(&self.begun);
        }
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
