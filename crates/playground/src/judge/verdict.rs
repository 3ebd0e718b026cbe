//! The verdict of the judge, as JSON for the page and as text for a terminal.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use page_frame::{FrameNumber, FrameRange};

use super::rule::Broken;
use super::statement::Piece;
use crate::buddy_scene::machine::Machine;
use crate::buddy_scene::{blocks_json, plain};
use crate::input::script::{Line, Memory};
use crate::json::{Json, numbers};

/// Maximum number of right lines that the page lists.
pub(super) const MAX_SHOWN: usize = 400;

/// The findings of the judge.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub(super) memory: Memory,
    /// Lines that were judged.
    pub(super) lines: usize,
    pub(super) requests: usize,
    /// Answers and claims that were judged.
    pub(super) answers: usize,
    /// The first right lines.
    pub(super) steps: Vec<Checked>,
    /// The first wrong line.
    pub(super) wrong: Option<Wrong>,
    /// The state after the last line that was judged.
    pub(super) last: Option<Picture>,
}

/// A line that is right.
#[derive(Clone, Debug)]
pub(super) struct Checked {
    pub(super) number: usize,
    pub(super) text: String,
    pub(super) plain: String,
}

/// A line that is wrong.
#[derive(Clone, Debug)]
pub(super) struct Wrong {
    number: usize,
    text: String,
    broken: Broken,
    theirs: Option<Picture>,
    right: Option<Picture>,
}

/// A state that can be drawn.
#[derive(Clone, Debug)]
pub(super) struct Picture {
    plain: String,
    /// The blocks as JSON.
    blocks: String,
    /// Units that the judged allocator claims on top: start, units, name.
    marks: Vec<(usize, usize, String)>,
}

/// A broken rule, and the state that the judged allocator is in, if it can be drawn.
pub(super) type Found = (Broken, Option<Picture>);

impl Picture {
    /// Draws the state of the real allocator.
    pub(super) fn of(machine: &Machine<'_>) -> Self {
        Self {
            plain: plain(machine, &[]),
            blocks: blocks_json(machine, &[]).finish(),
            marks: Vec::new(),
        }
    }

    /// Draws the state with a block that was given wrongly.
    pub(super) fn marked(machine: &Machine<'_>, start: usize, units: usize, name: &str) -> Self {
        Self { marks: [(start, units, name.to_string())].into(), ..Self::of(machine) }
    }

    /// Draws the state with a free list of blocks of `units` units. Listed blocks that lie in free
    /// memory replace what is free there; the others are drawn on top.
    pub(super) fn listed(machine: &Machine<'_>, starts: &[usize], units: usize) -> Self {
        let last = machine.memory().units;
        let mut listed: Vec<usize> = starts.to_vec();
        listed.sort_unstable();
        listed.dedup();
        listed.retain(|start| start + units <= last);
        let mut pieces: Vec<Piece<'_>> = Vec::new();
        let mut inside = BTreeSet::new();
        for block in machine.frames().blocks() {
            let (mut at, end) = (block.start.get(), block.start.get() + block.frames);
            if let Some(owned) = machine.live().get(&at) {
                pieces.push(Piece { start: at, units: block.frames, owner: Some(&owned.name) });
                continue;
            }
            let from = listed.partition_point(|start| *start < at);
            for start in listed[from..].iter().take_while(|start| **start < end) {
                if at <= *start && start + units <= end {
                    push_free(&mut pieces, at, *start);
                    pieces.push(Piece { start: *start, units, owner: None });
                    inside.insert(*start);
                    at = start + units;
                }
            }
            push_free(&mut pieces, at, end);
        }
        let outside = listed.iter().filter(|start| !inside.contains(start));
        let marks = outside.map(|start| (*start, units, "-".to_string())).collect();
        Self { marks, ..Self::claimed(&pieces, last) }
    }

