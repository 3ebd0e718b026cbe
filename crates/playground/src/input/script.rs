//! The lines of a buddy script: the memory that it asks for, then its steps.
//!
//! ```text
//! memory 16K unit 1K         optional, the first line; `slot` at its end turns the CPU's slot on
//! # a comment
//! alloc A 3.6K; alloc B 2    a step: requests that are separated by semicolons
//! ```

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::input::complaint::{Complaint, quoted};
use crate::input::limits::{MAX_REQUESTS, MAX_UNITS};
use crate::input::size::{self, Plain};

/// The memory of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Number of units.
    pub(crate) units: usize,
    /// Bytes of a unit, the smallest block.
    pub(crate) unit: u64,
    /// Whether the CPU has a slot.
    pub(crate) has_slot: bool,
}

impl Default for Memory {
    /// The memory of the textbook's example.
    fn default() -> Self {
        Self { units: 16, unit: 1024, has_slot: false }
    }
}

impl Memory {
    /// Reads the words after `memory`.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub(crate) fn parse(words: &[&str]) -> Result<Self, String> {
        let (words, has_slot) = match words {
            [words @ .., slot] if slot.eq_ignore_ascii_case("slot") => (words, true),
            _ => (words, false),
        };
        let (size, unit) = match words {
            [size] => (*size, "1K"),
            [size, word, unit] if word.eq_ignore_ascii_case("unit") => (*size, *unit),
            _ => return Err("`memory` needs a size and a unit: memory 16K unit 1K.".into()),
        };
        let unit = size::bytes(unit, Plain::Bytes, 1)?;
        if !unit.is_power_of_two() {
            return Err(format!("A unit of {unit} bytes is no power of two."));
        }
        let bytes = size::bytes(size, Plain::Units, unit)?;
        if bytes == 0 || bytes % unit != 0 {
            return Err(format!("Memory must be one or more units of {}.", size::short(unit)));
        }
        match usize::try_from(bytes / unit) {
            Ok(units @ 1..=MAX_UNITS) => Ok(Self { units, unit, has_slot }),
            _ => Err(format!(
                "{} is too much: the page draws at most {MAX_UNITS} units.",
                quoted(size)
            )),
        }
    }

    /// Returns the size of `units` units as an exact text.
    pub(crate) fn size_of(&self, units: usize) -> String {
        size::exact(units as u64 * self.unit)
    }

    /// Returns the size of the memory as a text.
    pub(crate) fn size(&self) -> String {
        self.size_of(self.units)
    }
}

/// A line that is neither empty nor a comment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line<'t> {
    /// Its number, counted from 1.
    pub(crate) number: usize,
    /// Its text without a comment.
    pub(crate) text: &'t str,
}

/// Returns the lines of `text` that say something.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    text.lines().enumerate().filter_map(|(index, line)| {
        let text = line.split('#').next().unwrap_or("").trim();
        (!text.is_empty()).then_some(Line { number: index + 1, text })
    })
}

/// Checks that `lines` have no more requests than are allowed.
///
/// # Errors
/// A complaint about the line with the first request that is one too many.
pub(crate) fn check_requests(lines: &[Line<'_>]) -> Result<(), Complaint> {
    let mut requests = 0;
    for line in lines {
        requests += line.text.split(';').count();
        if requests > MAX_REQUESTS {
            let message = format!("At most {MAX_REQUESTS} requests are replayed.");
            return Err(Complaint::new(line.number, message));
        }
    }
    Ok(())
}

/// Takes the line of the memory off `lines`, if it is there.
///
/// # Errors
/// A complaint when the line is not understood, or comes later.
pub(crate) fn take_memory(lines: &mut Vec<Line<'_>>) -> Result<Memory, Complaint> {
    let is_memory = |line: &Line<'_>| {
        line.text.split_whitespace().next().is_some_and(|word| word.eq_ignore_ascii_case("memory"))
    };
    let memory = match lines.first() {
        Some(first) if is_memory(first) => {
            let words: Vec<&str> = first.text.split_whitespace().skip(1).collect();
            let memory =
                Memory::parse(&words).map_err(|message| Complaint::new(first.number, message))?;
            lines.remove(0);
            memory
        }
        _ => Memory::default(),
    };
    match lines.iter().find(|line| is_memory(line)) {
        Some(line) => Err(Complaint::new(line.number, "The line `memory` must be the first one.")),
        None => Ok(memory),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(text: &str) -> Result<Memory, String> {
        Memory::parse(&text.split_whitespace().collect::<Vec<_>>())
    }

    #[test]
    fn memory_is_whole_units_of_a_power_of_two() {
        let of = |units, unit, has_slot| Ok(Memory { units, unit, has_slot });
        assert_eq!(memory("16K"), of(16, 1024, false));
        assert_eq!(memory("16"), of(16, 1024, false));
        assert_eq!(memory("4M unit 4K slot"), of(1024, 4096, true));
        assert_eq!(memory("12 unit 1"), of(12, 1, false));
        for wrong in
            ["", "16K 1K", "0", "1.5K", "16K unit 3K", "5M", "16K unit 0", "99999999999G", "slot"]
        {
            assert!(memory(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn comments_and_empty_lines_keep_the_numbers_of_the_others() {
        let text = "# x\n\nmemory 8\n free A # why\n";
        let mut found: Vec<_> = lines(text).collect();
        assert_eq!(take_memory(&mut found).map(|memory| memory.units), Ok(8));
        assert_eq!(found, [Line { number: 4, text: "free A" }]);
        let mut late: Vec<_> = lines("free A\nmemory 8").collect();
        assert_eq!(take_memory(&mut late).map_err(|complaint| complaint.line), Err(2));
    }
}
