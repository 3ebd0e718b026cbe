//! Counts of events that a recording has lost, as far as the recorder counted them.

use std::fmt;

use crate::picture::text::{counted, thousands};

/// Counts of lost events.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Losses {
    /// Events that the recorder counted.
    pub events: u64,
    /// Places where the recorder lost events without counting them.
    pub uncounted: u64,
}

impl Losses {
    /// Returns the losses of one place where `events` events were lost.
    pub const fn of(events: u64) -> Self {
        Self { events, uncounted: 0 }
    }

    /// One place where an unknown number of events was lost.
    pub const UNCOUNTED: Self = Self { events: 0, uncounted: 1 };

    /// Returns whether nothing was lost.
    pub const fn is_none(self) -> bool {
        self.events == 0 && self.uncounted == 0
    }

    /// Adds losses of another place.
    pub fn add(&mut self, other: Self) {
        self.events = self.events.saturating_add(other.events);
        self.uncounted = self.uncounted.saturating_add(other.uncounted);
    }

    /// Returns the line of a compact trace for the losses of one place.
    pub fn line(self) -> String {
        match self.uncounted {
            0 => format!("# lost {} events", self.events),
            _ => "# lost events".to_owned(),
        }
    }

    /// Reads a line that [`line`](Self::line) returns; `None` for any other comment.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let number = line.strip_prefix(b"# lost ")?.strip_suffix(b"events")?.trim_ascii();
        if number.is_empty() {
            return Some(Self::UNCOUNTED);
        }
        std::str::from_utf8(number).ok()?.parse().ok().map(Self::of)
    }
}

impl fmt::Display for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = counted(self.uncounted as usize, "place");
        match (self.events, self.uncounted) {
            (1, 0) => f.write_str("1 event"),
            (events, 0) => write!(f, "{} events", thousands(events)),
            (0, _) => write!(f, "an unknown number of events in {places}"),
            (events, _) => {
                write!(f, "{} events, and an unknown number in {places}", thousands(events))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_trace_is_read_back() {
        for losses in [Losses::of(0), Losses::of(204_600), Losses::UNCOUNTED] {
            assert_eq!(Losses::parse(losses.line().as_bytes()), Some(losses));
        }
        for other in ["# lost", "# lost x events", "# lost 1 event", "# lost property", "#"] {
            assert_eq!(Losses::parse(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn unknown_numbers_are_said_to_be_unknown() {
        let mut losses = Losses::of(1);
        assert_eq!(losses.to_string(), "1 event");
        losses.add(Losses::UNCOUNTED);
        losses.add(Losses::of(1999));
        assert_eq!(losses.to_string(), "2,000 events, and an unknown number in 1 place");
        assert_eq!(Losses::UNCOUNTED.to_string(), "an unknown number of events in 1 place");
    }
}
