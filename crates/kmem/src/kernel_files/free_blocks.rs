//! Reads the free blocks of zones from the texts that kernels print:
//!
//! ```text
//! Node 0, zone   Normal   4381 1093 185 ...                   /proc/buddyinfo, kmem --buddyinfo
//! Node 0, zone   Normal, type Unmovable  2 0 1 ...            /proc/pagetypeinfo, first table
//! Node 0 DMA32: 759*4kB (UME) 572*8kB (UME) ... = 56740kB     report of an out-of-memory kill
//! DMA: 4*4kB 4*8kB ... = 576kB                                such a report that names no node
//! ```
//!
//! Other lines are skipped, for example dates, headings, and the rest of a report. A log may put a
//! time in front of each line. A line that begins like one of these but continues differently is an
//! error.

use std::io::BufRead;

use page_frame::{Order, PAGE_SIZE};

use crate::input_error::{InputError, Mismatch, quoted};
use crate::kernel_files::text_lines::{self, TextLine};
use crate::kernel_files::watermarks::{self, Watermarks};

/// Maximum number of zones in a file.
const MAX_ZONES: usize = 4096;
/// Maximum number of lines in a file: a whole kernel log.
const MAX_LINES: u64 = 1 << 20;
/// Maximum number of free blocks of one order: more than any machine has.
const MAX_BLOCKS: usize = 1 << 40;

/// The free blocks of a zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// `Node 0, zone Normal`.
    pub name: String,
    /// Number of free blocks by order, from order 0.
    pub free_counts: Vec<usize>,
    /// The zone's watermarks, where the text has them.
    pub watermarks: Option<Watermarks>,
}

/// A line about a zone.
#[derive(Debug, PartialEq, Eq)]
struct ZoneLine {
    zone: Zone,
    /// Whether the line counts the blocks of one mobility only. The counts of a zone are then the
    /// sums of its consecutive lines.
    is_part: bool,
}

/// Reads the zones of a file. `file` is its name in error messages.
///
/// # Errors
/// The first line about a zone that cannot be read, or a file without any.
pub fn read(file: &str, from: impl BufRead) -> Result<Vec<Zone>, InputError> {
    let mut zones: Vec<Zone> = Vec::new();
    // Whether the last zone line was a part, to which the next part of the same zone adds.
    let mut is_adding = false;
    let mut marks: Vec<(String, Watermarks)> = Vec::new();
    let mut first_skipped = None;
    for TextLine { number, text } in text_lines::read(file, from, MAX_LINES)? {
        let line = read_line(&text).map_err(|mismatch| mismatch.at_line(file, number))?;
        marks.extend(watermarks::of_report(&text));
        let Some(ZoneLine { mut zone, is_part }) = line else {
            if !text.trim().is_empty() {
                first_skipped.get_or_insert((number, text));
            }
            continue;
        };
        match zones.last_mut().filter(|last| is_adding && is_part && last.name == zone.name) {
            Some(last) => add(&mut last.free_counts, &zone.free_counts),
            None => {
                // A report prints the watermarks of a zone before its free blocks.
                let of_zone = marks.iter().rev().find(|(name, _)| *name == zone.name);
                zone.watermarks = of_zone.map(|(_, marks)| *marks);
                zones.push(zone);
            }
        }
        is_adding = is_part;
        if zones.len() > MAX_ZONES {
            let mismatch = Mismatch::new(format!("at most {MAX_ZONES} zones"), "one more");
            return Err(mismatch.at_line(file, number));
        }
    }
    match (zones.is_empty(), first_skipped) {
        (false, _) => Ok(zones),
        (true, None) => {
            Err(Mismatch::new("lines of /proc/buddyinfo", "an empty file").in_file(file))
        }
        (true, Some((number, text))) => {
            let found = quoted(text.trim().as_bytes());
            let expected = "`Node N, zone NAME` and free blocks by order";
            Err(Mismatch::new(expected, found).at_line(file, number))
        }
    }
}

/// Adds `counts` to `sums`, order by order.
fn add(sums: &mut Vec<usize>, counts: &[usize]) {
    sums.resize(sums.len().max(counts.len()), 0);
    sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum = sum.saturating_add(*count));
}

