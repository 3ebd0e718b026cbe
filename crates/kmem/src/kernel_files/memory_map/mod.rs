//! Reads a boot memory map as kernels have logged it for 25 years:
//!
//! ```text
//! BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable    both ends included
//!  BIOS-e820: 0000000000000000 - 000000000009fc00 (usable)         end excluded, before Linux 3.7
//! BIOS-e820: 0009fc00 @ 00000000 (usable)                          size @ start, before Linux 2.4
//! e820: remove [mem 0x000a0000-0x000fffff] usable                  applied in the lines' order
//! e820: update [mem 0x00000000-0x00000fff] usable ==> reserved
//! e820 remove range: 00000000000a0000 - 0000000000100000 (usable)  the same before Linux 3.5
//! user: [mem 0x0000000000100000-0x000000001fffffff] usable         replaces the firmware's map
//! 00001000-0009fbff : System RAM                                   /proc/iomem, both ends included
//! 0x100000-0x7ffdffff usable                                       written by hand
//! ```
//!
//! Prefixes of `dmesg` and of journals are skipped, and so are all lines that describe no memory. A
//! line that begins like one of these but continues differently is left out with a complaint: its
//! memory is then missing from the map.

mod line;

use std::io::BufRead;

use page_frame::{FrameRange, MemoryMap, RegionKind};

use crate::input_error::{InputError, Mismatch, quoted};
use crate::kernel_files::text_lines::{self, TextLine};
use crate::picture::text::counted;
use line::{Action, REGION, REPLACING, Range, Region, action};

/// Maximum number of regions in a map.
const MAX_REGIONS: usize = 1024;
/// Maximum number of lines in a file: a whole kernel log.
const MAX_LINES: u64 = 1 << 20;
/// A boot memory map.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct BootMap {
    /// The whole usable frames.
    pub runs: Vec<FrameRange>,
    /// What could not be used of the file; `None` where all of it could.
    pub complaint: Option<String>,
}

/// Reads a map. `file` is its name in error messages.
///
/// # Errors
/// A map without whole usable frames, with the first line that could not be read, or one whose
/// addresses the kernel has hidden.
pub fn read(file: &str, from: impl BufRead) -> Result<BootMap, InputError> {
    let mut regions = Regions::default();
    let mut first_skipped = None;
    let mut broken: Vec<InputError> = Vec::new();
    let mut replacing = None;
    for TextLine { number, text } in text_lines::read(file, from, MAX_LINES)? {
        let mark = REPLACING.iter().find(|mark| text.contains(**mark));
        if mark.is_some() && mark != replacing {
            regions = Regions::default();
            replacing = mark;
        }
        match action(&text) {
            Ok(Some(action)) => regions.apply(action),
            Ok(None) if text.trim().is_empty() || text.starts_with('#') => {}
            Ok(None) => _ = first_skipped.get_or_insert((number, text)),
            Err(expected) => {
                let mismatch = Mismatch::new(expected, quoted(text.trim().as_bytes()));
                broken.push(mismatch.at_line(file, number));
            }
        }
    }
    if regions.are_hidden() {
        let expected = "addresses of memory, which only root may read in /proc/iomem";
        return Err(Mismatch::new(expected, "zeros").in_file(file));
    }
    let runs = regions.runs().map_err(|error| {
        Mismatch::new("regions that the map can take", error.to_string()).in_file(file)
    })?;
    let complaint = broken.first().map(|first| {
        let count = counted(broken.len(), "line");
        format!("{count} of the map cannot be read, and the memory is missing; {first}")
    });
    if !runs.is_empty() {
        return Ok(BootMap { runs, complaint });
    }
    match (broken.into_iter().next(), regions.0.is_empty(), first_skipped) {
        (Some(first), ..) => Err(first),
        (None, true, Some((number, text))) => {
            let found = quoted(text.trim().as_bytes());
            Err(Mismatch::new(REGION, found).at_line(file, number))
        }
        _ => Err(Mismatch::new("whole frames of usable memory", "none").in_file(file)),
    }
}

/// The regions after the lines read so far. They may overlap, as firmware reports them.
#[derive(Debug, Default)]
struct Regions(Vec<Region>);

