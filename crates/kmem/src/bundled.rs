//! The trace that is built into the program: the first part of a recorded kernel build.

use crate::input_error::InputError;
use crate::trace::source::Source;

/// The name of the trace in reports.
pub const NAME: &str = "compile.ktrace.csv.zst";

/// The compressed trace.
pub const BYTES: &[u8] = include_bytes!("../../../examples/traces/compile.ktrace.csv.zst");

/// Opens the bundled trace.
///
/// # Errors
/// None in practice; the type is that of [`Source::bytes`].
pub fn source() -> Result<Source, InputError> {
    Source::bytes(NAME, BYTES)
}
