//! Resident memory in a range of our own address space.

use std::io;
use std::ops::Range;
use std::ptr::without_provenance_mut;

use page_frame::PAGE_SIZE;

/// Returns how many bytes of `range`, which is mapped and begins at a page, are resident. O(pages):
/// one byte for each while the call runs.
///
/// # Errors
/// Those of `mincore`: a part of the range is not mapped.
pub fn resident_bytes(range: Range<usize>) -> io::Result<usize> {
    let mut pages = vec![0_u8; range.len().div_ceil(PAGE_SIZE)];
    let start = without_provenance_mut(range.start);
    // SAFETY: `pages` has a byte for each page of the range, of which nothing else is read.
    if unsafe { libc::mincore(start, range.len(), pages.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let resident = pages.iter().filter(|page| **page & 1 == 1).count();
    Ok((resident * PAGE_SIZE).min(range.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_written_pages_count() {
        let memory = hosted::Mapped::reserve(64 << 20).expect("address space");
        let start = memory.start().addr().get();
        let range = start..start + memory.bytes();
        let before = resident_bytes(range.clone()).expect("it is mapped");
        for page in 0..100 {
            // SAFETY: within the mapping.
            let place = unsafe { memory.start().add(page * 4096) };
            // SAFETY: mapped memory, ours.
            unsafe { place.write(1) };
        }
        let after = resident_bytes(range).expect("it is mapped");
        assert_eq!(after - before, 100 * 4096, "{before} before, {after} after");
    }
}
