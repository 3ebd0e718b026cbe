//! Reads `perf.data`. Only samples of `kmem` events and counts of lost ones are looked at.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{BufReader, Read, Seek, Write};

use linux_perf_data::linux_perf_event_reader::{Endianness, EventRecord, RecordType};
use linux_perf_data::{Feature, PerfFileReader, PerfFileRecord};

use super::compact::{Compact, Counts};
use super::error::ImportError;
use super::format::{Format, formats, number};
use super::piped::Piped;
use super::{Fields, Kind, Recorded, has_failed, what};
use crate::input_error::{InputError, Mismatch};
use crate::trace::losses::Losses;

/// The first bytes of such a file.
pub const MAGIC: &[u8; 8] = b"PERFILE2";

/// The first bytes of a file of a machine with the other byte order.
pub const BIG_ENDIAN_MAGIC: &[u8; 8] = b"2ELIFREP";

/// `PERF_RECORD_MISC_LOST_SAMPLES_BPF`: the samples were dropped by a filter of the user.
const LOST_TO_FILTER: u16 = 1 << 15;

/// The size of the header of what perf wrote into a pipe; that of a file is larger.
const PIPED_HEADER_BYTES: u64 = 16;

/// Returns whether perf wrote the recording that begins with `start` into a pipe.
pub fn is_piped(start: &[u8]) -> bool {
    let size = start.get(8..16).and_then(|size| number(size, start.starts_with(BIG_ENDIAN_MAGIC)));
    size == Some(PIPED_HEADER_BYTES)
}

/// Reads the file, which errors call `name`, and writes a compact trace.
///
/// # Errors
/// A file that is none, or that was recorded without kmem events or their times; an output that
/// takes no more.
pub fn import(name: &str, file: impl Read + Seek, out: impl Write) -> Result<Counts, ImportError> {
    let reader = PerfFileReader::parse_file(file).map_err(|error| broken(name, &error))?;
    let is_big_endian = reader.perf_file.endian() == Endianness::BigEndian;
    let section = reader.perf_file.feature_section_data(Feature::TRACING_DATA).unwrap_or_default();
    let formats = formats(section, is_big_endian);
    records(name, reader, || formats, || false, out)
}

/// Reads what perf wrote into a pipe (`perf record -o -`), and writes a compact trace.
///
/// # Errors
/// As [`import`].
pub fn import_piped(name: &str, stream: impl Read, out: impl Write) -> Result<Counts, ImportError> {
    let stream = Piped::new(BufReader::new(stream));
    let (section, is_cut) = (stream.formats(), stream.is_cut());
    let reader = PerfFileReader::parse_pipe(stream).map_err(|error| broken(name, &error))?;
    let is_big_endian = reader.perf_file.endian() == Endianness::BigEndian;
    records(name, reader, || formats(&section.borrow(), is_big_endian), || is_cut.get(), out)
}

fn broken(name: &str, error: &linux_perf_data::Error) -> InputError {
    Mismatch::new("a whole perf.data file", error.to_string()).in_file(name)
}

