//! Reads a boot memory map as kernels have logged it for 25 years:
//!
//! ```text
//! BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable    both ends included
//!  BIOS-e820: 0000000000000000 - 000000000009fc00 (usable)         end excluded, before Linux 3.7
//! e820: remove [mem 0x000a0000-0x000fffff] usable                  applied in the lines' order
//! e820: update [mem 0x00000000-0x00000fff] usable ==> reserved
//! 00001000-0009fbff : System RAM                                   /proc/iomem, both ends included
//! 0x100000-0x7ffdffff usable                                       written by hand
//! ```
//!
//! Prefixes of `dmesg` and of journals are skipped, and so are all lines that describe no memory. A
//! line that begins like one of these but continues differently is an error: without the line the
//! map would be wrong.

use std::io::BufRead;

use page_frame::{FrameRange, MemoryMap, RegionKind};

use crate::input_error::{InputError, Mismatch, quoted};
use crate::text_lines::{self, TextLine};

/// Maximum number of regions in a map.
const MAX_REGIONS: usize = 256;
/// Maximum number of lines in a file: a whole kernel log.
const MAX_LINES: u64 = 1 << 20;
/// Words before a region that a firmware or a user gave.
const MARKS: [&str; 5] = ["BIOS-e820:", "Xen:", "user:", "modified:", "extended:"];

/// Reads a map and returns its whole usable frames. `file` is its name in error messages.
///
/// # Errors
/// The first line that is a region of memory and cannot be read, a map without whole usable frames,
/// or one whose addresses the kernel has hidden.
pub fn read(file: &str, from: impl BufRead) -> Result<Vec<FrameRange>, InputError> {
    let mut regions = Regions::default();
    let mut first_skipped = None;
    for TextLine { number, text } in text_lines::read(file, from, MAX_LINES)? {
        match action(&text) {
            Ok(Some(action)) => regions.apply(action),
            Ok(None) if text.trim().is_empty() || text.starts_with('#') => {}
            Ok(None) => _ = first_skipped.get_or_insert((number, text)),
            Err(expected) => {
                let mismatch = Mismatch::new(expected, quoted(text.trim().as_bytes()));
                return Err(mismatch.at_line(file, number));
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
    match (runs.is_empty(), regions.0.is_empty(), first_skipped) {
        (false, ..) => Ok(runs),
        (true, true, Some((number, text))) => {
            let found = quoted(text.trim().as_bytes());
            Err(Mismatch::new("a region: [mem 0xSTART-0xEND] KIND", found).at_line(file, number))
        }
        _ => Err(Mismatch::new("whole frames of usable memory", "none").in_file(file)),
    }
}

/// The effect of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// Adds a region.
    Add(Region),
    /// Removes memory of a kind from a range, or of any kind.
    Remove(Range, Option<RegionKind>),
    /// Changes memory of one kind in a range to another kind.
    Update(Range, RegionKind, RegionKind),
}

/// Addresses from `start` to `end`, which is excluded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    start: u64,
    end: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Region {
    range: Range,
    kind: RegionKind,
}

/// Reads a line. `Ok(None)` is a line about something else; the error names what was expected.
fn action(line: &str) -> Result<Option<Action>, &'static str> {
    if let Some((_, rest)) = MARKS.iter().find_map(|mark| line.split_once(mark)) {
        return region(rest.trim()).ok_or("a region: [mem 0xSTART-0xEND] KIND");
    }
    if let Some((_, rest)) = line.split_once("e820: ") {
        return change(rest.trim());
    }
    if let Some((range, kind)) = line.split_once(" : ") {
        // Indented lines of /proc/iomem are parts of the preceding region.
        return match (line.starts_with(' '), range_of(range.trim(), "")) {
            (false, Some(range)) => Ok(Some(Action::Add(Region { range, kind: kind_of(kind) }))),
            _ => Ok(None),
        };
    }
    let text = line.trim();
    if text.starts_with("[mem ") || text.starts_with("0x") {
        return region(text).ok_or("a region: [mem 0xSTART-0xEND] KIND");
    }
    Ok(None)
}

/// Reads a region in the new form, in the old one, or written by hand. The outer `None` is a region
/// that cannot be read, the inner `None` a gap, which is not memory.
fn region(text: &str) -> Option<Option<Action>> {
    if text.starts_with("[gap ") {
        return Some(None);
    }
    let (range, kind) = match text.strip_prefix("[mem ") {
        Some(rest) => {
            let (range, kind) = rest.split_once(']')?;
            (range_of(range, "0x")?, kind)
        }
        None if text.starts_with("0x") => {
            let (range, kind) = text.split_once(char::is_whitespace)?;
            (range_of(range, "0x")?, kind)
        }
        None => {
            let (range, kind) = text.split_once('(')?;
            let (start, end) = range.split_once(" - ")?;
            let range = Range { start: hexadecimal(start)?, end: hexadecimal(end)? };
            (range, kind.strip_suffix(')')?)
        }
    };
    let kind = kind.trim();
    let is_region = !kind.is_empty() && range.start < range.end;
    is_region.then_some(Some(Action::Add(Region { range, kind: kind_of(kind) })))
}

/// Reads `remove [mem A-B] KIND` and `update [mem A-B] KIND ==> KIND`. Other lines that begin with
/// `e820: ` describe no memory: `reserve RAM buffer` names addresses after the end of memory,
/// `last_pfn` a number.
fn change(text: &str) -> Result<Option<Action>, &'static str> {
    let expected = "e820: remove [mem 0xSTART-0xEND] KIND, or update ... KIND ==> KIND";
    let Some((verb, rest)) = text.split_once(" [mem ") else { return Ok(None) };
    if !matches!(verb, "remove" | "update") {
        return Ok(None);
    }
    let (range, kinds) = rest.split_once(']').ok_or(expected)?;
    let range = range_of(range, "0x").filter(|range| range.start < range.end).ok_or(expected)?;
    let kinds = kinds.trim();
    if verb == "remove" {
        let kind = (!kinds.is_empty()).then(|| kind_of(kinds));
        return Ok(Some(Action::Remove(range, kind)));
    }
    let (old, new) = kinds.split_once("==>").ok_or(expected)?;
    Ok(Some(Action::Update(range, kind_of(old), kind_of(new))))
}

