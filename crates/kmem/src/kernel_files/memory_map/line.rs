//! One line of a boot memory map, in each of its dialects.

use page_frame::RegionKind;

/// Words before a region of the map that the firmware gave, and the first map of a log.
const FIRMWARE: [&str; 5] = ["BIOS-e820:", "BIOS-e801:", "BIOS-88:", "BIOS-CMDLINE:", "Xen:"];
/// Words before a region of a map that takes the place of the one before: cut by `mem=`, changed,
/// or extended by the kernel.
pub(super) const REPLACING: [&str; 4] = ["user:", "modified:", "extended:", "reserve setup_data:"];
/// The form of most regions, for messages.
pub(super) const REGION: &str = "a region: [mem 0xSTART-0xEND] KIND";

/// The effect of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Adds a region.
    Add(Region),
    /// Removes memory of a kind from a range, or of any kind.
    Remove(Range, Option<RegionKind>),
    /// Changes memory of one kind in a range to another kind.
    Update(Range, RegionKind, RegionKind),
}

/// Addresses from `start` to `end`, which is excluded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) end: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) range: Range,
    pub(super) kind: RegionKind,
}

/// Reads a line. `Ok(None)` is a line about something else; the error names what was expected.
pub(super) fn action(line: &str) -> Result<Option<Action>, &'static str> {
    let mut marks = FIRMWARE.iter().chain(&REPLACING);
    if let Some((_, rest)) = marks.find_map(|mark| line.split_once(mark)) {
        return region(rest.trim()).ok_or(REGION);
    }
    if let Some((_, rest)) = line.split_once("e820 remove range: ") {
        return old_change(rest).ok_or("START - END (KIND)");
    }
    if let Some((_, rest)) = line.split_once("e820 update range: ") {
        return old_change(rest).ok_or("START - END (KIND) ==> (KIND)");
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
        return region(text).ok_or(REGION);
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
            (old_range(range)?, kind.strip_suffix(')')?)
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

/// Reads `A - B (KIND)` as a removal, and `A - B (KIND) ==> (KIND)` as a change.
fn old_change(text: &str) -> Option<Option<Action>> {
    let (range, kinds) = text.split_once('(')?;
    let range = old_range(range).filter(|range| range.start < range.end)?;
    let Some((old, new)) = kinds.split_once("==>") else {
        let kind = kinds.trim().strip_suffix(')')?;
        return Some(Some(Action::Remove(range, Some(kind_of(kind)))));
    };
    let new = new.trim().strip_prefix('(')?.strip_suffix(')')?;
    let old = old.trim().strip_suffix(')')?;
    Some(Some(Action::Update(range, kind_of(old), kind_of(new))))
}

/// Reads `START - END` with the end excluded, or `SIZE @ START`.
fn old_range(text: &str) -> Option<Range> {
    if let Some((bytes, start)) = text.split_once(" @ ") {
        let start = hexadecimal(start)?;
        return Some(Range { start, end: start.checked_add(hexadecimal(bytes)?)? });
    }
    let (start, end) = text.split_once(" - ")?;
    Some(Range { start: hexadecimal(start)?, end: hexadecimal(end)? })
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
