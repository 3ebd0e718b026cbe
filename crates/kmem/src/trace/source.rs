//! The bytes of a trace: from a file, standard input or memory, plain or as a zstd stream.
//!
//! The first bytes decide whether it is zstd; the file's name does not matter.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::zstd::{Frames, MAGIC_BYTES, is_zstd};
use super::zstd_error::unreadable;
use crate::input_error::{InputError, Mismatch};

const READ_AHEAD_BYTES: usize = 128 << 10;

/// The first bytes, which were read to detect the format, followed by the rest.
type Input = BufReader<Chain<Cursor<Vec<u8>>, CountingRead>>;

/// The text of a trace, read piece by piece.
pub trait Text {
    /// Returns the name of the trace in messages.
    fn name(&self) -> &str;

    /// Reads text into `target` and returns how many bytes; zero is the end.
    ///
    /// # Errors
    /// Input that cannot be read or decoded.
    fn read(&mut self, target: &mut [u8]) -> Result<usize, InputError>;
}

/// An open trace as a stream of text.
pub struct Source {
    name: String,
    size_bytes: Option<u64>,
    bytes_read: Arc<AtomicU64>,
    form: Form,
}

enum Form {
    Plain(Input),
    Zstd(Box<Frames<Input>>),
}

/// A reader that counts the bytes read, for other threads.
struct CountingRead {
    from: Box<dyn Read + Send>,
    bytes_read: Arc<AtomicU64>,
}

impl Source {
    /// Opens the file at `path`; `-` is standard input.
    ///
    /// # Errors
    /// A file that cannot be opened or read.
    pub fn open(path: &Path) -> Result<Self, InputError> {
        let name = path.to_string_lossy().into_owned();
        if name == "-" {
            return Self::new(name, None, Box::new(io::stdin()));
        }
        let file = File::open(path)
            .map_err(|error| Mismatch::new("a readable file", error.to_string()).in_file(&name))?;
        // Pipes and devices have a length of zero, so it counts as unknown.
        let size_bytes = file.metadata().ok().map(|about| about.len()).filter(|&bytes| bytes > 0);
        Self::new(name, size_bytes, Box::new(file))
    }

    /// Reads `from`, which errors and reports call `name`.
    ///
    /// # Errors
    /// Input that cannot be read.
    pub fn reader(name: &str, from: impl Read + Send + 'static) -> Result<Self, InputError> {
        Self::new(name.to_owned(), None, Box::new(from))
    }

    /// Reads `bytes`, which errors and reports call `name`.
    ///
    /// # Errors
    /// None in practice; the type is that of [`Source::open`].
    pub fn bytes(name: &str, bytes: &'static [u8]) -> Result<Self, InputError> {
        Self::new(name.to_owned(), Some(bytes.len() as u64), Box::new(bytes))
    }

    fn new(
        name: String,
        size_bytes: Option<u64>,
        from: Box<dyn Read + Send>,
    ) -> Result<Self, InputError> {
        let bytes_read = Arc::new(AtomicU64::new(0));
        let mut counting = CountingRead { from, bytes_read: Arc::clone(&bytes_read) };
        // The first read of a pipe may return less than a magic number, which could begin text or a
        // frame.
        let mut start = Vec::with_capacity(MAGIC_BYTES);
        let read = counting.by_ref().take(MAGIC_BYTES as u64).read_to_end(&mut start);
        read.map_err(|error| unreadable(&error).in_file(&name))?;
        if start.is_empty() {
            return Err(Mismatch::new("a trace", "an empty file").in_file(&name));
        }
        let is_zstd = is_zstd(&start);
        let input = Cursor::new(start).chain(counting);
        let input = BufReader::with_capacity(READ_AHEAD_BYTES, input);
        let form =
            if is_zstd { Form::Zstd(Box::new(Frames::new(input))) } else { Form::Plain(input) };
        Ok(Self { name, size_bytes, bytes_read, form })
    }

    /// Returns the size of the encoded file in bytes, if it is known.
    pub fn size_bytes(&self) -> Option<u64> {
        self.size_bytes
    }

    /// Returns the counter of encoded bytes read, which keeps counting while the source is read.
    pub fn progress(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.bytes_read)
    }
}

/// Returns the bytes of `from`, unpacked if they are a zstd stream.
///
/// # Errors
/// When `from` cannot be read.
pub(crate) fn unpacked(mut from: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
    let mut start = Vec::with_capacity(MAGIC_BYTES);
    from.by_ref().take(MAGIC_BYTES as u64).read_to_end(&mut start)?;
    let is_zstd = is_zstd(&start);
    let input = Cursor::new(start).chain(from);
    match is_zstd {
        true => Ok(Box::new(Unpacked(Frames::new(BufReader::new(input))))),
        false => Ok(Box::new(input)),
    }
}

/// The content of a zstd stream as a reader.
struct Unpacked<R>(Frames<R>);

impl<R: BufRead> Read for Unpacked<R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let wrong =
            |mismatch: Mismatch| io::Error::new(io::ErrorKind::InvalidData, mismatch.instead());
        self.0.read(target).map_err(wrong)
    }
}

impl Text for Source {
    fn name(&self) -> &str {
        &self.name
    }

    fn read(&mut self, target: &mut [u8]) -> Result<usize, InputError> {
        let read = match &mut self.form {
            Form::Zstd(frames) => frames.read(target),
            Form::Plain(input) => loop {
                match input.read(target) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    read => break read.map_err(|error| unreadable(&error)),
                }
            },
        };
        read.map_err(|mismatch| mismatch.in_file(&self.name))
    }
}

impl Read for CountingRead {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(target)?;
        // Relaxed: a number for a progress bar, which publishes nothing.
        self.bytes_read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}
