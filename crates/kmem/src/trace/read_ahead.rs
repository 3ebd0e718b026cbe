//! Reads ahead: a separate thread reads and decodes a trace while another one parses the previous
//! text.
//!
//! Chunks of text circulate between the two. Each carries the bytes of one read, so the parser does
//! not wait for a chunk to be full.

use std::io;
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use super::source::{Source, Text};
use crate::input_error::InputError;

/// The maximum decoded size of a zstd block, in bytes.
const CHUNK_BYTES: usize = 128 << 10;
/// Number of chunks that circulate.
const CHUNKS: usize = 4;

/// The text of a source that another thread reads.
pub struct Ahead {
    name: String,
    chunk: Chunk,
    /// How many bytes of `chunk` were read.
    taken: usize,
    filled: Receiver<Result<Chunk, InputError>>,
    emptied: SyncSender<Chunk>,
    /// `None` once it was joined.
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    used: usize,
}

impl Ahead {
    /// Begins to read `source`.
    ///
    /// The thread ends at the end of its source, after the first error, or when its next chunk
    /// finds this value dropped. Dropping this value does not wait for the thread, which may be
    /// reading from a silent pipe.
    ///
    /// # Errors
    /// When the system cannot start the thread.
    pub fn new(source: Source) -> io::Result<Self> {
        let name = source.name().to_owned();
        let (full, filled) = sync_channel(CHUNKS);
        let (emptied, empty) = sync_channel(CHUNKS);
        for _ in 1..CHUNKS {
            emptied.send(Chunk::default()).expect("the channel has room for all chunks");
        }
        let reading = move || read_all(source, &empty, &full);
        let thread = Builder::new().name("trace decoder".into()).spawn(reading)?;
        let thread = Some(thread);
        Ok(Self { name, chunk: Chunk::default(), taken: 0, filled, emptied, thread })
    }
}

/// Sends the text of `source` chunk by chunk, and an empty chunk at its end.
fn read_all(
    mut source: Source,
    empty: &Receiver<Chunk>,
    full: &SyncSender<Result<Chunk, InputError>>,
) {
    while let Ok(mut chunk) = empty.recv() {
        chunk.bytes.resize(CHUNK_BYTES, 0);
        let read = source.read(&mut chunk.bytes);
        let is_last = !matches!(read, Ok(1..));
        let sent = full.send(read.map(|used| Chunk { used, ..chunk }));
        if is_last || sent.is_err() {
            return;
        }
    }
}

impl Text for Ahead {
    fn name(&self) -> &str {
        &self.name
    }

    fn read(&mut self, target: &mut [u8]) -> Result<usize, InputError> {
        if self.taken == self.chunk.used && self.thread.is_some() {
            let Ok(next) = self.filled.recv() else {
                let thread = self.thread.take().expect("looked at above");
                resume_unwind(thread.join().expect_err("it does not hang up before the end"));
            };
            let next = next.inspect_err(|_| self.thread = None)?;
            if next.used == 0 {
                self.thread = None;
            }
            // Fails after the thread has reached the end: it then takes no more chunks.
            let _ = self.emptied.send(std::mem::replace(&mut self.chunk, next));
            self.taken = 0;
        }
        let ahead = &self.chunk.bytes[self.taken..self.chunk.used];
        let count = ahead.len().min(target.len());
        target[..count].copy_from_slice(&ahead[..count]);
        self.taken += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn ahead(from: impl Read + Send + 'static) -> Ahead {
        Ahead::new(Source::reader("t", from).expect("it can be read")).expect("there are threads")
    }

    #[test]
    fn text_arrives_whole_and_in_order_whatever_the_sizes() {
        let text: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
        let mut ahead = ahead(io::Cursor::new(text.clone()));
        let (mut all, mut part) = (Vec::new(), vec![0; 4099]);
        while let read @ 1.. = ahead.read(&mut part).expect("memory can be read") {
            all.extend_from_slice(&part[..read]);
        }
        assert!(all == text);
        assert_eq!(ahead.read(&mut part), Ok(0), "the end stays the end");
    }

    #[test]
    fn an_error_comes_after_the_text_before_it() {
        struct Torn;
        impl Read for Torn {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("torn"))
            }
        }
        let mut ahead = ahead((&b"f,0,0,0\n"[..]).chain(Torn));
        let mut part = [0; 64];
        let mut before = 0;
        let error = loop {
            match ahead.read(&mut part) {
                Ok(read) => before += read,
                Err(error) => break error,
            }
        };
        assert_eq!((before, &*error.to_string()), (8, "t: expected readable input, found torn"));
        assert_eq!(ahead.read(&mut part), Ok(0), "nothing comes behind an error");
    }

    #[test]
    fn a_reader_that_gives_up_does_not_wait_for_a_silent_pipe() {
        let (silent, _held_open) = io::pipe().expect("there are pipes");
        drop(ahead((&b"f,0,0,0\n"[..]).chain(silent)));
    }

    #[test]
    #[should_panic(expected = "a bug in a decoder")]
    fn a_panic_over_there_is_one_here_and_not_the_end_of_the_text() {
        struct Buggy;
        impl Read for Buggy {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                panic!("a bug in a decoder");
            }
        }
        let mut ahead = ahead((&b"f,0,0,0\n"[..]).chain(Buggy));
        while let Ok(1..) = ahead.read(&mut [0; 64]) {}
    }
}
