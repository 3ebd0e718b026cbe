//! Error texts for zstd streams, the same whichever decoder was built in.

use std::io;

use crate::input_error::Mismatch;

/// Returns the mismatch for a stream that ends inside a frame.
pub(super) fn truncated() -> Mismatch {
    Mismatch::new("the rest of a zstd frame", "the end of the file")
}

/// Returns the mismatch for an input that fails while it is read.
pub(super) fn unreadable(error: &io::Error) -> Mismatch {
    Mismatch::new("readable input", one_line(&error.to_string()))
}

pub(super) fn one_line(message: &str) -> String {
    message.escape_debug().to_string()
}
