//! How a picture is shown: as pictures or plain, with or without colours, and at which pace.

use std::io::{self, Write};
use std::time::Duration;

/// How to draw.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// Only the states, one a line.
    pub plain: bool,
    /// With colours.
    pub colour: bool,
    /// How long each step stays before the next.
    pub pause: Duration,
}

/// What a part of a picture stands for, and so its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ink {
    /// In use.
    Taken,
    /// In use too, by somebody else.
    TakenByOther,
    /// Free, or kept without being used.
    Idle,
    /// Bookkeeping.
    Metadata,
    /// A caption.
    Caption,
}

impl Style {
    /// Returns `text` in the colour of `ink`, where there are colours.
    pub(crate) fn paint(&self, ink: Ink, text: &str) -> String {
        if !self.colour || text.is_empty() {
            return text.to_owned();
        }
        let code = match ink {
            Ink::Taken => "30;46",
            Ink::TakenByOther => "30;43",
            Ink::Idle => "2",
            Ink::Metadata => "30;45",
            Ink::Caption => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// Returns `cells`, neighbours of one ink painted together.
    pub(crate) fn paint_cells(&self, cells: &[(char, Ink)]) -> String {
        let runs = cells.chunk_by(|one, other| one.1 == other.1);
        runs.map(|run| {
            let text: String = run.iter().map(|(character, _)| character).collect();
            self.paint(run[0].1, &text)
        })
        .collect()
    }

    /// Ends a step: what was drawn is shown, for as long as the pace says.
    ///
    /// # Errors
    /// When `out` does not take the text.
    pub(crate) fn rest(&self, out: &mut impl Write) -> io::Result<()> {
        if !self.plain {
            writeln!(out)?;
        }
        out.flush()?;
        std::thread::sleep(self.pause);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_appear_only_where_they_are_wanted() {
        let cells = [('#', Ink::Taken), ('#', Ink::Taken), ('.', Ink::Idle)];
        let mut style = Style { plain: false, colour: false, pause: Duration::ZERO };
        assert_eq!(style.paint_cells(&cells), "##.");
        style.colour = true;
        assert_eq!(style.paint_cells(&cells), "\x1b[30;46m##\x1b[0m\x1b[2m.\x1b[0m");
    }
}
