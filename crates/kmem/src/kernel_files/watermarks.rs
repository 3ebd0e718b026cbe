//! Watermarks of zones, from `/proc/zoneinfo` and from reports of out-of-memory kills:
//!
//! ```text
//! Node 0, zone   Normal                                   /proc/zoneinfo
//!   pages free     123456
//!         min      11234
//!         low      14042
//!         high     16850
//! Node 0 Normal free:4288kB boost:0kB min:4300kB low:5372kB high:6444kB ...
//! ```

use std::io::BufRead;

use page_frame::PAGE_SIZE;

use crate::input_error::{InputError, Mismatch};
use crate::kernel_files::text_lines::{self, TextLine};
use crate::picture::text::size;

/// Maximum number of lines of a file. 4,096 zones have as many lines.
const MAX_LINES: u64 = 1 << 20;

/// Watermarks of a zone in pages: at how much free memory the kernel begins to reclaim.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// Ordinary requests fail below.
    pub min: u64,
    /// `kswapd` begins to reclaim below.
    pub low: u64,
    /// `kswapd` stops above.
    pub high: u64,
}

impl Watermarks {
    /// Says in words where `free_pages` stand.
    pub fn describe(&self, free_pages: u64) -> String {
        let bytes = |pages: u64| size(pages * PAGE_SIZE as u64);
        let free = bytes(free_pages);
        let state = match free_pages {
            free if free < self.min => {
                "below min:\n  only requests that may use the reserves are served"
            }
            free if free < self.low => "below low: kswapd reclaims",
            free if free < self.high => "below high:\n  kswapd goes on reclaiming if it has begun",
            _ => "above all of them",
        };
        format!(
            "Watermarks: min {}, low {}, high {};\n  {free} free is {state}.",
            bytes(self.min),
            bytes(self.low),
            bytes(self.high)
        )
    }
}

/// Reads the watermarks of the zones of `/proc/zoneinfo`, each with the zone's name
/// (`Node 0, zone Normal`). `file` is its name in error messages.
///
/// # Errors
/// Input that cannot be read, or a file without watermarks.
pub fn read(file: &str, from: impl BufRead) -> Result<Vec<(String, Watermarks)>, InputError> {
    let mut zones: Vec<(String, Watermarks)> = Vec::new();
    let mut marks = Watermarks::default();
    let mut zone = None;
    for TextLine { text, .. } in text_lines::read(file, from, MAX_LINES)? {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        match words[..] {
            ["Node", node, "zone", name] => {
                zone = Some(format!("Node {} zone {name}", node));
                marks = Watermarks::default();
            }
            ["min", pages] => marks.min = pages.parse().unwrap_or(0),
            ["low", pages] => marks.low = pages.parse().unwrap_or(0),
            // Pages of a CPU have a mark of the same name, which comes later.
            ["high", pages] => {
                if let Some(name) = zone.take() {
                    marks.high = pages.parse().unwrap_or(0);
                    zones.push((name, marks));
                }
            }
            _ => {}
        }
    }
    match zones.is_empty() {
        true => Err(Mismatch::new("watermarks of zones (/proc/zoneinfo)", "none").in_file(file)),
        false => Ok(zones),
    }
}

/// Reads `Node 0 Normal free:4288kB boost:0kB min:4300kB low:5372kB high:6444kB`; `None` for other
/// lines.
pub(crate) fn of_report(line: &str) -> Option<(String, Watermarks)> {
    let (_, rest) = line.split_once("Node ")?;
    let mut words = rest.split_ascii_whitespace();
    let (node, name) = (words.next()?.parse::<u32>().ok()?, words.next()?);
    let mut of = |key: &str| -> Option<u64> {
        let value = words.find_map(|word| word.strip_prefix(key))?;
        let kib: u64 = value.strip_suffix("kB")?.parse().ok()?;
        Some(kib * 1024 / PAGE_SIZE as u64)
    };
    of("free:")?;
    let marks = Watermarks { min: of("min:")?, low: of("low:")?, high: of("high:")? };
    Some((format!("Node {node}, zone {}", name.escape_debug()), marks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let text = "Node 0, zone      DMA\n  per-node stats\n  pages free     3840\n        boost    0\n        min      67\n        low      83\n        high     99\n  pagesets\n    cpu: 0\n              count: 0\n              high:  0\nNode 0, zone   Normal\n  pages free 1\n        min 1\n        low 2\n        high 3\n";
        let zones = read("z", text.as_bytes()).expect("it is well formed");
        assert_eq!(
            zones[0],
            ("Node 0, zone DMA".into(), Watermarks { min: 67, low: 83, high: 99 })
        );
        assert_eq!(zones[1].1, Watermarks { min: 1, low: 2, high: 3 });
        let line =
            "[ 7.1] Node 0 Normal free:4288kB boost:0kB min:4300kB low:5372kB high:6444kB x:1kB";
        let (name, marks) = of_report(line).expect("it is one");
        assert_eq!((&*name, marks.min, marks.high), ("Node 0, zone Normal", 1075, 1611));
        assert_eq!(of_report("Node 0 active_anon:120kB"), None);
        assert!(read("z", &b"hello\n"[..]).is_err());
    }

    #[test]
    fn the_state_is_said_in_words() {
        let marks = Watermarks { min: 10, low: 20, high: 30 };
        for (free, state) in
            [(9, "below min"), (10, "below low"), (20, "below high"), (30, "above")]
        {
            assert!(marks.describe(free).contains(state), "{free}");
        }
    }
}
