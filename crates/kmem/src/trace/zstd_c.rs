//! The content of a zstd stream, by the decoder in C, which itself continues from frame to frame,
//! skips skippable frames and compares checksums.

use std::io::{self, BufRead};

use zstd_safe::{DCtx, InBuffer, OutBuffer, get_error_name};

use super::zstd_error::{truncated, unreadable};
use crate::input_error::Mismatch;

/// Decodes the frames of `R` one after the other.
pub(super) struct Frames<R> {
    compressed: R,
    context: DCtx<'static>,
    in_frame: bool,
}

impl<R: BufRead> Frames<R> {
    pub(super) fn new(compressed: R) -> Self {
        Self { compressed, context: DCtx::create(), in_frame: false }
    }

    /// Decodes into `target` and returns how many bytes; zero is the end of the last frame.
    pub(super) fn read(&mut self, target: &mut [u8]) -> Result<usize, Mismatch> {
        loop {
            let ahead = match self.compressed.fill_buf() {
                Ok(ahead) => ahead,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(unreadable(&error)),
            };
            let at_end = ahead.is_empty();
            if at_end && !self.in_frame {
                return Ok(0);
            }
            let mut input = InBuffer::around(ahead);
            let mut output = OutBuffer::around(target);
            let decoded = self.context.decompress_stream(&mut output, &mut input);
            let (read, written) = (input.pos(), output.pos());
            let wanted = decoded.map_err(broken)?;
            self.compressed.consume(read);
            self.in_frame = wanted != 0;
            if written > 0 {
                return Ok(written);
            }
            if at_end {
                return Err(truncated());
            }
        }
    }
}

/// Returns the mismatch for a stream that fails with the error `code`.
fn broken(code: usize) -> Mismatch {
    let name = get_error_name(code);
    let expected = match name.contains("too much memory") {
        true => "a zstd window of at most 128 MiB",
        false => "valid zstd data",
    };
    Mismatch::new(expected, name)
}
