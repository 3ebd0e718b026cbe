//! How a picture is shown on a terminal: as pictures or plain, with or without colours, and at
//! which pace.

use std::io::{self, Write};
use std::time::Duration;

/// Ends a step in text that is to be taken apart again.
pub const PAGE_END: char = '\x0c';

/// How to draw.
#[derive(Debug, Clone, Copy, Default)]
pub struct Style {
    /// Only the states, one a line.
    pub plain: bool,
    /// With colours.
    pub colour: bool,
    /// The action at the end of each step.
    pub rest: Rest,
}

/// The end of a step.
#[derive(Debug, Clone, Copy, Default)]
pub enum Rest {
    /// Nothing: the next one follows.
    #[default]
    None,
    /// It stays for so long.
    Pause(Duration),
    /// It stays until a line is entered.
    Key,
    /// [`PAGE_END`] is written.
    Page,
}

/// The meaning of a part of a picture, which determines its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
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
    /// As it should be.
    Good,
    /// Not as it should be.
    Bad,
    /// One of eight distinct bands.
    Band(u8),
}

/// The terminal's colours that are nearest to the bands' of [`STYLE`](super::svg::STYLE).
const BAND_CODES: [&str; 8] = [
    "97;48;5;25",
    "30;48;5;214",
    "97;48;5;131",
    "30;48;5;73",
    "30;48;5;107",
    "97;48;5;133",
    "97;48;5;95",
    "30;48;5;145",
];
const BAND_CLASSES: [&str; 8] = super::svg::BANDS;

impl Ink {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let plain = [
            Self::Taken,
            Self::TakenByOther,
            Self::Idle,
            Self::Metadata,
            Self::Caption,
            Self::Good,
            Self::Bad,
        ];
        plain.into_iter().chain((0..8).map(Self::Band))
    }

    /// Returns the parameters of the terminal's escape.
    pub(super) fn code(self) -> String {
        match self {
            Self::Taken => "30;46",
            Self::TakenByOther => "30;43",
            Self::Idle => "2",
            Self::Metadata => "30;45",
            Self::Caption => "1",
            Self::Good => "32",
            Self::Bad => "31",
            Self::Band(band) => BAND_CODES[usize::from(band) % 8],
        }
        .to_owned()
    }

    /// Returns the ink of an escape of ours.
    pub(super) fn with_code(code: &str) -> Option<Self> {
        Self::all().find(|ink| ink.code() == code)
    }

    /// Returns the SVG classes of the background and of the text. Where the background is pale even
    /// in dark mode, the text is black in both modes.
    pub(crate) fn classes(self) -> (&'static str, &'static str) {
        match self {
            Self::Taken => ("taken", "on"),
            Self::TakenByOther => ("other", "black"),
            Self::Idle => ("", "faint"),
            Self::Metadata => ("meta", "on"),
            Self::Caption => ("", "bold"),
            Self::Good => ("", "good"),
            Self::Bad => ("", "bad"),
            Self::Band(band) => {
                let band = usize::from(band) % 8;
                (BAND_CLASSES[band], if matches!(band, 1 | 3 | 4 | 7) { "black" } else { "on" })
            }
        }
    }
}

impl Style {
    /// Returns the style of one picture, with or without colours.
    pub fn still(colour: bool) -> Self {
        Self { colour, ..Self::default() }
    }

    /// Returns `text` in the colour of `ink`, where there are colours.
    pub fn paint(&self, ink: Ink, text: &str) -> String {
        if !self.colour || text.is_empty() {
            return text.to_owned();
        }
        format!("\x1b[{}m{text}\x1b[0m", ink.code())
    }

    /// Returns `cells`, neighbours of one ink painted together.
    pub fn paint_cells(&self, cells: &[(char, Ink)]) -> String {
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
    /// When `out` does not take the text, or standard input cannot be read.
    pub(crate) fn rest(&self, out: &mut impl Write) -> io::Result<()> {
        if !self.plain {
            writeln!(out)?;
        }
        if let Rest::Page = self.rest {
            write!(out, "{PAGE_END}")?;
        }
        out.flush()?;
        match self.rest {
            Rest::None | Rest::Page => {}
            Rest::Pause(pause) => std::thread::sleep(pause),
            Rest::Key => _ = io::stdin().read_line(&mut String::new())?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::svg::STYLE;
    use super::*;

    #[test]
    fn colours_appear_only_where_they_are_wanted() {
        let cells = [('#', Ink::Taken), ('#', Ink::Taken), ('.', Ink::Idle)];
        assert_eq!(Style::still(false).paint_cells(&cells), "##.");
        let painted = Style::still(true).paint_cells(&cells);
        assert_eq!(painted, "\x1b[30;46m##\x1b[0m\x1b[2m.\x1b[0m");
    }

    /// Returns the luminance of the colour that `text` sets the variable to, by WCAG 2.1.
    fn luminance(text: &str, variable: &str) -> f64 {
        let begin = format!("--{variable}:#");
        let at =
            text.find(&begin).unwrap_or_else(|| panic!("{variable} has a colour")) + begin.len();
        let channel = |index: usize| {
            let digits = &text[at + 2 * index..at + 2 * index + 2];
            let value = f64::from(u8::from_str_radix(digits, 16).expect("hexadecimal")) / 255.0;
            if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * channel(0) + 0.7152 * channel(1) + 0.0722 * channel(2)
    }

    #[test]
    fn text_is_legible_on_every_ink_in_light_and_in_dark() {
        let (light, dark) = STYLE.split_once("prefers-color-scheme:dark").expect("both are there");
        let black = luminance("--black:#0f1216", "black");
        assert!(STYLE.contains("text.black{fill:#0f1216}"));
        for (name, scheme) in [("light", light), ("dark", dark)] {
            for ink in Ink::all().filter(|ink| !ink.classes().0.is_empty()) {
                let (behind, text) = ink.classes();
                let text = if text == "black" { black } else { luminance(scheme, text) };
                let behind = luminance(scheme, behind);
                let contrast = (text.max(behind) + 0.05) / (text.min(behind) + 0.05);
                // The minimum contrast of text in WCAG 2.1, success criterion 1.4.3.
                assert!(contrast >= 4.5, "{ink:?}, {name}: {contrast:.2}");
            }
        }
    }

    #[test]
    fn the_end_of_a_step_can_be_found_again() {
        let style = Style { rest: Rest::Page, ..Style::default() };
        let mut out = Vec::new();
        style.rest(&mut out).expect("a vector takes all");
        assert_eq!(out, b"\n\x0c");
    }
}
