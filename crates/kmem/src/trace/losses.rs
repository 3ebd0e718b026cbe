//! Counts of events that a recording has lost, as far as the recorder counted them.

use std::fmt;

use crate::picture::text::{counted, thousands};

/// The line of a compact trace whose recorder did not show losses.
const HIDDEN_LINE: &str = "# losses not shown";

/// Counts of lost events.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Losses {
    /// Events that the recorder counted.
    pub events: u64,
    /// Places where the recorder lost events without counting them.
    pub uncounted: u64,
    /// Whether the recording came from a tool that was not asked to show losses: `perf script`
    /// without `--show-lost-events`.
    pub are_hidden: bool,
}

impl Losses {
    /// Returns the losses of one place where `events` events were lost.
    pub const fn of(events: u64) -> Self {
        Self { events, uncounted: 0, are_hidden: false }
    }

    /// One place where an unknown number of events was lost.
    pub const UNCOUNTED: Self = Self { events: 0, uncounted: 1, are_hidden: false };

    /// Events may be lost, and the tool did not show it.
    pub const HIDDEN: Self = Self { events: 0, uncounted: 0, are_hidden: true };

    /// Returns whether nothing was lost, for certain.
    pub const fn is_none(self) -> bool {
        self.are_known_to_be_none() && !self.are_hidden
    }

    /// Returns whether the recording itself reports no loss.
    const fn are_known_to_be_none(self) -> bool {
        self.events == 0 && self.uncounted == 0
    }

    /// Adds losses of another place.
    pub fn add(&mut self, other: Self) {
        self.events = self.events.saturating_add(other.events);
        self.uncounted = self.uncounted.saturating_add(other.uncounted);
        self.are_hidden |= other.are_hidden;
    }

    /// Says in one sentence, cut into two lines, whether the recording lost events and what that
    /// makes uncertain. The second line is empty where nothing was lost.
    pub fn sentence(self) -> [String; 2] {
        if self.is_none() {
            return [
                "Nothing is lost: the recording reports no lost events.".to_owned(),
                String::new(),
            ];
        }
        if self.are_known_to_be_none() {
            return [
                "Lost events: not known (perf script tells with --show-lost-events).".to_owned(),
                "Totals may be too small, and what counts as live may have been freed.".to_owned(),
            ];
        }
        [
            format!("The recording lost {self}:"),
            "totals are too small, and what counts as live may have been freed.".to_owned(),
        ]
    }

    /// Returns the line of a compact trace for the losses of one place.
    pub fn line(self) -> String {
        match self {
            Self { are_hidden: true, .. } => HIDDEN_LINE.to_owned(),
            Self { uncounted: 0, events, .. } => format!("# lost {events} events"),
            _ => "# lost events".to_owned(),
        }
    }

    /// Reads a line that [`line`](Self::line) returns; `None` for any other comment.
    pub fn parse(line: &[u8]) -> Option<Self> {
        if line == HIDDEN_LINE.as_bytes() {
            return Some(Self::HIDDEN);
        }
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
        for losses in [Losses::of(0), Losses::of(204_600), Losses::UNCOUNTED, Losses::HIDDEN] {
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

    #[test]
    fn only_a_recording_that_shows_losses_can_say_that_there_are_none() {
        let mut losses = Losses::default();
        assert!(losses.sentence()[0].starts_with("Nothing is lost"));
        losses.add(Losses::HIDDEN);
        assert!(!losses.is_none() && losses.sentence()[0].starts_with("Lost events: not known"));
        losses.add(Losses::of(3));
        assert_eq!(losses.sentence()[0], "The recording lost 3 events:");
    }
}
