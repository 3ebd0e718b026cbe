//! How much of a range of our own address space has memory behind it, as `/proc/self/smaps` says.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;

/// Returns the bytes of `range` that are resident. O(mappings).
///
/// # Errors
/// Where there is no such file.
pub fn resident_bytes(range: Range<usize>) -> io::Result<usize> {
    let mut sum = 0;
    let mut within = false;
    for line in BufReader::new(File::open("/proc/self/smaps")?).lines() {
        let line = line?;
        if let Some(mapping) = mapping(&line) {
            // A range is mapped as one or more mappings of its own, or merged with a neighbour.
            within = mapping.start < range.end && range.start < mapping.end;
        } else if let Some(kib) = line.strip_prefix("Rss:").filter(|_| within) {
            let kib = kib.trim().trim_end_matches(" kB").parse::<usize>();
            sum += kib.map_err(io::Error::other)? * 1024;
        }
    }
    Ok(sum.min(range.len()))
}

/// Reads `START-END PERMISSIONS ...`, which begins each mapping.
fn mapping(line: &str) -> Option<Range<usize>> {
    let (start, rest) = line.split_once('-')?;
    let (end, _) = rest.split_once(' ')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some(number(start)?..number(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_written_pages_count() {
        let memory = hosted::Mapped::reserve(64 << 20).expect("address space");
        let start = memory.start().addr().get();
        let range = start..start + memory.bytes();
        let before = resident_bytes(range.clone()).expect("there is such a file");
        for page in 0..100 {
            // SAFETY: within the mapping.
            let place = unsafe { memory.start().add(page * 4096) };
            // SAFETY: mapped memory, ours.
            unsafe { place.write(1) };
        }
        let after = resident_bytes(range).expect("there is such a file");
        assert!(after - before >= 100 * 4096, "{before} before, {after} after");
    }
}
