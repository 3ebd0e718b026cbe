//! The bytes inside a zstd stream: any number of frames one after the other, skippable frames
//! between them.
//!
//! The decoder of `ruzstd` reads one frame and leaves three tasks to its caller: continuing with
//! the next frame, skipping skippable frames, and comparing the checksum. A frame that ends early,
//! does not decode or does not match its checksum is a [`Mismatch`]; its caller may have read
//! earlier bytes of it already.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::zstd_error::{one_line, truncated, unreadable};
use crate::input_error::Mismatch;

/// Decodes the frames of `R` one after the other.
pub(super) struct Frames<R> {
    compressed: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> Frames<R> {
    pub(super) fn new(compressed: R) -> Self {
        Self { compressed, decoder: FrameDecoder::new(), in_frame: false }
    }

    /// Decodes into `target` and returns how many bytes; zero is the end of the last frame.
    pub(super) fn read(&mut self, target: &mut [u8]) -> Result<usize, Mismatch> {
        loop {
            if self.decoder.can_collect() > 0 {
                return self.decoder.read(target).map_err(|error| unreadable(&error));
            }
            if !self.in_frame {
                if self.at_end()? {
                    return Ok(0);
                }
                self.begin_frame()?;
            } else if self.decoder.is_finished() {
                self.end_frame()?;
            } else {
                let one_block = BlockDecodingStrategy::UptoBlocks(1);
                let decoded = self.decoder.decode_blocks(&mut self.compressed, one_block);
                decoded.map_err(|error| self.broken(&error))?;
            }
        }
    }

    fn begin_frame(&mut self) -> Result<(), Mismatch> {
        match self.decoder.reset(&mut self.compressed) {
            Ok(()) => self.in_frame = true,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length,
                ..
            })) => {
                let mut skipped = self.compressed.by_ref().take(length.into());
                let found = io::copy(&mut skipped, &mut io::sink());
                if found.map_err(|error| unreadable(&error))? < length.into() {
                    return Err(truncated());
                }
            }
            Err(FrameDecoderError::WindowSizeTooBig { requested, max }) => {
                let expected = format!("a zstd window of at most {max} bytes");
                return Err(Mismatch::new(expected, format!("one of {requested}")));
            }
            Err(error) => return Err(self.broken(&error)),
        }
        Ok(())
    }

    fn end_frame(&mut self) -> Result<(), Mismatch> {
        self.in_frame = false;
        let stored = self.decoder.get_checksum_from_data();
        let computed = self.decoder.get_calculated_checksum();
        match (stored, computed) {
            (Some(stored), Some(computed)) if stored != computed => {
                let expected = format!("zstd contents with checksum {stored:08x}");
                Err(Mismatch::new(expected, format!("{computed:08x}")))
            }
            _ => Ok(()),
        }
    }

    /// Returns the mismatch for a failure: a broken stream, or one that ends too early.
    fn broken(&mut self, error: &FrameDecoderError) -> Mismatch {
        match self.at_end() {
            Ok(true) => truncated(),
            Ok(false) => Mismatch::new("valid zstd data", one_line(&error.to_string())),
            Err(unreadable) => unreadable,
        }
    }

    fn at_end(&mut self) -> Result<bool, Mismatch> {
        loop {
            match self.compressed.fill_buf() {
                Ok(ahead) => return Ok(ahead.is_empty()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(&error)),
            }
        }
    }
}
