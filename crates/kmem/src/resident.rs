//! Resident memory in a range of our own address space, from `/proc/self/smaps`.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;

/// Returns how many bytes of `range` are resident. O(mappings).
///
/// # Errors
/// When the file cannot be read.
pub fn resident_bytes(range: Range<usize>) -> io::Result<usize> {
    let mut sum = 0;
    let mut within = false;
    for line in BufReader::new(File::open("/proc/self/smaps")?).lines() {
        let line = line?;
        if let Some(mapping) = mapping(&line) {
            // The kernel may show the range as several mappings, or as part of a larger one.
            within = mapping.start < range.end && range.start < mapping.end;
        } else if let Some(kib) = line.strip_prefix("Rss:").filter(|_| within) {
            let kib = kib.trim().trim_end_matches(" kB").parse::<usize>();
            sum += kib.map_err(io::Error::other)? * 1024;
        }
    }
    Ok(sum.min(range.len()))
}

/// Reads `START-END PERMISSIONS ...`, the first line of each mapping.
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
