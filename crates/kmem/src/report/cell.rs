//! Cells of tables, and their units. A column has one unit. Terminals and pages show it in the
//! heading, in the size that suits the column; CSV has base units.

use crate::picture::text::thousands;

/// The unit of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Text, on the left.
    Text,
    /// A number of things.
    Count,
    /// Bytes.
    Bytes,
    /// Nanoseconds.
    Nanoseconds,
    /// Seconds.
    Seconds,
    /// A share in percent.
    Percent,
    /// A number without a unit, with two decimals.
    Ratio,
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// What it shows.
    pub name: &'static str,
    /// The unit of its cells.
    pub unit: Unit,
}

/// A cell of a table.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Nothing.
    Empty,
    /// Text.
    Text(String),
    /// A number in the base unit of its column.
    Number(f64),
    /// A time that is not above the cost of reading the clock, which follows.
    BelowClock(f64, f64),
}

/// The size in which a column is shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    /// The unit in the heading; empty for numbers of things.
    pub(super) unit: &'static str,
    /// Base units in one of it.
    factor: f64,
    decimals: usize,
}

impl Unit {
    /// Returns the base unit, as the headings of CSV name it; empty for numbers of things.
    pub(super) const fn base(self) -> &'static str {
        match self {
            Self::Text | Self::Count | Self::Ratio => "",
            Self::Bytes => "bytes",
            Self::Nanoseconds => "ns",
            Self::Seconds => "s",
            Self::Percent => "%",
        }
    }

    /// Returns the size in which a column of this unit is shown whose largest number is `largest`.
    pub(super) fn scale(self, largest: f64) -> Scale {
        let scale = |unit, factor, decimals| Scale { unit, factor, decimals };
        match self {
            Self::Text | Self::Count => scale("", 1.0, 0),
            Self::Ratio => scale("", 1.0, 2),
            Self::Nanoseconds => scale("ns", 1.0, 0),
            Self::Seconds => scale("s", 1.0, 2),
            Self::Percent => scale("%", 1.0, 1),
            Self::Bytes => match largest {
                ..16_384.0 => scale("B", 1.0, 0),
                ..16_777_216.0 => scale("KiB", 1024.0, 1),
                ..17_179_869_184.0 => scale("MiB", 1_048_576.0, 2),
                _ => scale("GiB", 1_073_741_824.0, 2),
            },
        }
    }
}

impl Cell {
    /// Returns a cell with text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// Returns a cell with a number, which may be large: above 2^53 it is rounded.
    pub fn number(number: u64) -> Self {
        Self::Number(number as f64)
    }

    /// Returns the number of the cell.
    pub(super) fn value(&self) -> Option<f64> {
        match self {
            Self::Number(number) | Self::BelowClock(number, _) => Some(*number),
            Self::Empty | Self::Text(_) => None,
        }
    }

    /// Returns the cell for terminals and pages.
    pub(super) fn shown(&self, scale: Scale) -> String {
        match self {
            Self::Empty => String::new(),
            Self::Text(text) => text.clone(),
            Self::BelowClock(_, clock) => format!("below the clock's {clock:.0} ns"),
            Self::Number(number) => {
                let number = number / scale.factor;
                match scale.decimals {
                    0 => thousands(number.round() as u64),
                    decimals => {
                        let text = format!("{number:.decimals$}");
                        let (whole, rest) = text.split_once('.').unwrap_or((&text, ""));
                        let whole = whole.parse().map_or(whole.to_owned(), thousands);
                        format!("{whole}.{rest}")
                    }
                }
            }
        }
    }

    /// Returns the cell for CSV: the number in base units, with at most three decimals.
    pub(super) fn base(&self) -> String {
        match self {
            Self::Empty => String::new(),
            Self::Text(text) => text.clone(),
            Self::Number(number) | Self::BelowClock(number, _) => {
                format!("{}", (number * 1000.0).round() / 1000.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_of_bytes_has_one_unit_and_base_units_in_csv() {
        let scale = Unit::Bytes.scale(3e6);
        assert_eq!(scale.unit, "KiB");
        let cells = [Cell::number(512), Cell::number(3_000_000)];
        let shown: Vec<_> = cells.iter().map(|cell| cell.shown(scale)).collect();
        assert_eq!(shown, ["0.5", "2,929.7"]);
        let base: Vec<_> = cells.iter().map(Cell::base).collect();
        assert_eq!(base, ["512", "3000000"]);
    }

    #[test]
    fn a_time_below_the_clock_is_said_to_be_and_stays_a_number_in_csv() {
        let cell = Cell::BelowClock(20.0, 21.0);
        assert_eq!(cell.shown(Unit::Nanoseconds.scale(20.0)), "below the clock's 21 ns");
        assert_eq!(cell.base(), "20");
    }
}
