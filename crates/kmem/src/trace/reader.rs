//! Turns a [`Text`] into batches of events, checks the names they refer to, and counts lines.
//!
//! The reading thread sends batches to the replaying one. A batch is large enough that sending it
//! costs little per event, and small enough to stay in the CPU cache. Batches are reused: after the
//! first few, reading allocates only for new names.

use super::event::{Action, Event, MAX_ORDER};
use super::fast_parser;
use super::line::{Line, Unexpected, parse};
use super::losses::Losses;
use super::names::Names;
use super::plain_text::{self, Form};
use super::source::Text;
use super::{HEADER, VERSION};
use crate::input_error::{InputError, Mismatch, quoted};

/// Maximum length of a line in bytes, without its line break.
pub const MAX_LINE_BYTES: usize = 4096;

/// Maximum number of events in a batch, which take 128 KiB.
pub const EVENTS_PER_BATCH: usize = 4096;

/// Maximum number of lines in a batch, so that a stretch without events still makes progress.
const LINES_PER_BATCH: u64 = 1 << 16;
const _: () = assert!(LINES_PER_BATCH <= 1 << u16::BITS, "`line_in_batch` holds each");

/// Orders of page events.
pub const ORDERS: usize = MAX_ORDER as usize + 1;

const BUFFER_BYTES: usize = 256 << 10;
const _: () = assert!(BUFFER_BYTES > 2 * MAX_LINE_BYTES);

/// A stretch of a trace.
#[derive(Debug, Default)]
pub struct Batch {
    /// Line number, from 1, that `line_in_batch` of each event counts from.
    pub first_line: u64,
    /// Nanoseconds from the start of the trace to the end of the previous batch. `micros_in_batch`
    /// of each event counts from there.
    pub start_ns: u64,
    /// At most [`EVENTS_PER_BATCH`] events in trace order.
    pub events: Vec<Event>,
    /// Names of call sites and caches defined in this stretch. The replay may define them before
    /// the events: no event before the line of a name refers to it.
    pub new_names: Vec<(u32, Box<str>)>,
    /// Names of gfp masks defined in this stretch.
    pub new_gfps: Vec<(u32, Box<str>)>,
    /// Allocations of pages that failed in the recorded kernel, by order.
    pub failed: [u64; ORDERS],
    /// Events that the recording lost in this stretch.
    pub losses: Losses,
    /// The line of the last of these losses; zero while there is none.
    pub last_loss: u64,
}

/// Reads a trace batch by batch.
pub struct TraceReader<T> {
    text: T,
    buffer: Box<[u8]>,
    /// The part of `buffer` that was read from the text and not yet parsed.
    unparsed: std::ops::Range<usize>,
    at_end: bool,
    /// Lines parsed.
    lines: u64,
    /// Sum of DT so far, in nanoseconds.
    now_ns: u64,
    sites: Names,
    gfps: Names,
    /// Whether allocations may name their call site, as the head of the trace says.
    has_sites: bool,
}

impl<T: Text> TraceReader<T> {
    /// Returns a reader at the start of `text`.
    pub fn new(text: T) -> Self {
        Self {
            text,
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            unparsed: 0..0,
            at_end: false,
            lines: 0,
            now_ns: 0,
            sites: Names::default(),
            gfps: Names::default(),
            has_sites: false,
        }
    }

    /// Refills `batch`. Returns whether there may be more; an empty batch is possible in both
    /// cases.
    ///
    /// # Errors
    /// The first line that violates the format, or input that cannot be read.
    pub fn read_batch(&mut self, batch: &mut Batch) -> Result<bool, InputError> {
        batch.events.clear();
        batch.new_names.clear();
        batch.new_gfps.clear();
        batch.failed = [0; ORDERS];
        batch.losses = Losses::default();
        batch.last_loss = 0;
        batch.first_line = self.lines + 1;
        batch.start_ns = self.now_ns;
        loop {
            match self.has_sites {
                false => self.read_events::<false>(batch)?,
                true => self.read_events::<true>(batch)?,
            }
            if !self.has_room(batch) {
                return Ok(true);
            }
            let ahead = &self.buffer[self.unparsed.clone()];
            match memchr::memchr(b'\n', ahead) {
                Some(length) if length <= MAX_LINE_BYTES => {
                    let line = self.unparsed.start..self.unparsed.start + length;
                    self.unparsed.start += length + 1;
                    self.read_line(line, batch)?;
                }
                None if ahead.len() <= MAX_LINE_BYTES && !self.at_end => self.fill()?,
                None if ahead.is_empty() => return Ok(false),
                None if ahead.len() <= MAX_LINE_BYTES => {
                    let line = self.unparsed.clone();
                    self.unparsed.start = self.unparsed.end;
                    self.read_line(line, batch)?;
                }
                _ => return Err(self.endless_line()),
            }
        }
    }