/// Reads all records. `formats` is called when the first of them was read: in a pipe the formats
/// stand in front of the samples. `is_cut` is called at the end, and says whether there was more.
fn records<R: Read>(
    name: &str,
    reader: PerfFileReader<R>,
    formats: impl FnOnce() -> HashMap<u16, Format>,
    is_cut: impl FnOnce() -> bool,
    out: impl Write,
) -> Result<Counts, ImportError> {
    let PerfFileReader { mut perf_file, mut record_iter } = reader;
    let is_big_endian = perf_file.endian() == Endianness::BigEndian;
    let wrong = |error| broken(name, &error);
    let mut next = record_iter.next_record(&mut perf_file).map_err(wrong)?;
    let formats = formats();
    if formats.is_empty() {
        let mismatch = Mismatch::new("formats of kmem events (perf record -e 'kmem:*')", "none");
        return Err(mismatch.in_file(name).into());
    }
    let mut compact = Compact::new(out);
    while let Some(record) = next {
        if let PerfFileRecord::EventRecord { record, .. } = record {
            // The reader does not know what `{...}:S` adds to a sample.
            let broken = |error: std::io::Error| {
                let expected = "records of perf.data without groups that are read together \
                                (import the text of perf script --show-lost-events)";
                Mismatch::new(expected, error.to_string()).in_file(name)
            };
            match record.parse().map_err(broken)? {
                EventRecord::Sample(sample) => match (sample.raw, sample.timestamp) {
                    // Only tracepoints have raw bytes.
                    (None, _) => compact.leave_out(),
                    (Some(_), None) => {
                        let expected = "samples with a time (perf record -a)";
                        return Err(Mismatch::new(expected, "others").in_file(name).into());
                    }
                    (Some(raw), Some(time_ns)) => {
                        let at = (time_ns, sample.cpu.unwrap_or(0));
                        add(&mut compact, &formats, &raw.as_slice(), is_big_endian, at)?;
                    }
                },
                EventRecord::Lost(lost) => compact.lose(Losses::of(lost.count))?,
                EventRecord::Throttle(_) => compact.lose(Losses::UNCOUNTED)?,
                EventRecord::Raw(raw) if raw.record_type == RecordType::LOST_SAMPLES => {
                    let count = raw.data.as_slice();
                    let count = count.get(..8).and_then(|count| number(count, is_big_endian));
                    // Samples that a filter dropped are none of the recording.
                    let is_filtered = raw.misc & LOST_TO_FILTER != 0;
                    match count {
                        _ if is_filtered => {}
                        Some(0) => {}
                        Some(count) => compact.lose(Losses::of(count))?,
                        None => compact.lose(Losses::UNCOUNTED)?,
                    }
                }
                _ => {}
            }
        }
        next = record_iter.next_record(&mut perf_file).map_err(wrong)?;
    }
    if is_cut() {
        compact.lose(Losses::UNCOUNTED)?;
    }
    compact.finish(name)
}

fn add(
    compact: &mut Compact<impl Write>,
    formats: &HashMap<u16, Format>,
    bytes: &[u8],
    is_big_endian: bool,
    (time_ns, cpu): (u64, u32),
) -> Result<(), ImportError> {
    // The first field of every tracepoint is its number.
    let id = bytes.get(..2).and_then(|id| number(id, is_big_endian)).unwrap_or(0) as u16;
    let Some(format) = formats.get(&id) else {
        compact.leave_out();
        return Ok(());
    };
    let Some(kind) = Kind::of(&format.name) else {
        compact.leave_out();
        return Ok(());
    };
    let raw = Raw { format, bytes, is_big_endian };
    let text: HashMap<&str, String> = ["gfp_flags", "call_site", "name"]
        .into_iter()
        .filter_map(|name| Some((name, raw.text_of(name)?)))
        .collect();
    let fields = Named { raw: &raw, text: &text };
    if has_failed(kind, &fields) {
        compact.fail(fields.number("order", false).unwrap_or(0))?;
        return Ok(());
    }
    match what(kind, &fields) {
        Some(what) => compact.add(&Recorded { time_ns, cpu, what })?,
        None => compact.lose_unreadable()?,
    }
    Ok(())
}

/// An event's bytes and what they mean.
struct Raw<'r> {
    format: &'r Format,
    bytes: &'r [u8],
    is_big_endian: bool,
}

impl Raw<'_> {
    fn number_of(&self, name: &str) -> Option<u64> {
        let field = self.format.fields.get(name)?;
        let end = field.offset.checked_add(field.bytes)?;
        number(self.bytes.get(field.offset..end)?, self.is_big_endian)
    }

    /// Returns text where there is text, otherwise the number.
    fn text_of(&self, name: &str) -> Option<String> {
        let number = self.number_of(name)?;
        if !self.format.fields.get(name)?.is_located {
            return Some(format!("{number:#x}"));
        }
        let (offset, length) = ((number & 0xffff) as usize, (number >> 16 & 0xffff) as usize);
        let text = self.bytes.get(offset..offset.checked_add(length)?)?;
        let text = text.split(|byte| *byte == 0).next().unwrap_or(text);
        Some(match String::from_utf8_lossy(text) {
            Cow::Borrowed(text) => text.to_owned(),
            Cow::Owned(text) => text,
        })
    }
}

/// The fields of an event, with their text already formatted.
struct Named<'t> {
    raw: &'t Raw<'t>,
    text: &'t HashMap<&'t str, String>,
}

impl<'t> Fields<'t> for Named<'t> {
    fn number(&self, name: &str, _: bool) -> Option<u64> {
        self.raw.number_of(name)
    }

    fn text(&self, name: &str) -> Option<&'t str> {
        self.text.get(name).map(String::as_str)
    }
}
