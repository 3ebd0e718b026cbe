//! Lines of a small text file of a kernel or of its tools, as users supply them: with a byte order
//! mark, with CRLF, with log prefixes, with bytes that are not UTF-8.

use std::io::{BufRead, Read};

use crate::input_error::{InputError, Mismatch};

/// Maximum length of a line in bytes.
const MAX_LINE_BYTES: u64 = 4096;

/// A line of text and its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TextLine {
    /// Counted from 1.
    pub(crate) number: u64,
    /// The text without its line break. Bytes that are not UTF-8 are replaced.
    pub(crate) text: String,
}

/// Reads all lines of a file. `file` is its name in error messages. O(bytes).
///
/// # Errors
/// Input that cannot be read, a line of more than 4096 bytes, or more than `most` lines.
pub(crate) fn read(
    file: &str,
    mut from: impl BufRead,
    most: u64,
) -> Result<Vec<TextLine>, InputError> {
    let mut lines = Vec::new();
    let mut bytes = Vec::new();
    for number in 1.. {
        bytes.clear();
        let read = from.by_ref().take(MAX_LINE_BYTES + 2).read_until(b'\n', &mut bytes);
        read.map_err(|error| Mismatch::new("readable input", error.to_string()).in_file(file))?;
        if bytes.is_empty() {
            break;
        }
        let mut line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        line = line.strip_suffix(b"\r").unwrap_or(line);
        if number == 1 {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.len() as u64 > MAX_LINE_BYTES {
            let mismatch = Mismatch::new("a line of at most 4096 bytes", "a longer one");
            return Err(mismatch.at_line(file, number));
        }
        if number > most {
            let mismatch = Mismatch::new(format!("at most {most} lines"), "one more");
            return Err(mismatch.at_line(file, number));
        }
        lines.push(TextLine { number, text: String::from_utf8_lossy(line).into_owned() });
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_and_carriage_returns_are_removed() {
        let lines = read("f", &b"\xef\xbb\xbfa\r\nb\xff\n\nc"[..], 9).expect("it is readable");
        let texts: Vec<_> = lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts, ["a", "b\u{fffd}", "", "c"]);
        assert_eq!(lines[3].number, 4);
    }

    #[test]
    fn lines_have_a_longest_length_and_a_greatest_number() {
        let long = [b'x'; 4097];
        let error = read("f", &long[..], 9).expect_err("one byte too long").to_string();
        assert_eq!(error, "f:1: expected a line of at most 4096 bytes, found a longer one");
        read("f", &long[1..], 9).expect("the longest line");
        let error = read("f", &b"\n\n\n"[..], 2).expect_err("one line too many").to_string();
        assert_eq!(error, "f:3: expected at most 2 lines, found one more");
    }
}
