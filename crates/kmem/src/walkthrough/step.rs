//! Steps of a walkthrough: a caption and the state of the allocator. Text and picture of a step
//! are both drawn from its state.

use std::fmt::Debug;
use std::io::{self, Write};

use crate::picture::style::{Ink, Style};
use crate::picture::svg::Svg;

/// Width of a drawing in pixels: what a picture is to scale of.
pub(super) const SCALE: f64 = 640.0;
/// Room for text to the left and to the right of a drawing.
pub(super) const LEFT: f64 = 12.0;
const RIGHT: f64 = 68.0;
/// Height of a line of text.
const LINE: f64 = 20.0;
/// Maximum characters in a line of a caption, whose font is bold, and in a line of a note.
const CAPTION_CHARACTERS: usize = 88;
const NOTE_CHARACTERS: usize = 104;

/// A walkthrough: an introduction and steps.
#[derive(Debug)]
pub struct Walk {
    /// The text before the first step.
    pub introduction: String,
    /// The meaning of the characters on a terminal. Pictures do without it.
    pub legend: String,
    /// The steps, at least one.
    pub steps: Vec<Step>,
}

/// A step.
#[derive(Debug)]
pub struct Step {
    /// The event of the step in words, one or more lines.
    pub caption: String,
    /// The state after it.
    pub state: Box<dyn State>,
}

/// The state of an allocator after a step.
pub trait State: Debug {
    /// Returns the state as one line for other programs.
    fn plain(&self) -> String;

    /// Returns the lines that a terminal shows in place of a picture.
    fn lines(&self, style: &Style) -> Vec<String>;

    /// Returns the notes below the picture, one or more lines each.
    fn notes(&self) -> Vec<String>;

    /// Returns the height of the picture in pixels.
    fn height(&self) -> f64;

    /// Draws the picture with its upper edge at `top`.
    fn draw(&self, svg: &mut Svg, top: f64);
}

impl Step {
    /// Writes the step for a terminal, or as one line where the style is plain.
    pub(super) fn write(&self, out: &mut impl Write, style: &Style) -> io::Result<()> {
        if style.plain {
            return writeln!(out, "{}", self.state.plain());
        }
        writeln!(out, "{}", style.paint(Ink::Caption, &self.caption))?;
        let (lines, notes) = (self.state.lines(style), self.state.notes());
        for line in lines.iter().chain(&notes).flat_map(|text| text.lines()) {
            writeln!(out, "  {line}")?;
        }
        Ok(())
    }

    /// Returns the caption as one line.
    pub fn title(&self) -> String {
        self.caption.replace('\n', " ")
    }

    /// Draws the state without words around it. All pictures of all walkthroughs have one width.
    pub fn drawing(&self) -> Svg {
        let mut svg = Svg::new(LEFT + SCALE + RIGHT, self.state.height() + 8.0, &self.title());
        self.state.draw(&mut svg, 4.0);
        svg
    }

    /// Draws the state with the caption above it and the notes below, as a picture of its own.
    pub fn picture(&self) -> Svg {
        let caption = wrapped(&self.title(), CAPTION_CHARACTERS);
        let notes = self.state.notes();
        let notes: Vec<_> = notes.iter().flat_map(|note| wrapped(note, NOTE_CHARACTERS)).collect();
        let lines = (caption.len() + notes.len()) as f64;
        let height = 16.0 + lines * LINE + self.state.height() + 12.0;
        let mut svg = Svg::new(LEFT + SCALE + RIGHT, height, &self.title());
        let mut top = 8.0;
        for line in &caption {
            svg.text((LEFT, top + 14.0), "bold", line);
            top += LINE;
        }
        top += 6.0;
        self.state.draw(&mut svg, top);
        top += self.state.height() + 4.0;
        for line in &notes {
            svg.text((LEFT, top + 14.0), "", line);
            top += LINE;
        }
        svg
    }
}

/// Breaks text into lines of at most `characters`.
fn wrapped(text: &str, characters: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut().filter(|line| line.len() + word.len() < characters) {
            Some(line) => {
                line.push(' ');
                line.push_str(word);
            }
            None => lines.push(word.to_owned()),
        }
    }
    lines
}
