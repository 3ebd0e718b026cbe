//! Reads `/proc/slabinfo` of versions 1.1 to 2.1, the kernel's or ours, with or without statistics.
//!
//! ```text
//! NAME active objects size active-slabs slabs pages : limit batch          version 1.1, Linux 2.4
//! NAME active objects size per-slab pages : tunables l b f : slabdata active slabs shared
//! ... the same, then `: globalstat` and `: cpustat` with their counts
//! ```
//!
//! A name may contain any characters, also blanks and colons, so a line is read backwards from its
//! numbers. An impossible number (a counter that wrapped around) is `None`. A line without the
//! numbers is skipped and reported.

use std::io::BufRead;

use crate::input_error::{InputError, Mismatch, quoted};
use crate::kernel_files::text_lines::{self, TextLine};
use crate::picture::text::printable;

/// Maximum number of caches in a file.
const MAX_CACHES: u64 = 65_536;
/// Numbers from here on are wrapped counters: 2^52 objects would fill the address space.
const IMPOSSIBLE: u64 = 1 << 52;
/// The first line of a file, and the versions that it may name.
const HEADING: &str = "slabinfo - version: ";
const VERSIONS: [&str; 3] = ["1.1", "2.0", "2.1"];

/// A line of the file. An impossible number is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The cache's name.
    pub name: String,
    /// Objects in use.
    pub active_objects: Option<u64>,
    /// Objects in all slabs.
    pub objects: Option<u64>,
    /// Size of an object in bytes.
    pub object_bytes: Option<u64>,
    /// Objects per slab.
    pub objects_per_slab: Option<u64>,
    /// Pages per slab.
    pub pages_per_slab: Option<u64>,
    /// Slabs with at least one object in use.
    pub active_slabs: Option<u64>,
    /// All slabs.
    pub slabs: Option<u64>,
}

impl Line {
    /// Returns how many of its numbers are impossible.
    pub fn bad_numbers(&self) -> usize {
        let Self { name: _, active_objects, objects, object_bytes, .. } = self;
        let Self { objects_per_slab, pages_per_slab, active_slabs, slabs, .. } = self;
        let all = [active_objects, objects, object_bytes, objects_per_slab, pages_per_slab];
        let all = all.into_iter().chain([active_slabs, slabs]);
        all.filter(|number| number.is_none()).count()
    }
}

/// The caches of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slabinfo {
    /// The lines that could be read.
    pub lines: Vec<Line>,
    /// One error for each line that could not be read.
    pub skipped: Vec<InputError>,
}

