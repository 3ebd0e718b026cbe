//! Which pages have memory behind them.

use core::ffi::c_void;

use page_frame::PAGE_SIZE;

use crate::system::os_error::preserving_errno;
use crate::system::proc_file::read_file;
use crate::system::seccomp;

/// The maximum number of pages in one query.
pub(crate) const MAX_PAGES: usize = 512;

/// Returns whether all of `pages` pages from `start` on, at most [`MAX_PAGES`], are resident. The
/// pages are mapped.
pub(crate) fn are_resident(start: *mut c_void, pages: usize) -> bool {
    if cfg!(miri) {
        return true;
    }
    if seccomp::is_filtered() { is_in_pagemap(start, pages) } else { is_in_core(start, pages) }
}

/// Returns whether all of `pages` pages from `start` on are resident, as `mincore` says.
fn is_in_core(start: *mut c_void, pages: usize) -> bool {
    let mut there = [0_u8; MAX_PAGES];
    let there = &mut there[..pages];
    let outcome = preserving_errno(|| {
        // SAFETY: a part of our mapping; the vector has a byte for each of its pages.
        unsafe { libc::mincore(start, pages * PAGE_SIZE, there.as_mut_ptr()) }
    });
    outcome == 0 && there.iter().all(|page| page & 1 == 1)
}

/// Returns the same as [`is_in_core`], as `/proc/self/pagemap` says.
fn is_in_pagemap(start: *mut c_void, pages: usize) -> bool {
    const ENTRY: usize = size_of::<u64>();
    /// The bit of an entry's last byte that says that the page is present: bit 63. The machines
    /// that this crate supports are little-endian.
    const PRESENT: u8 = 1 << 7;
    let mut entries = [0_u8; MAX_PAGES * ENTRY];
    let entries = &mut entries[..pages * ENTRY];
    let read = read_file(c"/proc/self/pagemap", start.addr() / PAGE_SIZE * ENTRY, entries);
    let mut last_bytes = entries.iter().skip(ENTRY - 1).step_by(ENTRY);
    read == pages * ENTRY && last_bytes.all(|byte| byte & PRESENT != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::mapping::Mapped;

    /// Mutations that it catches: another bit; a partial read; `mincore` that counts one page less.
    #[test]
    fn both_queries_say_which_pages_are_resident() {
        let memory = Mapped::reserve(512 * PAGE_SIZE).expect("address space");
        let start: *mut c_void = memory.start().as_ptr().cast();
        for query in [is_in_core, is_in_pagemap] {
            assert!(!query(start, 1));
        }
        // SAFETY: all of the mapping.
        unsafe { memory.start().write_bytes(1, 512 * PAGE_SIZE) };
        for query in [is_in_core, is_in_pagemap] {
            assert!(query(start, 512) && query(start, 3));
        }
        let last = start.wrapping_byte_add(511 * PAGE_SIZE);
        // SAFETY: nobody needs the content.
        let decommitted = unsafe { libc::madvise(last, PAGE_SIZE, libc::MADV_DONTNEED) };
        assert_eq!(decommitted, 0);
        for query in [is_in_core, is_in_pagemap] {
            assert!(!query(start, 512) && query(start, 511));
        }
    }
}
