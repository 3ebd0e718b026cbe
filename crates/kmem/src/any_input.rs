//! Input files of every kind, plain or as a zstd stream, text in UTF-8 or UTF-16: the first bytes
//! decide.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use crate::input_error::{InputError, Mismatch};
use crate::trace::plain_text::PlainText;
use crate::trace::source::unpacked;

/// Opens the file at `path`, `-` for standard input, and unpacks it if it is a zstd stream.
/// Text of other systems becomes plain text, see [`PlainText`].
///
/// # Errors
/// A file that cannot be opened or read.
pub fn open(path: &Path) -> Result<Box<dyn BufRead + Send>, InputError> {
    let name = path.to_string_lossy();
    let unreadable =
        |error: io::Error| Mismatch::new("a readable file", error.to_string()).in_file(&name);
    let from: Box<dyn Read + Send> = match &*name {
        "-" => Box::new(io::stdin()),
        _ => Box::new(File::open(path).map_err(unreadable)?),
    };
    let unpacked = unpacked(from).map_err(unreadable)?;
    Ok(Box::new(BufReader::new(PlainText::new(unpacked))))
}
