//! Makes plain text of the text files that other systems write: UTF-16 becomes UTF-8, and the
//! carriage returns of files without any line break become line breaks.
//!
//! # Concepts
//! The *start* of a file, up to its first line break, decides. A carriage return is a line break
//! only if there is no other one: names of programs may hold carriage returns. A start with a zero
//! byte is binary, unless every second byte is zero.

use std::io::{self, Read};

use super::source::Text;
use crate::input_error::InputError;

/// Maximum number of bytes that are read to find the first line break.
const START_BYTES: usize = 64 << 10;
/// Number of bytes that are read at once after that.
const PART_BYTES: usize = 32 << 10;

/// The form of a text file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// UTF-8, or a binary file: the bytes stay as they are.
    Plain,
    /// UTF-16, as PowerShell writes it.
    Utf16 {
        /// Whether the first byte of a unit is the high one.
        is_big_endian: bool,
    },
    /// Lines that end in a carriage return.
    Returns,
}

/// Returns the form of a file that begins with `start`.
pub fn form(start: &[u8]) -> Form {
    match *start {
        [0xff, 0xfe, ..] => return Form::Utf16 { is_big_endian: false },
        [0xfe, 0xff, ..] => return Form::Utf16 { is_big_endian: true },
        [one, 0, two, 0, ..] if one != 0 && two != 0 => {
            return Form::Utf16 { is_big_endian: false };
        }
        [0, one, 0, two, ..] if one != 0 && two != 0 => {
            return Form::Utf16 { is_big_endian: true };
        }
        _ => {}
    }
    let has = |byte| memchr::memchr(byte, start).is_some();
    if has(b'\r') && !has(b'\n') && !has(0) { Form::Returns } else { Form::Plain }
}

/// Text as plain text.
pub struct PlainText<T> {
    from: T,
    form: Option<Form>,
    /// Bytes that were read and not converted.
    read: Vec<u8>,
    /// Converted bytes, and how many of them were taken.
    converted: Vec<u8>,
    taken: usize,
    is_at_end: bool,
}

impl<T> PlainText<T> {
    /// Converts what `from` holds.
    pub fn new(from: T) -> Self {
        let (read, converted) = (Vec::new(), Vec::new());
        Self { from, form: None, read, converted, taken: 0, is_at_end: false }
    }

    /// Moves converted bytes to `target`, after reading more with `read` if there are none.
    fn fill<E>(
        &mut self,
        target: &mut [u8],
        mut read: impl FnMut(&mut T, &mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        if self.form == Some(Form::Plain) && self.taken == self.converted.len() {
            return read(&mut self.from, target);
        }
        while self.taken == self.converted.len() && !(self.is_at_end && self.read.is_empty()) {
            self.add(&mut read)?;
            let Some(form) = self.known_form() else { continue };
            self.form = Some(form);
            self.taken = 0;
            self.converted.clear();
            convert(form, &mut self.read, &mut self.converted, self.is_at_end);
        }
        let left = &self.converted[self.taken..];
        let length = left.len().min(target.len());
        target[..length].copy_from_slice(&left[..length]);
        self.taken += length;
        Ok(length)
    }

    /// Reads a part and adds it to the bytes that are not converted.
    fn add<E>(
        &mut self,
        read: &mut impl FnMut(&mut T, &mut [u8]) -> Result<usize, E>,
    ) -> Result<(), E> {
        let before = self.read.len();
        self.read.resize(before + PART_BYTES, 0);
        let got = read(&mut self.from, &mut self.read[before..]);
        self.read.truncate(before + *got.as_ref().unwrap_or(&0));
        self.is_at_end = got? == 0;
        Ok(())
    }

    /// Returns the form, once the start is long enough to tell it.
    fn known_form(&self) -> Option<Form> {
        let start = &self.read;
        let is_enough = self.is_at_end
            || start.len() >= START_BYTES
            || start.len() >= 4 && memchr::memchr(b'\n', start).is_some();
        self.form.or_else(|| is_enough.then(|| form(start)))
    }
}

/// Converts the bytes of `read`, but for half a character at its end.
fn convert(form: Form, read: &mut Vec<u8>, converted: &mut Vec<u8>, is_at_end: bool) {
    match form {
        Form::Plain => converted.append(read),
        Form::Returns => {
            let text = read.drain(..).map(|byte| if byte == b'\r' { b'\n' } else { byte });
            converted.extend(text);
        }
        Form::Utf16 { is_big_endian } => {
            let unit = |pair: &[u8]| match is_big_endian {
                true => u16::from_be_bytes([pair[0], pair[1]]),
                false => u16::from_le_bytes([pair[0], pair[1]]),
            };
            let mut whole = read.len() / 2 * 2;
            let is_half = |unit: u16| (0xd800..0xdc00).contains(&unit);
            if !is_at_end && whole > 0 && is_half(unit(&read[whole - 2..whole])) {
                whole -= 2;
            }
            for character in char::decode_utf16(read[..whole].chunks_exact(2).map(unit)) {
                let character = character.unwrap_or(char::REPLACEMENT_CHARACTER);
                converted.extend(character.encode_utf8(&mut [0; 4]).bytes());
            }
            read.drain(..whole);
            if is_at_end {
                read.clear();
            }
        }
    }
}

impl<R: Read> Read for PlainText<R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        self.fill(target, |from, part| {
            loop {
                match from.read(part) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    read => return read,
                }
            }
        })
    }
}