    /// Draws a claimed state, as far as it lies in memory.
    pub(super) fn claimed(pieces: &[Piece<'_>], units: usize) -> Self {
        let inside = pieces.iter().filter(|piece| piece.start + piece.units <= units);
        let blocks = Json::list(inside, |list, piece| {
            let mut entry = numbers([piece.start, piece.units]);
            entry.push_text(if piece.owner.is_some() { "taken" } else { "free" });
            if let Some(owner) = piece.owner {
                entry.push_text(owner);
                entry.push_text("");
            }
            list.push(entry);
        });
        let words =
            pieces.iter().map(|piece| format!("{}{}", piece.units, piece.owner.unwrap_or("-")));
        Self {
            plain: words.collect::<Vec<_>>().join(" "),
            blocks: blocks.finish(),
            marks: Vec::new(),
        }
    }

    fn to_json(&self) -> Json {
        let marks = Json::list(&self.marks, |list, (start, units, name)| {
            let mut mark = numbers([*start, *units]);
            mark.push_text(name);
            list.push(mark);
        });
        Json::object().text("plain", &self.plain).raw("blocks", &self.blocks).member("marks", marks)
    }
}

/// Appends the free units from `start` to `end`, in blocks that are aligned to their size.
fn push_free(pieces: &mut Vec<Piece<'_>>, start: usize, end: usize) {
    let range = FrameRange::new(FrameNumber::new(start), FrameNumber::new(end));
    for (start, order) in range.blocks() {
        pieces.push(Piece { start: start.get(), units: order.pages(), owner: None });
    }
}

impl Wrong {
    pub(super) fn new(
        line: Line<'_>,
        broken: Broken,
        theirs: Option<Picture>,
        right: Picture,
    ) -> Self {
        let (number, text) = (line.number, line.text.to_string());
        Self { number, text, broken, theirs, right: Some(right) }
    }

    pub(super) fn without_pictures(number: usize, text: &str, broken: Broken) -> Self {
        Self { number, text: text.to_string(), broken, theirs: None, right: None }
    }

    fn to_json(&self) -> Json {
        Json::object()
            .number("line", self.number)
            .text("text", &self.text)
            .text("name", self.broken.rule.name())
            .text("rule", self.broken.rule.sentence())
            .text("why", &self.broken.why)
            .maybe("theirs", self.theirs.as_ref().map(Picture::to_json))
            .maybe("right", self.right.as_ref().map(Picture::to_json))
    }
}

impl Verdict {
    /// Whether no line is wrong. Example: see [`judge`](super::judge).
    pub const fn is_right(&self) -> bool {
        self.wrong.is_none()
    }

    /// Returns the number of the first wrong line, counted from 1. Example: see
    /// [`judge`](super::judge).
    pub fn wrong_line(&self) -> Option<usize> {
        self.wrong.as_ref().map(|wrong| wrong.number)
    }

    /// Returns the verdict for the page.
    pub fn to_json(&self) -> String {
        let steps = Json::list(&self.steps, |list, Checked { number, text, plain }| {
            list.push(
                Json::object().number("line", *number).text("text", text).text("plain", plain),
            );
        });
        let json = Json::object()
            .flag("right", self.is_right())
            .text("said", &self.headline())
            .number("units", self.memory.units)
            .number("unit", self.memory.unit as usize)
            .member("steps", steps)
            .number(
                "hidden",
                (self.lines - self.steps.len()).saturating_sub(usize::from(!self.is_right())),
            )
            .maybe("last", self.last.as_ref().map(Picture::to_json));
        json.maybe("wrong", self.wrong.as_ref().map(Wrong::to_json)).finish()
    }

    fn headline(&self) -> String {
        let Self { lines, requests, answers, .. } = self;
        match &self.wrong {
            Some(Wrong { number, broken, .. }) => {
                format!("Line {number} is wrong ({}): {}", broken.rule.name(), broken.why)
            }
            None if *requests == 0 => "There is no request to judge.".to_string(),
            None if *answers == 0 => format!(
                "There are no answers to judge. These are the states of the real allocator after {requests} requests."
            ),
            None => format!(
                "All is right: {lines} lines with {requests} requests and {answers} answers or claims."
            ),
        }
    }
}

/// For a terminal: the headline, and the two states.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.headline())?;
        let Some(wrong) = &self.wrong else { return Ok(()) };
        write!(f, "\n  line:   {}\n  rule:   {}", wrong.text, wrong.broken.rule.sentence())?;
        if let Some(theirs) = &wrong.theirs {
            write!(f, "\n  theirs: {}", theirs.plain)?;
            for (start, units, name) in &theirs.marks {
                let end = start + units;
                write!(f, "\n          with {units}{name} at units {start} to {end}")?;
            }
        }
        match &wrong.right {
            Some(right) => write!(f, "\n  right:  {}", right.plain),
            None => Ok(()),
        }
    }
}