impl Regions {
    fn apply(&mut self, action: Action) {
        match action {
            Action::Add(region) => self.0.push(region),
            Action::Remove(range, kind) => {
                self.replace(range, |found| kind.is_none_or(|kind| kind == found), None);
            }
            Action::Update(range, old, new) => self.replace(range, |found| found == old, Some(new)),
        }
    }

    /// Changes the kind of the part in `range` of each region of a `wanted` kind to `new`, or
    /// removes that part.
    fn replace(
        &mut self,
        range: Range,
        wanted: impl Fn(RegionKind) -> bool,
        new: Option<RegionKind>,
    ) {
        for Region { range: old, kind } in std::mem::take(&mut self.0) {
            let start = range.start.clamp(old.start, old.end);
            let end = range.end.clamp(old.start, old.end);
            if !wanted(kind) || start >= end {
                self.0.push(Region { range: old, kind });
                continue;
            }
            let parts = [
                Some((old.start, start, kind)),
                new.map(|new| (start, end, new)),
                Some((end, old.end, kind)),
            ];
            let parts = parts.into_iter().flatten().filter(|(start, end, _)| start < end);
            self.0.extend(
                parts.map(|(start, end, kind)| Region { range: Range { start, end }, kind }),
            );
        }
    }

    /// Returns whether every address is zero, as /proc/iomem shows them to all users but root.
    fn are_hidden(&self) -> bool {
        let is_hidden = |region: &Region| region.range == Range { start: 0, end: 1 };
        !self.0.is_empty() && self.0.iter().all(is_hidden)
    }

