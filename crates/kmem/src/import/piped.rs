//! A recording that perf wrote into a pipe. The formats of events are taken out of the stream.
//!
//! In a pipe the formats are a record whose header counts only the record itself, not the data
//! behind it (`PERF_RECORD_HEADER_TRACING_DATA` in perf's `perf.data-file-format.txt`). Readers
//! that do not know it would take the data for records.

use std::cell::{Cell, RefCell};
use std::io::{self, Read};
use std::rc::Rc;

use super::format::number;

/// Bytes in front of the records: magic number and size.
const HEAD_BYTES: usize = 16;
/// Bytes of a record's header: type, misc, and size, which counts the header.
const RECORD_BYTES: usize = 8;
/// The type of a record with formats.
const TRACING_DATA: u64 = 66;
/// Formats are padded to a multiple of this number of bytes.
const PADDING: usize = 8;
/// Maximum size of formats in bytes. Those of a kernel with all events are some megabytes.
const MAX_FORMATS: usize = 256 << 20;

/// A stream of records without formats.
pub(super) struct Piped<R> {
    from: R,
    is_big_endian: bool,
    has_begun: bool,
    /// Bytes that were read and not passed on: the stream's head, or the header of a record.
    ready: Vec<u8>,
    taken: usize,
    /// Bytes of the record that are to be passed on as they come.
    left: usize,
    formats: Rc<RefCell<Vec<u8>>>,
    /// Whether the stream ended within a record.
    is_cut: Rc<Cell<bool>>,
}

impl<R: Read> Piped<R> {
    pub(super) fn new(from: R) -> Self {
        Self {
            from,
            is_big_endian: false,
            has_begun: false,
            ready: Vec::new(),
            taken: 0,
            left: 0,
            formats: Rc::default(),
            is_cut: Rc::default(),
        }
    }

    /// Returns whether the stream, as far as it was read, ended within a record.
    pub(super) fn is_cut(&self) -> Rc<Cell<bool>> {
        Rc::clone(&self.is_cut)
    }

    /// Returns the formats that were found so far.
    pub(super) fn formats(&self) -> Rc<RefCell<Vec<u8>>> {
        Rc::clone(&self.formats)
    }

    /// Reads the stream's head, or the header of the next record that is passed on. At the end of
    /// the stream nothing is ready.
    fn prepare(&mut self) -> io::Result<()> {
        self.taken = 0;
        if !std::mem::replace(&mut self.has_begun, true) {
            self.ready = read_up_to(&mut self.from, HEAD_BYTES)?;
            self.is_big_endian = self.ready.starts_with(b"2ELIFREP");
            return Ok(());
        }
        loop {
            self.ready = read_up_to(&mut self.from, RECORD_BYTES)?;
            let of =
                |bytes: std::ops::Range<usize>| number(self.ready.get(bytes)?, self.is_big_endian);
            let (Some(kind), Some(size)) = (of(0..4), of(6..8)) else {
                self.is_cut.set(self.is_cut.get() || !self.ready.is_empty());
                return Ok(());
            };
            let body = (size as usize).saturating_sub(RECORD_BYTES);
            if kind != TRACING_DATA {
                self.left = body;
                return Ok(());
            }
            let body = read_up_to(&mut self.from, body)?;
            let bytes = body.get(..4).and_then(|size| number(size, self.is_big_endian));
            let bytes = bytes.unwrap_or(0) as usize;
            if bytes > MAX_FORMATS {
                return Err(io::Error::other("formats of more than 256 MiB"));
            }
            let formats = read_up_to(&mut self.from, bytes.next_multiple_of(PADDING))?;
            let is_cut = body.len() < 4 || formats.len() < bytes;
            self.is_cut.set(self.is_cut.get() || is_cut);
            self.formats.borrow_mut().extend(formats);
        }
    }
}

impl<R: Read> Read for Piped<R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.ready.len() && self.left == 0 {
            self.prepare()?;
        }
        let ready = &self.ready[self.taken..];
        if !ready.is_empty() {
            let length = ready.len().min(target.len());
            target[..length].copy_from_slice(&ready[..length]);
            self.taken += length;
            return Ok(length);
        }
        let length = self.left.min(target.len());
        let read = self.from.read(&mut target[..length])?;
        if read == 0 && length > 0 {
            self.is_cut.set(true);
        }
        self.left -= read;
        Ok(read)
    }
}

/// Reads `bytes` bytes, or as many as there are.
fn read_up_to(from: &mut impl Read, bytes: usize) -> io::Result<Vec<u8>> {
    let mut read = Vec::new();
    from.take(bytes as u64).read_to_end(&mut read)?;
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u32, body: &[u8]) -> Vec<u8> {
        let mut record = kind.to_le_bytes().to_vec();
        record.extend([0, 0]);
        record.extend((body.len() as u16 + 8).to_le_bytes());
        record.extend(body);
        record
    }

    #[test]
    fn formats_are_taken_out_and_all_else_is_passed_on() {
        let head = b"PERFILE2\x10\0\0\0\0\0\0\0";
        let (first, last) = (record(64, &[1; 20]), record(9, &[2; 40]));
        let formats = [record(66, &11_u32.to_le_bytes()), b"hello world\0\0\0\0\0".to_vec()];
        let stream = [&head[..], &first, &formats.concat(), &last].concat();
        let mut piped = Piped::new(&stream[..]);
        let found = piped.formats();
        let mut passed = Vec::new();
        piped.read_to_end(&mut passed).expect("a slice can be read");
        assert_eq!(passed, [&head[..], &first, &last].concat());
        assert_eq!(&found.borrow()[..11], b"hello world");
        // A stream that ends anywhere ends, and says whether that is within a record.
        let ends = [16, 44, 44 + 12 + 16, stream.len()];
        for end in 16..=stream.len() {
            let mut passed = Vec::new();
            let mut piped = Piped::new(&stream[..end]);
            let is_cut = piped.is_cut();
            piped.read_to_end(&mut passed).expect("a slice can be read");
            assert!(passed.len() <= end);
            // The padding behind the formats is no loss.
            let is_whole = ends.contains(&end) || (44 + 12 + 11..44 + 12 + 16).contains(&end);
            assert_eq!(is_cut.get(), !is_whole, "{end}");
        }
    }
}