/// Reads a line. Returns `None` for a line that is not about the free blocks of a zone.
fn read_line(line: &str) -> Result<Option<ZoneLine>, Mismatch> {
    let Some(at) = line.match_indices("Node ").find(|(at, _)| is_word_start(line, *at)) else {
        return without_node(line);
    };
    let rest = line[at.0 + "Node ".len()..].trim_start();
    let digits = rest.len() - rest.trim_start_matches(|char: char| char.is_ascii_digit()).len();
    let (Ok(node), rest) = (rest[..digits].parse::<u32>(), &rest[digits..]) else {
        return Ok(None);
    };
    if let Some(rest) = rest.strip_prefix(", zone ") {
        return in_columns(line, node, rest).map(Some);
    }
    match rest.split_once(": ") {
        Some((name, blocks)) if name.starts_with(' ') && begins_with_blocks(blocks) => {
            in_a_report(line, node, name.trim(), blocks).map(Some)
        }
        _ => Ok(None),
    }
}

/// Reads a line of a report that names no node: `ZONE: COUNT*SIZEkB ...`.
fn without_node(line: &str) -> Result<Option<ZoneLine>, Mismatch> {
    let found = line.match_indices(": ").find(|(at, _)| begins_with_blocks(&line[at + 2..]));
    let Some((at, _)) = found else { return Ok(None) };
    let name = line[..at].rsplit(' ').next().unwrap_or("");
    match ["DMA", "DMA32", "Normal", "HighMem", "Movable"].contains(&name) {
        true => in_a_report(line, 0, name, &line[at + 2..]).map(Some),
        false => Ok(None),
    }
}

/// Returns whether text begins with `COUNT*SIZEkB`.
fn begins_with_blocks(text: &str) -> bool {
    let word = text.split_ascii_whitespace().next().unwrap_or("");
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let parts =
        word.split_once('*').and_then(|(count, size)| Some((count, size.strip_suffix("kB")?)));
    parts.is_some_and(|(count, size)| is_number(count) && is_number(size))
}

/// Returns whether no letter or digit stands in front of byte `at`.
fn is_word_start(line: &str, at: usize) -> bool {
    line[..at].chars().next_back().is_none_or(|before| !before.is_alphanumeric())
}

/// Reads `NAME COUNT...` or `NAME, type TYPE COUNT...`, which is the `rest` of `line`.
fn in_columns(line: &str, node: u32, rest: &str) -> Result<ZoneLine, Mismatch> {
    let wrong = || {
        let expected = "`Node N, zone NAME` and free blocks by order";
        Mismatch::new(expected, quoted(line.trim().as_bytes()))
    };
    let mut words = rest.split_ascii_whitespace();
    let name = words.next().ok_or_else(wrong)?;
    let (name, is_part) = match name.strip_suffix(',') {
        Some(name) => {
            let is_typed = words.next() == Some("type") && words.next().is_some();
            is_typed.then_some((name, true)).ok_or_else(wrong)?
        }
        None => (name, false),
    };
    let free_counts = words.map(count).collect::<Result<Vec<_>, _>>()?;
    zone(node, name, free_counts).map(|zone| ZoneLine { zone, is_part })
}

/// Reads `COUNT*SIZEkB (TYPES) ... = TOTALkB`, which are the `blocks` of `line`.
fn in_a_report(line: &str, node: u32, name: &str, blocks: &str) -> Result<ZoneLine, Mismatch> {
    let blocks = blocks.split_once(" = ").map_or(blocks, |(blocks, _)| blocks);
    let mut free_counts = Vec::new();
    for word in blocks.split_ascii_whitespace().filter(|word| !word.starts_with('(')) {
        let wrong = || Mismatch::new("COUNT*SIZEkB", quoted(line.trim().as_bytes()));
        let (blocks, size) = word.split_once('*').ok_or_else(wrong)?;
        let size: usize =
            size.strip_suffix("kB").and_then(|size| size.parse().ok()).ok_or_else(wrong)?;
        if free_counts.is_empty() && size > PAGE_SIZE / 1024 && size.is_power_of_two() {
            let found = format!("a kernel with pages of {size} KiB");
            return Err(Mismatch::new("blocks of pages of 4 KiB", found));
        }
        if size.checked_mul(1024) != Some(PAGE_SIZE << free_counts.len().min(32)) {
            return Err(wrong());
        }
        free_counts.push(count(blocks)?);
    }
    zone(node, name, free_counts).map(|zone| ZoneLine { zone, is_part: false })
}

