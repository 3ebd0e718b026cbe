//! The trace that comes with the program: the first part of a recorded build.

use crate::input_error::InputError;
use crate::trace::source::Source;

/// What reports call it.
pub const NAME: &str = "compile.ktrace.csv.zst";

/// Its bytes, in zstd frames.
pub const BYTES: &[u8] = include_bytes!("../../../examples/traces/compile.ktrace.csv.zst");

/// Opens it.
///
/// # Errors
/// None; the type is that of [`Source::bytes`].
pub fn source() -> Result<Source, InputError> {
    Source::bytes(NAME, BYTES)
}
