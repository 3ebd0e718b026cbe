//! The formats inside `perf.data`: what a tracepoint's bytes mean, as the recorded kernel described
//! it (`tools/perf/Documentation/perf.data-file-format.txt`, `HEADER_TRACING_DATA`).

use std::collections::HashMap;

/// Events whose formats are kept.
const SYSTEM: &str = "kmem";

/// A field of an event's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) offset: usize,
    pub(super) bytes: usize,
    /// Offset and length of text stand here, not the text.
    pub(super) is_located: bool,
}

/// How an event's bytes are laid out.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Format {
    pub(super) name: String,
    pub(super) fields: HashMap<String, Field>,
}

/// Reads the formats of all `kmem` events by their number. Whatever is cut off or not as it should
/// be ends the reading.
pub(super) fn formats(section: &[u8], is_big_endian: bool) -> HashMap<u16, Format> {
    let mut formats = HashMap::new();
    let mut data = Data { rest: section, is_big_endian };
    let _ = read(&mut data, &mut formats);
    formats
}

fn read(data: &mut Data<'_>, formats: &mut HashMap<u16, Format>) -> Option<()> {
    data.rest.strip_prefix(b"\x17\x08\x44tracing")?;
    data.take(10)?;
    data.text()?;
    // Byte order, size of a long, size of a page.
    data.take(6)?;
    for name in ["header_page", "header_event"] {
        (data.text()? == name.as_bytes()).then_some(())?;
        let bytes = data.number(8)?;
        data.take(bytes)?;
    }
    for _ in 0..data.number(4)? {
        let bytes = data.number(8)?;
        data.take(bytes)?;
    }
    for _ in 0..data.number(4)? {
        let is_ours = data.text()? == SYSTEM.as_bytes();
        for _ in 0..data.number(4)? {
            let bytes = data.number(8)?;
            let text = data.take(bytes)?;
            if let Some((id, format)) =
                std::str::from_utf8(text).ok().filter(|_| is_ours).and_then(format)
            {
                formats.insert(id, format);
            }
        }
    }
    Some(())
}

/// Reads `name: N`, `ID: N`, and lines of fields.
fn format(text: &str) -> Option<(u16, Format)> {
    let mut format = Format::default();
    let mut id = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("name: ") {
            format.name = name.trim().to_owned();
        } else if let Some(number) = line.strip_prefix("ID: ") {
            id = number.trim().parse().ok();
        } else if let Some(rest) = line.trim_start().strip_prefix("field:") {
            let (name, field) = field(rest)?;
            format.fields.insert(name, field);
        }
    }
    Some((id?, format))
}

/// Reads `TYPE NAME;\toffset:N;\tsize:N;\tsigned:N;`.
fn field(text: &str) -> Option<(String, Field)> {
    let mut parts = text.split(';').map(str::trim);
    let declared = parts.next()?;
    let name = declared.rsplit([' ', '*']).next()?;
    let name = name.split('[').next()?.to_owned();
    let mut number = |name| parts.next()?.strip_prefix(name)?.parse::<usize>().ok();
    let (offset, bytes) = (number("offset:")?, number("size:")?);
    Some((name, Field { offset, bytes, is_located: declared.starts_with("__data_loc") }))
}

/// Bytes that are read from the front.
struct Data<'d> {
    rest: &'d [u8],
    is_big_endian: bool,
}

impl<'d> Data<'d> {
    fn take(&mut self, bytes: usize) -> Option<&'d [u8]> {
        let (taken, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(taken)
    }

    /// Takes text that ends in a zero byte.
    fn text(&mut self) -> Option<&'d [u8]> {
        let length = memchr::memchr(0, self.rest)?;
        let text = self.take(length)?;
        self.take(1)?;
        Some(text)
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        let taken = self.take(bytes)?;
        usize::try_from(number(taken, self.is_big_endian)?).ok()
    }
}

/// Returns the number in at most eight bytes.
pub(super) fn number(bytes: &[u8], is_big_endian: bool) -> Option<u64> {
    if bytes.is_empty() || bytes.len() > 8 {
        return None;
    }
    let sum = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
    Some(match is_big_endian {
        true => bytes.iter().fold(0, sum),
        false => bytes.iter().rev().fold(0, sum),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KFREE: &str = "name: kfree\nID: 512\nformat:\n\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n\tfield:const void * ptr;\toffset:16;\tsize:8;\tsigned:0;\n\tfield:__data_loc char[] name;\toffset:24;\tsize:4;\tsigned:0;\n\nprint fmt: \"x\"\n";

    fn section() -> Vec<u8> {
        let mut data = b"\x17\x08\x44tracing0.6\0\0\x08\0\x10\0\0".to_vec();
        for name in [&b"header_page\0"[..], b"header_event\0"] {
            data.extend(name);
            data.extend(3_u64.to_le_bytes());
            data.extend(b"abc");
        }
        data.extend(0_u32.to_le_bytes());
        data.extend(1_u32.to_le_bytes());
        data.extend(b"kmem\0");
        data.extend(1_u32.to_le_bytes());
        data.extend((KFREE.len() as u64).to_le_bytes());
        data.extend(KFREE.as_bytes());
        data
    }

    #[test]
    fn fields_are_found_by_name() {
        let formats = formats(&section(), false);
        let format = &formats[&512];
        assert_eq!(format.name, "kfree");
        assert_eq!(format.fields["ptr"], Field { offset: 16, bytes: 8, is_located: false });
        assert!(format.fields["name"].is_located);
    }

    #[test]
    fn a_section_that_ends_anywhere_gives_what_it_has() {
        let section = section();
        for end in 0..section.len() {
            assert!(formats(&section[..end], false).is_empty());
        }
    }
}
