//! The metadata of one section: the offsets of its parts, and the functions that make them.

use core::alloc::Layout;
use core::ptr::NonNull;

use page_frame::sync::{array_in, slice_in};

use crate::bitmap::hints::{Bounds, Hints};
use crate::bitmap::section::Section;

/// Returns size and alignment of the metadata of a section that is added at run time: the section
/// itself, then its lines, entries and hints.
pub(crate) fn section_layout() -> Layout {
    let [_, _, hint_bytes] = Section::part_bytes();
    Layout::from_size_align(added_at()[2] + hint_bytes, 64).expect("some tens of KiB")
}

/// Returns the offsets of lines, entries and hints in the metadata of an added section.
fn added_at() -> [usize; 3] {
    let [line_bytes, entry_bytes, _] = Section::part_bytes();
    let lines = size_of::<Section<'_>>().next_multiple_of(64);
    let entries = lines + line_bytes;
    [lines, entries, (entries + entry_bytes).next_multiple_of(64)]
}

/// Makes a section in its own metadata, all of its frames free and none published.
///
/// # Safety
/// 1. `metadata` is valid for reads and writes of [`section_layout`] during `'m`, zero, and used by
///    no other code.
pub(crate) unsafe fn added_section<'m>(
    metadata: NonNull<u8>,
    bounds: &'m Bounds,
    index: usize,
) -> &'m Section<'m> {
    // SAFETY: clause 1: the layout has room for each part, at the offsets of `added_at`.
    let section = || unsafe { section(metadata, added_at(), bounds, index) };
    // SAFETY: clause 1: the section itself lies at offset 0, before the parts.
    let sections = unsafe { fill(metadata, 1, |_| section()) };
    &sections[0]
}

/// Makes the section with `index`, with lines, entries and hints at the offsets `at` of `metadata`.
///
/// # Safety
/// 1. At each offset `metadata` is valid, for reads and writes during `'m`, of the bytes of that
///    part ([`Section::part_bytes`]), aligned to 64, zero, and used by no other code.
pub(super) unsafe fn section<'m>(
    metadata: NonNull<u8>,
    at: [usize; 3],
    bounds: &'m Bounds,
    index: usize,
) -> Section<'m> {
    // SAFETY: clause 1, for the three offsets.
    let [lines, entries, hints] = at.map(|at| unsafe { metadata.add(at) });
    // SAFETY: clause 1: the bytes of the lines.
    let lines = unsafe { array_in(lines) };
    // SAFETY: clause 1: the bytes of the entries.
    let entries = &unsafe { slice_in(entries, 1) }[0];
    // SAFETY: clause 1: the bytes of the hint maps.
    let maps = unsafe { array_in(hints) };
    Section::new(lines, entries, Hints::new(maps, bounds, index))
}

/// Writes `count` values at `memory` and returns them.
///
/// # Safety
/// 1. `memory` is aligned for `T`, valid for writes of `count` values during `'m`, and used by no
///    other code.
pub(super) unsafe fn fill<'m, T>(
    memory: NonNull<u8>,
    count: usize,
    mut value: impl FnMut(usize) -> T,
) -> &'m [T] {
    let first = memory.cast::<T>();
    for index in 0..count {
        // SAFETY: clause 1: `index` is below `count`.
        let place = unsafe { first.add(index) };
        // SAFETY: clause 1: aligned, and valid for a value at each index.
        unsafe { place.write(value(index)) };
    }
    // SAFETY: clause 1; the loop has written all values.
    unsafe { core::slice::from_raw_parts(first.as_ptr(), count) }
}
