//! Tells recordings from other files by their first bytes, so that no output replaces a recording
//! by mistake.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::kernel_files::{free_blocks, memory_map, slabinfo};
use crate::trace::line::{Line, parse};
use crate::trace::plain_text::PlainText;
use crate::{import, trace};

/// Bytes that are looked at: enough for the head of each kind of recording.
const START_BYTES: u64 = 64 << 10;
/// First bytes of binary recordings, and what they begin.
const MAGICS: [(&[u8], &str); 3] = [
    (b"PERFILE2", "a recording of perf"),
    (b"2ELIFREP", "a recording of perf"),
    (b"\x17\x08\x44tracing", "a recording of trace-cmd"),
];

/// Returns what kind of recording the file at `path` is; `None` for other files, and for a path
/// where there is no readable file.
pub fn kind(path: &Path) -> Option<&'static str> {
    if trace::is_trace(path) {
        return Some("a recorded trace");
    }
    // Reading a pipe would wait for a writer.
    let file = File::open(path).ok().filter(|file| file.metadata().is_ok_and(|it| it.is_file()))?;
    let mut start = Vec::new();
    file.take(START_BYTES).read_to_end(&mut start).ok()?;
    kind_of_bytes(&start)
}

/// Returns what kind of recording `start` begins.
fn kind_of_bytes(start: &[u8]) -> Option<&'static str> {
    if let Some((_, kind)) = MAGICS.iter().find(|(magic, _)| start.starts_with(magic)) {
        return Some(kind);
    }
    let is_cut = start.len() as u64 == START_BYTES;
    let mut plain = Vec::new();
    PlainText::new(start).read_to_end(&mut plain).ok()?;
    let whole = match is_cut {
        true => &plain[..memchr::memrchr(b'\n', &plain)? + 1],
        false => &plain[..],
    };
    if slabinfo::read("", whole).is_ok() {
        return Some("a snapshot of slabinfo");
    }
    if free_blocks::read("", whole).is_ok() {
        return Some("a snapshot of buddyinfo");
    }
    let mut lines = whole.split(|byte| *byte == b'\n');
    if lines.any(import::text::is_event) {
        return Some("a recording of perf or ftrace");
    }
    let mut lines = whole.split(|byte| *byte == b'\n').filter(|line| !line.starts_with(b"#"));
    let first = lines.find(|line| !line.is_empty())?;
    match parse(first) {
        Ok(Line::Event { .. } | Line::SiteName { .. } | Line::GfpName { .. }) => {
            Some("a recorded trace")
        }
        _ => memory_map::read("", whole).is_ok().then_some("a memory map"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_recording_is_known_and_reports_are_none() {
        for (start, kind) in [
            (&b"PERFILE2\x68\0"[..], Some("a recording of perf")),
            (b"\x17\x08\x44tracing6\0", Some("a recording of trace-cmd")),
            (b"slabinfo - version: 2.1\n", Some("a snapshot of slabinfo")),
            (b"Node 0, zone Normal 1 2 3\n", Some("a snapshot of buddyinfo")),
            (
                b"x-1 [001] 5.0: kfree: call_site=f ptr=0x10\n",
                Some("a recording of perf or ftrace"),
            ),
            (b"# plain\n\nf,0,0,0\n", Some("a recorded trace")),
            (b"# x\rx-1 [1] 5.0: kfree: ptr=0x10\r", Some("a recording of perf or ftrace")),
            (b"f\0,\0\x30\0,\0\x30\0,\0\x30\0\n\0", Some("a recorded trace")),
            (b"BIOS-e820: [mem 0x0-0xfff] usable\n", Some("a memory map")),
            (b"{\n  \"trace\": \"t\"\n}\n", None),
            (b"<!doctype html>\n", None),
            (b"cache,object\r\nfilp,184\r\n", None),
            (b"", None),
        ] {
            assert_eq!(kind_of_bytes(start), kind, "{}", String::from_utf8_lossy(start));
        }
    }
}