    /// Returns whether `batch` may have the event of one more line.
    #[inline(always)]
    fn has_room(&self, batch: &Batch) -> bool {
        batch.events.len() < EVENTS_PER_BATCH && self.lines + 1 - batch.first_line < LINES_PER_BATCH
    }

    /// Reads events up to the first line that the fast path leaves to `read_line`. A loop without
    /// any other line keeps the state of the reader in registers.
    fn read_events<const SITES: bool>(&mut self, batch: &mut Batch) -> Result<(), InputError> {
        let lines = LINES_PER_BATCH - (self.lines + 1 - batch.first_line);
        let room = (EVENTS_PER_BATCH - batch.events.len()).min(lines as usize);
        for _ in 0..room {
            let ahead = &self.buffer[self.unparsed.clone()];
            let Some((Line::Event { delta_ns, cpu, action, gfp, site }, length)) =
                fast_parser::event::<SITES>(ahead)
            else {
                break;
            };
            self.unparsed.start += length;
            self.lines += 1;
            self.add::<SITES>(batch, delta_ns, cpu, action, (gfp, site))?;
        }
        Ok(())
    }

    fn read_line(
        &mut self,
        line: std::ops::Range<usize>,
        batch: &mut Batch,
    ) -> Result<(), InputError> {
        self.lines += 1;
        let line = &self.buffer[line];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = match self.lines {
            1 => line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line),
            _ => line,
        };
        if let Some(complaint) = other_text(line) {
            return Err(complaint.at_line(self.text.name(), self.lines));
        }
        let complaint = match parse(line) {
            Ok(Line::Event { delta_ns, cpu, action, gfp, site }) => {
                return self.add::<true>(batch, delta_ns, cpu, action, (gfp, site));
            }
            Ok(Line::FallbackNote { delta_ns }) => {
                self.now_ns = self.now_ns.saturating_add(delta_ns);
                return Ok(());
            }
            Ok(Line::Comment) => match version(line) {
                Some(version) if version > VERSION => {
                    let expected = format!("a compact trace of version 1 to {VERSION}");
                    Mismatch::new(expected, format!("version {version}"))
                }
                version => {
                    self.has_sites |= version.is_some_and(|version| version > 1);
                    return Ok(());
                }
            },
            Ok(Line::Failed(order)) => {
                batch.failed[usize::from(order)] += 1;
                return Ok(());
            }
            Ok(Line::Lost(losses)) => {
                batch.losses.add(losses);
                batch.last_loss = self.lines;
                return Ok(());
            }
            Ok(Line::GfpName { id, text }) => match self.gfps.define(id, text) {
                Ok(()) => {
                    batch.new_gfps.extend(self.gfps.name(id).map(|name| (id, name.into())));
                    return Ok(());
                }
                Err(mismatch) => mismatch,
            },
            Ok(Line::SiteName { id, text }) => match self.sites.define(id, text) {
                Ok(()) => {
                    batch.new_names.extend(self.sites.name(id).map(|name| (id, name.into())));
                    return Ok(());
                }
                Err(mismatch) => mismatch,
            },
            Err(Unexpected { expected, found: b"" }) => Mismatch::new(expected, "nothing"),
            Err(Unexpected { expected, found }) => Mismatch::new(expected, quoted(found)),
        };
        Err(complaint.at_line(self.text.name(), self.lines))
    }

    /// Adds the event of the line just read, if the names it refers to are known.
    ///
    /// Without `SITES` no allocation from a cache names its call site.
    #[inline(always)]
    fn add<const SITES: bool>(
        &mut self,
        batch: &mut Batch,
        delta_ns: u64,
        cpu: u16,
        action: Action,
        (gfp, site): (Option<u32>, Option<u32>),
    ) -> Result<(), InputError> {
        self.now_ns = self.now_ns.saturating_add(delta_ns);
        if gfp.is_none_or(|id| self.gfps.name(id).is_some())
            && site.is_none_or(|id| self.sites.name(id).is_some())
            && (!SITES || own_site(&action).is_none_or(|id| self.sites.name(id).is_some()))
        {
            let line_in_batch = (self.lines - batch.first_line) as u16;
            let micros = (self.now_ns - batch.start_ns) / 1000;
            let micros_in_batch = u32::try_from(micros).unwrap_or(u32::MAX);
            batch.events.push(Event { micros_in_batch, line_in_batch, cpu, action });
            return Ok(());
        }
        let known = |id: &u32| self.sites.name(*id).is_some();
        let complaint =
            unknown_name(&self.gfps, gfp, site.filter(|id| !known(id)).or(own_site(&action)));
        Err(complaint.at_line(self.text.name(), self.lines))
    }

    /// Moves the unparsed bytes, at most a line, to the start of the buffer and reads after them.
    fn fill(&mut self) -> Result<(), InputError> {
        self.buffer.copy_within(self.unparsed.clone(), 0);
        self.unparsed = 0..self.unparsed.len();
        let read = self.text.read(&mut self.buffer[self.unparsed.end..])?;
        self.unparsed.end += read;
        self.at_end = read == 0;
        Ok(())
    }

    fn endless_line(&self) -> InputError {
        let expected = format!("a line of at most {MAX_LINE_BYTES} bytes");
        Mismatch::new(expected, "a longer one").at_line(self.text.name(), self.lines + 1)
    }
}