    /// Returns the whole usable frames that no other region covers.
    fn runs(&self) -> Result<Vec<FrameRange>, page_frame::MapError> {
        let mut map = MemoryMap::<MAX_REGIONS>::new();
        for Region { range, kind } in &self.0 {
            map.add_range(range.start, range.end, *kind)?;
        }
        Ok(map.runs().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(text: &str) -> Vec<(usize, usize)> {
        let map = read("m", text.as_bytes()).expect("it is well formed");
        assert_eq!(map.complaint, None);
        map.runs.iter().map(|run| (run.start.get(), run.end.get())).collect()
    }

    #[test]
    fn usable_frames_are_those_that_no_other_region_covers() {
        let text = "[    0.000000] BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable\n\
                    [    0.000000] BIOS-e820: [mem 0x0000000000100000-0x0000000000ffffff] usable\n\
                    # the kernel\n0x100000-0x14ffff reserved\n";
        assert_eq!(runs(text), [(0, 0x9f), (0x150, 0x1000)]);
    }

    #[test]
    fn the_old_form_excludes_its_end() {
        let text = "BIOS-provided physical RAM map:\n BIOS-e820: 0000000000000000 - 000000000009fc00 (usable)\n\
                    Nov 29 10:00:00 host kernel:  BIOS-e820: 0000000000100000 - 0000000000200000 (usable)\n\
                     BIOS-e820: 0000000000200000 - 0000000000300000 (ACPI data)\n";
        assert_eq!(runs(text), [(0, 0x9f), (0x100, 0x200)]);
    }

    #[test]
    fn changes_apply_in_order_and_to_their_kind_alone() {
        let base = "BIOS-e820: [mem 0x00000000-0x00ffffff] usable\n";
        let remove = "e820: remove [mem 0x00100000-0x001fffff] usable\n";
        let other = "e820: remove [mem 0x00300000-0x003fffff] reserved\n";
        let update = "e820: update [mem 0x00000000-0x00000fff] usable ==> reserved\n";
        assert_eq!(runs(&format!("{base}{remove}{other}{update}")), [(1, 0x100), (0x200, 0x1000)]);
        assert_eq!(runs(&format!("{remove}{base}")), [(0, 0x1000)], "nothing was there yet");
        let back = "e820: update [mem 0x00000000-0x00000fff] reserved ==> usable\n";
        assert_eq!(runs(&format!("{base}{update}{back}")), [(0, 0x1000)]);
    }

    #[test]
    fn iomem_counts_its_outer_lines() {
        let text = "00000000-00000fff : Reserved\n00001000-0009fbff : System RAM\n\
                    00100000-00ffffff : System RAM\n  00200000-002fffff : Kernel code\n\
                    01000000-01ffffff : Some device (old)\n";
        assert_eq!(runs(text), [(1, 0x9f), (0x100, 0x1000)]);
        let hidden = "00000000-00000000 : Reserved\n00000000-00000000 : System RAM\n";
        let error = read("m", hidden.as_bytes()).expect_err("hidden").to_string();
        assert!(error.contains("only root may read"), "{error}");
    }

    #[test]
    fn other_lines_are_skipped_and_a_map_of_nothing_is_refused() {
        let skipped = "[    0.3] e820: last_pfn = 0x3ffe0 max_arch_pfn = 0x400000000\n\
                       [    0.3] e820: [mem 0x40000000-0xfeffbfff] available for PCI devices\n\
                       [    0.3] PCI: ECAM [mem 0xeec00000-0xeecfffff] reserved as E820 entry\n\
                       [    0.3] e820: reserve RAM buffer [mem 0x0009fc00-0x0009ffff]\n\
                       BIOS-e820: [gap 0x00001000-0x00ffffff]\n\
                       BIOS-e820: [mem 0x00000000-0x00ffffff]  System RAM\n";
        assert_eq!(runs(skipped), [(0, 0x1000)]);
        for (text, expected) in [
            ("", "m: expected whole frames of usable memory, found none"),
            ("0x0-0xfff\n", "m:1: expected a region"),
            ("0x2000-0xfff usable\n", "m:1: expected a region"),
            ("0x0-0xfff reserved\n", "m: expected whole frames"),
            ("hello\n", "m:1: expected a region"),
            ("BIOS-e820: [mem 0x1\n", "m:1: expected a region"),
        ] {
            let message = read("m", text.as_bytes()).expect_err("it is wrong").to_string();
            assert!(message.starts_with(expected), "{message}");
        }
    }

    #[test]
    fn a_broken_line_costs_its_own_memory_alone() {
        for (broken, expected) in [
            ("BIOS-e820: [mem 0x1", REGION),
            ("BIOS-e820: [mem 0xffff-0x1] usable", REGION),
            ("BIOS-e820: [mem 0x0-0x1ffffffffffffffff] usable", REGION),
            ("e820: update [mem 0x0-0xfff] usable", "e820: remove [mem"),
            ("e820 remove range: 0 - 1000 usable", "START - END (KIND)"),
        ] {
            let text = format!("BIOS-e820: [mem 0x0-0xfffff] usable\n{broken}\n");
            let map = read("m", text.as_bytes()).expect("the rest can be used");
            assert_eq!(map.runs.len(), 1, "{broken}");
            let complaint = map.complaint.expect("a line cannot be read");
            assert!(complaint.starts_with("1 line of the map cannot be read"), "{complaint}");
            assert!(complaint.contains(&format!("m:2: expected {expected}")), "{complaint}");
        }
    }

    #[test]
    fn maps_of_old_kernels_are_read() {
        let text =
            " BIOS-e820: 0009fc00 @ 00000000 (usable)\n BIOS-e820: 00f00000 @ 00100000 (usable)\n";
        assert_eq!(runs(text), [(0, 0x9f), (0x100, 0x1000)]);
        let text = " BIOS-88: 0000000000000000 - 000000000009f000 (usable)\n";
        assert_eq!(runs(text), [(0, 0x9f)]);
        let text = " BIOS-e820: 0000000000000000 - 0000000001000000 (usable)\n\
                    e820 update range: 0000000000000000 - 0000000000001000 (usable) ==> (reserved)\n\
                    e820 remove range: 00000000000a0000 - 0000000000100000 (usable)\n";
        assert_eq!(runs(text), [(1, 0xa0), (0x100, 0x1000)]);
    }

    #[test]
    fn a_map_of_the_user_replaces_that_of_the_firmware() {
        let text = "BIOS-e820: [mem 0x00000000-0x00ffffff] usable\n\
                    user-defined physical RAM map:\n\
                    user: [mem 0x00000000-0x0009ffff] usable\n\
                    user: [mem 0x00100000-0x007fffff] usable\n";
        assert_eq!(runs(text), [(0, 0xa0), (0x100, 0x800)]);
    }
}