/// Reads a number of blocks.
fn count(word: &str) -> Result<usize, Mismatch> {
    // The kernel limits large counts and marks them with `>`.
    match word.trim_start_matches('>').parse::<usize>() {
        Ok(count) if count <= MAX_BLOCKS => Ok(count),
        _ => Err(Mismatch::new("a number of free blocks", quoted(word.as_bytes()))),
    }
}

/// Makes a zone, whose blocks must be of 1 to 30 orders.
fn zone(node: u32, name: &str, free_counts: Vec<usize>) -> Result<Zone, Mismatch> {
    if free_counts.is_empty() || free_counts.len() > Order::COUNT {
        let found = format!("{} of them", free_counts.len());
        return Err(Mismatch::new("free blocks of 1 to 30 orders", found));
    }
    let name = format!("Node {node}, zone {}", name.escape_debug());
    Ok(Zone { name, free_counts, watermarks: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zones(text: &str) -> Vec<(String, Vec<usize>)> {
        let zones = read("b", text.as_bytes()).expect("it is well formed");
        zones.into_iter().map(|zone| (zone.name, zone.free_counts)).collect()
    }

    #[test]
    fn columns_are_orders_and_other_lines_are_skipped() {
        let text = "Mon Jan  1 00:00:00 UTC 2026\r\nNode 0, zone   Normal      3      0      1\r\n";
        assert_eq!(zones(text), [("Node 0, zone Normal".to_owned(), vec![3, 0, 1])]);
    }

    #[test]
    fn reports_of_the_out_of_memory_killer_are_read() {
        let text = "[  1.2] Node 0 DMA free:15360kB min:40kB low:48kB high:56kB\n\
                    [  1.2] Node 0 DMA: 0*4kB 2*8kB (UM) 1*16kB (M) = 32kB\n\
                    [  1.2] Node 0 hugepages_total=0 hugepages_free=0 hugepages_size=2048kB\n";
        assert_eq!(zones(text), [("Node 0, zone DMA".to_owned(), vec![0, 2, 1])]);
        let read = read("b", text.as_bytes()).expect("it is well formed");
        assert_eq!(read[0].watermarks, Some(Watermarks { min: 10, low: 12, high: 14 }));
    }

    #[test]
    fn mobilities_of_a_zone_add_up() {
        let text = "Page block order: 9\nFree pages count per migrate type at order 0 1\n\
                    Node    0, zone      DMA, type    Unmovable      1      0\n\
                    Node 0, zone   Normal, type    Unmovable      1      0\n\
                    Node 0, zone   Normal, type      Movable      >2      7\n\
                    Number of blocks type     Unmovable      Movable\n";
        let expected = ("Node 0, zone Normal".to_owned(), vec![3, 7]);
        assert!(zones(text).contains(&expected), "{:?}", zones(text));
    }

    #[test]
    fn two_readings_of_one_zone_stay_two() {
        assert_eq!(zones("Node 0, zone A 1\nNode 0, zone A 2\n").len(), 2);
    }

    #[test]
    fn a_file_without_zones_and_a_broken_line_are_errors() {
        for (text, expected) in [
            ("", "b: expected lines of /proc/buddyinfo, found an empty file"),
            ("hello\n", "b:1: expected `Node N, zone NAME`"),
            ("Node 0, zone\n", "b:1: expected `Node N, zone NAME`"),
            ("Node 0, zone A x\n", "b:1: expected a number of free blocks, found `x`"),
            ("Node 0, zone A\n", "b:1: expected free blocks of 1 to 30 orders, found 0 of them"),
            ("Node 0 A: 1*4kB 1*16kB = 20kB\n", "b:1: expected COUNT*SIZEkB"),
        ] {
            let message =
                read("b", text.as_bytes()).map_or_else(|e| e.to_string(), |z| format!("{z:?}"));
            assert!(message.starts_with(expected), "{message}");
        }
    }
}