impl<T: Text> Text for PlainText<T> {
    fn name(&self) -> &str {
        self.from.name()
    }

    fn read(&mut self, target: &mut [u8]) -> Result<usize, InputError> {
        self.fill(target, Text::read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte at a time.
    struct Drops<'b>(&'b [u8]);

    impl Read for Drops<'_> {
        fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
            let Some((first, rest)) = self.0.split_first() else { return Ok(0) };
            (target[0], self.0) = (*first, rest);
            Ok(1)
        }
    }

    fn plain(bytes: &[u8]) -> Vec<u8> {
        let (mut at_once, mut in_drops) = (Vec::new(), Vec::new());
        PlainText::new(bytes).read_to_end(&mut at_once).expect("it is readable");
        PlainText::new(Drops(bytes)).read_to_end(&mut in_drops).expect("it is readable");
        assert_eq!(at_once, in_drops);
        at_once
    }

    fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(bytes).collect()
    }

    /// Mutation that it catches: half a character at the end of a part is converted.
    #[test]
    fn utf_16_becomes_utf_8_with_and_without_a_mark() {
        let text = "# tracer\r\n caf\u{e9} \u{1f980}\n";
        for bytes in [u16::to_le_bytes, u16::to_be_bytes] {
            assert_eq!(plain(&utf16(text, bytes)), text.as_bytes());
            let marked = format!("\u{feff}{text}");
            assert_eq!(plain(&utf16(&marked, bytes)), marked.as_bytes());
        }
        let cut = [&utf16(text, u16::to_le_bytes)[..], b"x"].concat();
        assert_eq!(plain(&cut), text.as_bytes(), "half a unit at the end is left out");
    }

    /// Mutation that it catches: a carriage return always ends a line.
    #[test]
    fn carriage_returns_end_lines_only_where_nothing_else_does() {
        assert_eq!(plain(b"a\rb\rc"), b"a\nb\nc");
        assert_eq!(plain(b"a\rb\nc\rd\n"), b"a\rb\nc\rd\n");
        assert_eq!(plain(b"a\r\nb\r\n"), b"a\r\nb\r\n");
        assert_eq!(plain(b"PERF\r\0\0\r"), b"PERF\r\0\0\r", "binary");
        assert_eq!(plain(b""), b"");
        assert_eq!(plain(b"x"), b"x");
        let long = [&[b'x'; START_BYTES][..], b"\rb\n"].concat();
        assert_eq!(plain(&long), long, "the first line break comes late");
    }
}
