//! Reads `perf.data`. Only samples of `kmem` events and counts of lost ones are looked at.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{Read, Seek, Write};

use linux_perf_data::linux_perf_event_reader::{Endianness, EventRecord};
use linux_perf_data::{Feature, PerfFileReader, PerfFileRecord};

use super::compact::{Compact, Counts};
use super::format::{Format, formats, number};
use super::text::ImportError;
use super::{Fields, Kind, Recorded, has_failed, what};
use crate::input_error::Mismatch;
use crate::trace::losses::Losses;

/// The first bytes of such a file.
pub const MAGIC: &[u8; 8] = b"PERFILE2";

/// Reads the file, which errors call `name`, and writes a compact trace.
///
/// # Errors
/// A file that is none, or that was recorded without kmem events or their times; an output that
/// takes no more.
pub fn import(name: &str, file: impl Read + Seek, out: impl Write) -> Result<Counts, ImportError> {
    let wrong = |error: linux_perf_data::Error| {
        Mismatch::new("a whole perf.data file", error.to_string()).in_file(name)
    };
    let PerfFileReader { mut perf_file, mut record_iter } =
        PerfFileReader::parse_file(file).map_err(wrong)?;
    let is_big_endian = perf_file.endian() == Endianness::BigEndian;
    let section = perf_file.feature_section_data(Feature::TRACING_DATA).unwrap_or_default();
    let formats = formats(section, is_big_endian);
    if formats.is_empty() {
        let mismatch = Mismatch::new("formats of kmem events (perf record -e 'kmem:*')", "none");
        return Err(mismatch.in_file(name).into());
    }
    let mut compact = Compact::new(out);
    while let Some(record) = record_iter.next_record(&mut perf_file).map_err(wrong)? {
        let PerfFileRecord::EventRecord { record, .. } = record else { continue };
        let broken = |error: std::io::Error| {
            Mismatch::new("records of perf.data", error.to_string()).in_file(name)
        };
        match record.parse().map_err(broken)? {
            EventRecord::Sample(sample) => {
                let (Some(raw), Some(time_ns)) = (sample.raw, sample.timestamp) else {
                    let mismatch =
                        Mismatch::new("samples with time and raw bytes (perf record -a)", "others");
                    return Err(mismatch.in_file(name).into());
                };
                let bytes = raw.as_slice();
                let cpu = sample.cpu.unwrap_or(0);
                add(&mut compact, &formats, &bytes, is_big_endian, (time_ns, cpu))?;
            }
            EventRecord::Lost(lost) => compact.lose(Losses::of(lost.count))?,
            _ => {}
        }
    }
    Ok(compact.finish()?)
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
        None => compact.leave_out(),
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