/// Reads `START-END` with the end included, each after `prefix`.
fn range_of(text: &str, prefix: &str) -> Option<Range> {
    let (start, end) = text.split_once('-')?;
    let address = |text: &str| hexadecimal(text.trim().strip_prefix(prefix)?);
    Some(Range { start: address(start)?, end: address(end)?.checked_add(1)? })
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text.trim(), 16).ok()
}

/// Returns the kind of memory that a kernel's words name. A type that is not known is reserved.
fn kind_of(words: &str) -> RegionKind {
    let words = words.trim();
    match words {
        "usable" | "System RAM" => RegionKind::Usable,
        _ if words.starts_with("ACPI data") || words == "ACPI Tables" => RegionKind::Reclaimable,
        _ if words.starts_with("ACPI N") || words.to_lowercase().starts_with("persistent") => {
            RegionKind::Persistent
        }
        _ if words.starts_with("unusable") => RegionKind::Bad,
        _ => RegionKind::Reserved,
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
        let runs = read("m", text.as_bytes()).expect("it is well formed");
        runs.iter().map(|run| (run.start.get(), run.end.get())).collect()
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
    fn other_lines_are_skipped_and_broken_regions_are_refused() {
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
            (
                "BIOS-e820: [mem 0x0-0xfffff] usable\nBIOS-e820: [mem 0x1\n",
                "m:2: expected a region",
            ),
            ("0x0-0xfffff usable\ne820: update [mem 0x0-0xfff] usable\n", "m:2: expected e820: "),
        ] {
            let message = read("m", text.as_bytes()).expect_err("it is wrong").to_string();
            assert!(message.starts_with(expected), "{message}");
        }
    }
}
