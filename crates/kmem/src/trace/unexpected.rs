//! Errors in lines of a trace.

/// The expected content of a line, and the content found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unexpected<'a> {
    /// Noun phrase for the message.
    pub expected: &'static str,
    /// The bytes found instead; empty at the end of the line.
    pub found: &'a [u8],
}

impl<'a> Unexpected<'a> {
    /// Returns the error for the field that `rest` begins with.
    pub(super) fn field(expected: &'static str, rest: &'a [u8]) -> Self {
        let field = rest.strip_prefix(b",").unwrap_or(rest);
        let length = field.iter().position(|&byte| byte == b',').unwrap_or(field.len());
        Self { expected, found: &field[..length] }
    }
}
