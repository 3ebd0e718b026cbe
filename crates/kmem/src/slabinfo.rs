//! Reads `/proc/slabinfo` version 2.1, the kernel's or ours.

use std::io::{BufRead, Read};

use crate::input_error::{InputError, Mismatch, quoted};

/// Longest line that is read, in bytes.
const MAX_LINE_BYTES: u64 = 4096;
/// Maximum number of caches in a file.
const MAX_CACHES: usize = 65_536;

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The cache's name.
    pub name: String,
    /// Objects in use.
    pub active_objects: u64,
    /// Objects in all slabs.
    pub objects: u64,
    /// Size of an object in bytes.
    pub object_bytes: u64,
    /// Objects per slab.
    pub objects_per_slab: u64,
    /// Pages per slab.
    pub pages_per_slab: u64,
    /// Slabs with at least one object in use.
    pub active_slabs: u64,
    /// All slabs.
    pub slabs: u64,
}

/// Reads the caches of a file. `file` is its name in error messages.
///
/// # Errors
/// The first line that does not match the kernel's format.
pub fn read(file: &str, mut from: impl BufRead) -> Result<Vec<Line>, InputError> {
    let mut lines = Vec::new();
    let mut text = Vec::new();
    for number in 1.. {
        text.clear();
        let read = from.by_ref().take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut text);
        read.map_err(|error| Mismatch::new("readable input", error.to_string()).in_file(file))?;
        if text.is_empty() && number == 1 {
            let mismatch = Mismatch::new("`slabinfo - version: 2.1`", "an empty file");
            return Err(mismatch.in_file(file));
        }
        if text.is_empty() {
            break;
        }
        let parsed = match (number, text.trim_ascii()) {
            (_, long) if long.len() as u64 > MAX_LINE_BYTES => {
                Err(Mismatch::new("a line of at most 4096 bytes", "a longer one"))
            }
            (1, b"slabinfo - version: 2.1") => continue,
            (1, other) => Err(Mismatch::new("`slabinfo - version: 2.1`", quoted(other))),
            (_, comment) if comment.starts_with(b"#") => continue,
            (_, text) => line(text),
        };
        lines.push(parsed.map_err(|mismatch| mismatch.at_line(file, number))?);
        if lines.len() > MAX_CACHES {
            let mismatch = Mismatch::new(format!("at most {MAX_CACHES} caches"), "one more");
            return Err(mismatch.at_line(file, number));
        }
    }
    Ok(lines)
}

/// Reads `NAME a n s o p : tunables l b f : slabdata A N S`.
fn line(text: &[u8]) -> Result<Line, Mismatch> {
    let wrong = || Mismatch::new("a cache's name and numbers", quoted(text));
    let text = std::str::from_utf8(text).map_err(|_| wrong())?;
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let number = |index: usize| words.get(index)?.parse::<u64>().ok().filter(|n| *n < 1 << 52);
    let is_shaped = words.get(6) == Some(&":") && words.get(11..13) == Some(&[":", "slabdata"]);
    let parse = || {
        Some(Line {
            name: words.first()?.escape_debug().to_string(),
            active_objects: number(1)?,
            objects: number(2)?,
            object_bytes: number(3)?,
            objects_per_slab: number(4)?,
            pages_per_slab: number(5)?,
            active_slabs: number(13)?,
            slabs: number(14)?,
        })
    };
    parse().filter(|_| is_shaped).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "slabinfo - version: 2.1\n# name <active_objs>\n";

    #[test]
    fn a_line_is_read_field_by_field() {
        let text = format!("{HEAD}filp 10 42 184 21 1 : tunables 0 0 0 : slabdata 1 2 0\n");
        let lines = read("s", text.as_bytes()).expect("it is well formed");
        let expected = Line {
            name: "filp".into(),
            active_objects: 10,
            objects: 42,
            object_bytes: 184,
            objects_per_slab: 21,
            pages_per_slab: 1,
            active_slabs: 1,
            slabs: 2,
        };
        assert_eq!(lines, [expected]);
    }

    #[test]
    fn what_is_no_slabinfo_is_refused_with_its_line() {
        for (text, expected) in [
            (String::new(), "s: expected `slabinfo - version: 2.1`, found an empty file"),
            ("rubbish\n".to_owned(), "s:1: expected `slabinfo - version: 2.1`"),
            (format!("{HEAD}filp 1 2\n"), "s:3: expected a cache's name and numbers"),
            (format!("{HEAD}filp -1 42 184 21 1 : tunables 0 0 0 : slabdata 1 2 0\n"), "s:3: "),
            (HEAD.to_owned() + &"x".repeat(5000), "s:3: expected a line of at most 4096 bytes"),
        ] {
            let message = read("s", text.as_bytes()).expect_err("it is wrong").to_string();
            assert!(message.starts_with(expected), "{message}");
        }
    }
}