/// Returns what is wrong with a line of text as other systems write it: UTF-16, or several lines
/// that end in carriage returns, of which a comment would swallow all.
fn other_text(line: &[u8]) -> Option<Mismatch> {
    if let Form::Utf16 { .. } = plain_text::form(line) {
        let found = "UTF-16; convert it: iconv -f UTF-16 -t UTF-8";
        return Some(Mismatch::new("a trace in UTF-8", found));
    }
    let expected = "lines that end in a line break";
    memchr::memchr(b'\r', line)
        .map(|_| Mismatch::new(expected, "a carriage return in a line; convert it: tr '\\r' '\\n'"))
}

/// Returns the call site that an allocation from a cache names beside the cache.
#[inline(always)]
fn own_site(action: &Action) -> Option<u32> {
    match *action {
        Action::AllocateObject { cache, site, .. } if u32::from(site) != cache => Some(site.into()),
        _ => None,
    }
}

/// Returns the version that a comment states, if it is the head of a trace.
fn version(line: &[u8]) -> Option<u32> {
    let version = line.strip_prefix(HEADER.as_bytes())?.trim_ascii();
    std::str::from_utf8(version).ok()?.parse().ok()
}

#[cold]
fn unknown_name(gfps: &Names, gfp: Option<u32>, site: Option<u32>) -> Mismatch {
    match (gfp, site) {
        (Some(id), _) if gfps.name(id).is_none() => {
            Mismatch::new("the number of a gfp mask named before by !g", id.to_string())
        }
        (_, site) => Mismatch::new(
            "the number of a call site or cache named before by !s",
            site.unwrap_or_default().to_string(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::super::source::Source;
    use super::*;

    fn read_all(text: impl Into<Vec<u8>>) -> Result<(Vec<Event>, u64), InputError> {
        let text: &'static [u8] = text.into().leak();
        let mut reader = TraceReader::new(Source::bytes("t", text)?);
        let mut events = Vec::new();
        let mut batch = Batch::default();
        loop {
            let more = reader.read_batch(&mut batch)?;
            assert!(batch.events.len() <= EVENTS_PER_BATCH);
            events.extend_from_slice(&batch.events);
            if !more {
                return Ok((events, reader.lines));
            }
        }
    }

    fn message(text: impl Into<Vec<u8>>) -> String {
        read_all(text).expect_err("the input is wrong").to_string()
    }

    #[test]
    fn batches_and_buffers_end_anywhere_and_nothing_is_lost() {
        let text: String = (0..40_000).map(|n| format!("#{n}\nf,{n},1,{n:x}\n")).collect();
        let (events, lines) = read_all(text.trim_end()).expect("the trace is well formed");
        assert_eq!(lines, 80_000);
        assert_eq!(events.len(), 40_000);
        for (n, event) in events.iter().enumerate() {
            assert_eq!(event.action, super::super::event::Action::FreeObject { object: n as u64 });
        }
    }

    #[test]
    fn a_pipe_that_gives_one_byte_first_changes_nothing() {
        // `P` without more bytes could begin a skippable frame.
        let pipe = (&b"P"[..]).chain(&b",0,0,0,3\n"[..]);
        let mut reader = TraceReader::new(Source::reader("t", pipe).expect("it can be read"));
        let mut batch = Batch::default();
        assert_eq!(reader.read_batch(&mut batch), Ok(false));
        let action = super::super::event::Action::FreePages { frame: 0, order: 3 };
        assert_eq!(batch.events, [Event { micros_in_batch: 0, line_in_batch: 0, cpu: 0, action }]);
    }

    #[test]
    fn a_line_of_the_longest_length_is_read_and_one_byte_more_is_not() {
        let comment = |bytes| "#".repeat(bytes);
        let (_, lines) =
            read_all(comment(MAX_LINE_BYTES) + "\n" + &comment(MAX_LINE_BYTES)).expect("within");
        assert_eq!(lines, 2);
        let expected = "t:2: expected a line of at most 4096 bytes, found a longer one";
        assert_eq!(message("#\n".to_owned() + &comment(MAX_LINE_BYTES + 1)), expected);
        assert_eq!(message("#\n".to_owned() + &comment(MAX_LINE_BYTES + 1) + "\n"), expected);
        assert_eq!(message("#\n".to_owned() + &comment(1_000_000)), expected);
    }

    #[test]
    fn names_have_to_be_given_before_use() {
        let named = "!g,0,G\n!s,0,S\n";
        assert!(read_all(format!("{named}a,0,0,0,8,8,0,0")).is_ok());
        assert_eq!(
            message(format!("{named}a,0,0,0,8,8,0,1")),
            "t:3: expected the number of a call site or cache named before by !s, found 1"
        );
        assert_eq!(
            message(format!("{named}p,0,0,0,0,0,9")),
            "t:3: expected the number of a gfp mask named before by !g, found 9"
        );
    }

    #[test]
    fn messages_carry_the_line() {
        assert_eq!(message("#\n\n"), "t:2: expected an event, a name or a comment, found nothing");
        assert_eq!(message("f,0,0,0\nP,0,0,0,19\n"), "t:2: expected ORDER, 0 to 18, found `19`");
        assert_eq!(message(""), "t: expected a trace, found an empty file");
        assert!(message(b"\x7fELF\x02\x01".as_slice()).starts_with("t:1: expected an event"));
    }

    /// Mutation that it catches: only the first bytes of a file are looked at.
    #[test]
    fn text_of_other_systems_is_refused_with_the_way_to_convert_it() {
        let utf16: Vec<u8> =
            "\u{feff}# x\nf,0,0,0\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let expected =
            "t:1: expected a trace in UTF-8, found UTF-16; convert it: iconv -f UTF-16 -t UTF-8";
        assert_eq!(message(utf16), expected);
        for text in ["# kmem-compact 2\rf,0,0,0\r", "#\nf,0,0,0\rf,0,0,8\n"] {
            assert!(message(text).contains("a carriage return in a line"), "{text:?}");
        }
        let whole =
            "\u{feff}# kmem-compact 2\r\n!g,0,G\r\n!s,0,filp\r\nA,0,0,8,1,1,0,0,0\r\nf,0,0,8\r";
        assert_eq!(read_all(whole).map(|(events, _)| events.len()), Ok(2));
    }

    #[test]
    fn a_cut_or_flipped_zstd_stream_is_told_apart_from_a_whole_one() {
        let whole = include_bytes!("../../../../examples/traces/compile.ktrace.csv.zst");
        let start: Vec<u8> = whole[..100_000].to_vec();
        assert_eq!(
            message(start),
            "t: expected the rest of a zstd frame, found the end of the file"
        );
        let mut flipped = whole.to_vec();
        flipped[200_000] ^= 0x10;
        assert!(message(flipped).starts_with("t:"));
        assert!(message(&b"\x28\xb5"[..]).contains("the end of the file"));
    }
}
