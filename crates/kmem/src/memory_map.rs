//! Reads a boot memory map as the kernel logs it:
//!
//! ```text
//! BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable
//! 0x100000-0x7ffdffff usable
//! ```
//!
//! Both ends belong to the region. A line may begin with any prefix, as in `dmesg`.

use std::io::{BufRead, Read};

use page_frame::{FrameRange, MemoryMap, RegionKind};

use crate::input_error::{InputError, Mismatch, quoted};

/// Longest line that is read, in bytes.
const MAX_LINE_BYTES: u64 = 4096;
/// Maximum number of regions in a map.
const MAX_REGIONS: usize = 256;

/// Reads a map and returns its whole usable frames. `file` is its name in error messages.
///
/// # Errors
/// The first line that is no region, or a map without whole usable frames.
pub fn read(file: &str, mut from: impl BufRead) -> Result<Vec<FrameRange>, InputError> {
    let mut map = MemoryMap::<MAX_REGIONS>::new();
    let mut text = Vec::new();
    for number in 1.. {
        text.clear();
        let read = from.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut text);
        read.map_err(|error| Mismatch::new("readable input", error.to_string()).in_file(file))?;
        let line = text.trim_ascii();
        if text.is_empty() {
            break;
        }
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let region = region(line).ok_or_else(|| {
            let expected = "a region: [mem 0xSTART-0xEND] KIND";
            Mismatch::new(expected, quoted(line)).at_line(file, number)
        });
        let (start, end, kind) = region?;
        map.add_range(start, end, kind).map_err(|error| {
            Mismatch::new("a region that the map can take", error.to_string()).at_line(file, number)
        })?;
    }
    let runs: Vec<_> = map.runs().collect();
    match runs.is_empty() {
        true => Err(Mismatch::new("whole frames of usable memory", "none").in_file(file)),
        false => Ok(runs),
    }
}

/// Reads start, end (excluded) and kind of a region.
fn region(line: &[u8]) -> Option<(u64, u64, RegionKind)> {
    let line = std::str::from_utf8(line).ok()?;
    let line = line.split_once("[mem ").map_or(line, |(_, rest)| rest);
    let (start, rest) = line.trim().split_once('-')?;
    let (end, kind) = rest.split_once([']', ' '])?;
    let address = |text: &str| u64::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok();
    let kind = match kind.trim().trim_start_matches(']').trim() {
        "usable" => RegionKind::Usable,
        text if text.starts_with("ACPI data") => RegionKind::Reclaimable,
        text if text.starts_with("persistent") || text.starts_with("ACPI NVS") => {
            RegionKind::Persistent
        }
        text if text.starts_with("unusable") => RegionKind::Bad,
        "" => return None,
        _ => RegionKind::Reserved,
    };
    Some((address(start)?, address(end)?.checked_add(1)?, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usable_frames_are_what_no_other_region_covers() {
        let text = "[    0.000000] BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable\n\
                    [    0.000000] BIOS-e820: [mem 0x0000000000100000-0x0000000000ffffff] usable\n\
                    # the kernel\n0x100000-0x14ffff reserved\n";
        let runs = read("m", text.as_bytes()).expect("it is well formed");
        let runs: Vec<_> = runs.iter().map(|run| (run.start.get(), run.end.get())).collect();
        assert_eq!(runs, [(0, 0x9f), (0x150, 0x1000)]);
    }

    #[test]
    fn what_is_no_map_is_refused_with_its_line() {
        for (text, expected) in [
            ("", "m: expected whole frames of usable memory, found none"),
            ("0x0-0xfff usable\nrubbish\n", "m:2: expected a region"),
            ("0x0-0xfff\n", "m:1: expected a region"),
            ("0x2000-0xfff usable\n", "m:1: expected a region that the map can take"),
            ("0x0-0xfff reserved\n", "m: expected whole frames"),
        ] {
            let message = read("m", text.as_bytes()).expect_err("it is wrong").to_string();
            assert!(message.starts_with(expected), "{message}");
        }
    }
}
