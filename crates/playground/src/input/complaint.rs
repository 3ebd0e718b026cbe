//! A complaint: the line of an input that is wrong, and the reason.

use alloc::string::String;

/// An input that is not understood or not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Complaint {
    /// The line, counted from 1.
    pub(crate) line: usize,
    /// The reason, in one or two sentences.
    pub(crate) message: String,
}

impl Complaint {
    /// Makes a complaint about `line`.
    pub(crate) fn new(line: usize, message: impl Into<String>) -> Self {
        Self { line, message: message.into() }
    }
}

/// Returns `text` in quotes, shortened so that it fits a message.
pub(crate) fn quoted(text: &str) -> String {
    const MAX_SHOWN: usize = 24;
    let mut shown: String = text.chars().take(MAX_SHOWN).collect();
    if text.chars().nth(MAX_SHOWN).is_some() {
        shown.push_str("...");
    }
    alloc::format!("\"{shown}\"")
}
