//! Any bytes are a trace file: plain text, or a zstd stream when they begin as one.
//!
//! # Properties
//! - Nothing panics, and a batch never has more events than its maximum.
//! - An error is one line, `FILE:LINE: expected ..., found ...` (`FILE: ...` where there is no
//!   line), without control bytes, whatever the file holds. The line exists.
//! - The same bytes in small pieces lead to the same events, names and error. For a broken stream
//!   only the error is the same, because the decoder may drop text before it.
//! - Plain text inside a zstd frame gives the same result. The frame is made here, of uncompressed
//!   blocks, so that the fuzzer need not guess a compressed form of each line.
//!
//! The caller limits memory: the fuzzer by its own limit, `tests/corpus.rs` by a counting
//! allocator.

use std::io::{Cursor, Read};

use kmem::trace::DROPS_TEXT_BEFORE_FAULTS;
use kmem::trace::event::Action;
use kmem::trace::reader::{Batch, EVENTS_PER_BATCH, TraceReader};
use kmem::trace::source::Source;

/// Bytes of a block in the frames made here, small so that lines are cut by blocks.
const BLOCK_BYTES: usize = 100;
/// Batches after which a file is long enough: a few bytes of zstd can stand for gigabytes of text.
const ENOUGH_BATCHES: usize = 8;

/// The result of reading a file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Content {
    /// CPU and action of each event, and its line.
    events: Vec<(u64, u16, Action)>,
    names: Vec<(u32, Box<str>)>,
    error: Option<String>,
}

/// Reads `bytes` in all ways.
///
/// # Panics
/// When something does not hold.
pub(crate) fn check(bytes: &[u8]) {
    let content = read(Cursor::new(bytes.to_vec()));
    if let Some(error) = &content.error {
        check_message(error, bytes);
    }
    let could_be_zstd = matches!(bytes.first(), None | Some(0x28 | 0x50..=0x5f));
    let pieces = read(Pieces { bytes: bytes.to_vec(), at: 0 });
    if could_be_zstd && content.error.is_some() && DROPS_TEXT_BEFORE_FAULTS {
        assert!(pieces.error.is_some(), "in pieces");
    } else {
        assert_eq!(pieces, content, "in pieces");
    }
    if !could_be_zstd {
        assert_eq!(read(Cursor::new(framed(bytes))), content, "in a frame");
    }
}

fn read(from: impl Read + Send + 'static) -> Content {
    let mut content = Content::default();
    let source = match Source::reader("t", from) {
        Ok(source) => source,
        Err(error) => return Content { error: Some(error.to_string()), ..content },
    };
    let mut reader = TraceReader::new(source);
    let mut batch = Batch::default();
    for _ in 0..ENOUGH_BATCHES {
        let outcome = reader.read_batch(&mut batch);
        assert!(batch.events.len() <= EVENTS_PER_BATCH);
        content.events.extend(batch.events.iter().map(|event| {
            (batch.first_line + u64::from(event.line_in_batch), event.cpu, event.action)
        }));
        content.names.append(&mut batch.new_names);
        match outcome {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                content.error = Some(error.to_string());
                break;
            }
        }
    }
    content
}

fn check_message(message: &str, bytes: &[u8]) {
    assert!(!message.contains(|character: char| character.is_control()), "{message:?}");
    let place = message.split_once(": expected ").map(|(place, _)| place);
    let place = place.unwrap_or_else(|| panic!("nothing is expected: {message:?}"));
    assert!(message.contains(", found "), "nothing is found: {message:?}");
    let line = match place.split_once(':') {
        None => return assert_eq!(place, "t"),
        Some((file, line)) => {
            assert_eq!(file, "t");
            line.parse::<usize>().expect("lines are numbers")
        }
    };
    let is_plain = !matches!(bytes[0], 0x28 | 0x50..=0x5f);
    let lines = bytes.split(|byte| *byte == b'\n').count();
    assert!(line >= 1 && (!is_plain || line <= lines), "{message:?} of {lines} lines");
}

/// Gives bytes in pieces of 1 to 7.
struct Pieces {
    bytes: Vec<u8>,
    at: usize,
}

impl Read for Pieces {
    fn read(&mut self, target: &mut [u8]) -> std::io::Result<usize> {
        let rest = &self.bytes[self.at..];
        let length = rest.len().min(target.len()).min(1 + self.at % 7);
        target[..length].copy_from_slice(&rest[..length]);
        self.at += length;
        Ok(length)
    }
}

/// A zstd frame of `content`: RFC 8878, sections 3.1.1.1 and 3.1.1.2, raw blocks, no checksum.
fn framed(content: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd];
    // Single segment, so no window; the content's size in four bytes.
    frame.push(0b1010_0000);
    let size = u32::try_from(content.len()).expect("the fuzzer's inputs are small");
    frame.extend(size.to_le_bytes());
    let blocks = content.chunks(BLOCK_BYTES).count();
    for (index, block) in content.chunks(BLOCK_BYTES).enumerate() {
        let is_last = u32::from(index + 1 == blocks);
        let header = (block.len() as u32) << 3 | is_last;
        frame.extend(&header.to_le_bytes()[..3]);
        frame.extend(block);
    }
    frame
}
