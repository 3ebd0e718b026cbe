//! Errors about input that cannot be read: one line, `FILE:LINE: expected ..., found ...`.
//!
//! Text from a file is untrusted. It is escaped and cut, so that it can neither write control
//! sequences to a terminal nor fill a screen.

use std::fmt;

/// Maximum number of bytes of untrusted text in a message.
const SHOWN_BYTES: usize = 40;

/// The expected input, and the input found instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    expected: String,
    found: String,
}

/// A [`Mismatch`] with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputError {
    file: String,
    line: Option<u64>,
    mismatch: Mismatch,
}

impl Mismatch {
    /// Makes a mismatch from two noun phrases.
    pub fn new(expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { expected: expected.into(), found: found.into() }
    }

    /// Returns both as one noun phrase, for a message that expects something else.
    pub(crate) fn instead(&self) -> String {
        format!("{} instead of {}", self.found, self.expected)
    }

    /// Places the mismatch in `file` as a whole.
    pub fn in_file(self, file: &str) -> InputError {
        InputError { file: file.to_owned(), line: None, mismatch: self }
    }

    /// Places the mismatch in line `line` of `file`, counted from 1.
    pub fn at_line(self, file: &str, line: u64) -> InputError {
        InputError { file: file.to_owned(), line: Some(line), mismatch: self }
    }
}

impl InputError {
    /// Returns the input found, for callers without room for the whole message.
    pub fn found(&self) -> &str {
        &self.mismatch.found
    }
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A file name may hold any byte but zero and the slash. Escaping keeps the message on one
        // line.
        let file = self.file.escape_debug();
        match self.line {
            Some(line) => write!(f, "{file}:{line}: ")?,
            None => write!(f, "{file}: ")?,
        }
        write!(f, "expected {}, found {}", self.mismatch.expected, self.mismatch.found)
    }
}

impl std::error::Error for InputError {}

/// Quotes `bytes` for a message: escaped, cut to a length that fits a line.
pub fn quoted(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(SHOWN_BYTES)];
    let dots = if cut.len() < bytes.len() { "..." } else { "" };
    format!("`{}{dots}`", cut.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_escaped_and_cut() {
        assert_eq!(quoted(b"\x1b[2Jx"), "`\\x1b[2Jx`");
        assert_eq!(quoted(&[b'a'; 41]), format!("`{}...`", "a".repeat(40)));
        assert_eq!(quoted(&[b'a'; 40]), format!("`{}`", "a".repeat(40)));
    }

    #[test]
    fn a_message_is_one_line_even_for_a_file_name_with_line_breaks() {
        let error = Mismatch::new("an event", "nothing").at_line("a\nb", 3);
        assert_eq!(error.to_string(), "a\\nb:3: expected an event, found nothing");
    }
}