impl Slabinfo {
    /// Returns a sentence about the unusable parts of the file; `None` if there are none.
    pub fn complaint(&self) -> Option<String> {
        let bad: usize = self.lines.iter().map(Line::bad_numbers).sum();
        let numbers = match bad {
            0 => None,
            1 => Some("1 number cannot be right and is shown as ?".to_owned()),
            bad => Some(format!("{bad} numbers cannot be right and are shown as ?")),
        };
        let lines = match &self.skipped[..] {
            [] => None,
            [one] => Some(format!("1 line is left out: {one}")),
            [first, ..] => {
                Some(format!("{} lines are left out, first {first}", self.skipped.len()))
            }
        };
        let parts: Vec<String> = numbers.into_iter().chain(lines).collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

/// Reads the caches of a file. `file` is its name in error messages.
///
/// # Errors
/// A file without the heading of a known version, with lines of which none can be read, or with too
/// many lines.
pub fn read(file: &str, from: impl BufRead) -> Result<Slabinfo, InputError> {
    let lines = text_lines::read(file, from, MAX_CACHES)?;
    let heading = lines.first().map_or("", |line| line.text.trim());
    let version = heading.strip_prefix(HEADING).and_then(|rest| rest.split(' ').next());
    let Some(version) = version.filter(|version| VERSIONS.contains(version)) else {
        let expected = format!("`{HEADING}2.1`, 2.0 or 1.1");
        return Err(match heading {
            "" => Mismatch::new(expected, "an empty file").in_file(file),
            other => Mismatch::new(expected, quoted(other.as_bytes())).at_line(file, 1),
        });
    };
    let line = if version == "1.1" { old_line } else { line };
    let mut slabinfo = Slabinfo::default();
    for TextLine { number, text } in &lines[1..] {
        match line(text) {
            Some(line) => slabinfo.lines.push(line),
            None if text.trim().is_empty() => {}
            None if text.starts_with("# ") => {
                let large = large_pages(text).filter(|pages| *pages > 0);
                slabinfo.lines.extend(large.and_then(|pages| line(&large_line(pages))));
            }
            None => {
                let found = quoted(text.trim().as_bytes());
                let mismatch = Mismatch::new("a cache's name and numbers", found);
                slabinfo.skipped.push(mismatch.at_line(file, *number));
            }
        }
    }
    match (slabinfo.lines.is_empty(), slabinfo.skipped.first()) {
        (true, Some(error)) => Err(error.clone()),
        _ => Ok(slabinfo),
    }
}

/// The name of the line for memory that no cache has: allocations larger than any size class.
const LARGE: &str = "kmalloc-large";

/// Returns a line for `pages` pages of large allocations; nothing if there are none.
pub fn large_line(pages: usize) -> String {
    if pages == 0 {
        return String::new();
    }
    let page = page_frame::PAGE_SIZE;
    format!(
        "{LARGE:<17} {pages:>6} {pages:>6} {page:>6} {:>4} {:>4} : tunables    0    0    0 : slabdata {pages:>6} {pages:>6}      0\n",
        1, 1
    )
}

/// Reads the pages of large allocations from the comment that a program on `kmalloc-preload`
/// writes: `# pages: 512 held, 25 of them in large allocations; ...`.
fn large_pages(comment: &str) -> Option<usize> {
    let (_, rest) = comment.strip_prefix("# pages: ")?.split_once(" held, ")?;
    rest.split_once(" of them in large allocations")?.0.parse().ok()
}

/// Reads `NAME a n s o p : tunables l b f : slabdata A N S` and leaves out what follows.
fn line(text: &str) -> Option<Line> {
    let (front, rest) = text.rsplit_once(" : tunables ")?;
    let (_, slabdata) = rest.split_once(" : slabdata ")?;
    // `front` ends with five numbers; the name is everything before them.
    let (name, front) = name_and_numbers::<5>(front)?;
    let mut slabdata = slabdata.split_ascii_whitespace().map(number);
    let (active_slabs, slabs) = (slabdata.next()??, slabdata.next()??);
    let [active_objects, objects, object_bytes, objects_per_slab, pages_per_slab] = front;
    (!name.is_empty()).then_some(Line {
        name,
        active_objects,
        objects,
        object_bytes,
        objects_per_slab,
        pages_per_slab,
        active_slabs,
        slabs,
    })
}

/// Reads `NAME a n s A N p : limit batch`, whose end is missing without `CONFIG_SMP`. It does not
/// say the objects of a slab: those of all slabs, divided by their number.
fn old_line(text: &str) -> Option<Line> {
    let numbers = text.rsplit_once(" : ").map_or(text, |(numbers, _)| numbers);
    let (name, numbers) = name_and_numbers::<6>(numbers)?;
    let [active_objects, objects, object_bytes, active_slabs, slabs, pages_per_slab] = numbers;
    let objects_per_slab = match (objects, slabs) {
        (Some(objects), Some(slabs)) => Some(objects.checked_div(slabs).unwrap_or(0)),
        _ => None,
    };
    (!name.is_empty()).then_some(Line {
        name,
        active_objects,
        objects,
        object_bytes,
        objects_per_slab,
        pages_per_slab,
        active_slabs,
        slabs,
    })
}

/// Splits `N` numbers from the end of `text`; what stands before them is a name, which may contain
/// spaces.
fn name_and_numbers<const N: usize>(text: &str) -> Option<(String, [Option<u64>; N])> {
    let mut name = text.trim_end();
    let mut numbers = [None; N];
    for place in numbers.iter_mut().rev() {
        let (before, word) = name.rsplit_once(char::is_whitespace)?;
        *place = number(word)?;
        name = before.trim_end();
    }
    Some((printable(name.trim()), numbers))
}

/// Reads a number. The outer `None` is a word that is not a number, the inner `None` an impossible
/// number.
fn number(word: &str) -> Option<Option<u64>> {
    let digits = word.strip_prefix('-').unwrap_or(word);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(word.parse().ok().filter(|number| *number < IMPOSSIBLE))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "slabinfo - version: 2.1\n# name <active_objs> : tunables <limit>\n";
    const REST: &str = " 10 42 184 21 1 : tunables 0 0 0 : slabdata 1 2 0";

    fn names(text: &str) -> Vec<String> {
        let read = read("s", text.as_bytes()).expect("it is well formed");
        read.lines.into_iter().map(|line| line.name).collect()
    }

    #[test]
    fn a_line_is_read_field_by_field() {
        let read = read("s", format!("{HEAD}filp{REST}\r\n").as_bytes()).expect("well formed");
        let expected = Line {
            name: "filp".into(),
            active_objects: Some(10),
            objects: Some(42),
            object_bytes: Some(184),
            objects_per_slab: Some(21),
            pages_per_slab: Some(1),
            active_slabs: Some(1),
            slabs: Some(2),
        };
        assert_eq!((read.lines, read.skipped), (vec![expected], vec![]));
    }

    #[test]
    fn large_allocations_are_a_line_of_their_own() {
        let comment = "# pages: 512 held, 25 of them in large allocations; 3 free ones";
        let text = format!("{HEAD}filp{REST}\n{comment}\n");
        let read = read("s", text.as_bytes()).expect("well formed");
        let large = &read.lines[1];
        assert_eq!((large.name.as_str(), large.active_objects), (LARGE, Some(25)));
        assert_eq!((large.object_bytes, large.slabs), (Some(4096), Some(25)));
        assert_eq!(large_line(0), "");
    }

    #[test]
    fn names_may_hold_anything() {
        let names_in =
            ["QIB user (0)", ":A-0000192", "#odd", "dm-crypt #3", "a : tunables 1", "1 2 3"];
        let text: String = names_in.iter().map(|name| format!("{name}{REST}\n")).collect();
        assert_eq!(names(&format!("{HEAD}{text}")), names_in);
        let statistics = " : globalstat 200 126 6 0 0 0 0 0 0 : cpustat 100 6 10 0";
        assert_eq!(
            names(&format!("{HEADING}2.1 (statistics)\ndentry{REST}{statistics}\n")),
            ["dentry"]
        );
        let mut bytes = HEAD.as_bytes().to_vec();
        bytes.extend(b"caf\xe9");
        bytes.extend(REST.as_bytes());
        assert_eq!(read("s", &bytes[..]).expect("well formed").lines[0].name, "caf\u{fffd}");
    }

    #[test]
    fn wrapped_counters_and_broken_lines_do_not_refuse_a_file() {
        let wrapped = "nf 18446744073709551615 126 -320 21 2 : tunables 0 0 0 : slabdata 6 6 0";
        let text = format!("{HEAD}{wrapped}\nbroken 1 2\nfilp{REST}\n");
        let read = read("s", text.as_bytes()).expect("a line is right");
        assert_eq!((read.lines[0].active_objects, read.lines[0].object_bytes), (None, None));
        assert_eq!((read.lines[0].objects, read.lines[1].name.as_str()), (Some(126), "filp"));
        let complaint = read.complaint().expect("something is wrong");
        assert_eq!(
            complaint,
            "2 numbers cannot be right and are shown as ?; 1 line is left out: \
             s:4: expected a cache's name and numbers, found `broken 1 2`"
        );
    }

    #[test]
    fn a_file_of_another_kind_is_refused_with_its_line() {
        for (text, expected) in [
            (
                String::new(),
                "s: expected `slabinfo - version: 2.1`, 2.0 or 1.1, found an empty file",
            ),
            ("rubbish\n".to_owned(), "s:1: expected `slabinfo - version: 2.1`"),
            (format!("{HEAD}filp 1 2\n"), "s:3: expected a cache's name and numbers"),
            (HEAD.to_owned() + &"x".repeat(5000), "s:3: expected a line of at most 4096 bytes"),
        ] {
            let message = read("s", text.as_bytes()).expect_err("it is wrong").to_string();
            assert!(message.starts_with(expected), "{message}");
        }
    }
}
