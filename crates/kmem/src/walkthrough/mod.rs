//! Walkthroughs: an allocator at work step by step, drawn from its live state.

pub mod buddy;
pub mod cpus;
pub mod pages;
pub mod pressure;
mod script;
pub mod slab;
pub mod step;

use std::io::{self, Write};

use crate::picture::style::Style;
use step::Walk;

/// The walkthroughs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// Blocks that split and merge.
    Buddy,
    /// Slabs that fill.
    Slab,
    /// Magazines that move between CPUs.
    Cpus,
    /// Memory that runs short.
    Pressure,
}

impl Layer {
    /// All of them, in the order of the tour.
    pub const ALL: [Self; 4] = [Self::Buddy, Self::Slab, Self::Cpus, Self::Pressure];

    /// Returns the name by which it is asked for.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Buddy => "buddy",
            Self::Slab => "slab",
            Self::Cpus => "cpus",
            Self::Pressure => "pressure",
        }
    }

    /// Returns what it is called.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Buddy => "Blocks split and merge",
            Self::Slab => "A slab fills",
            Self::Cpus => "Objects move between CPUs",
            Self::Pressure => "Memory runs short",
        }
    }

    /// Returns what it shows.
    pub const fn about(self) -> &'static str {
        match self {
            Self::Buddy => {
                "The 16 KiB example: blocks split and merge, and two free neighbours that cannot join"
            }
            Self::Slab => {
                "A cache grows slab by slab, each with a colour, and keeps constructed state"
            }
            Self::Cpus => {
                "Magazines fill, go to the depot and come back to another CPU, which freed nothing"
            }
            Self::Pressure => {
                "Memory runs short: empty slabs of one cache are released, and another one grows"
            }
        }
    }
}

/// Plays the walkthrough of `layer`.
///
/// # Errors
/// When `out` does not take the text, or the system gives no memory.
pub fn play(layer: Layer, out: &mut impl Write, style: &Style) -> io::Result<()> {
    let walk = walk(layer)?;
    if !style.plain {
        writeln!(out, "{}{}", walk.introduction, walk.legend)?;
    }
    for step in &walk.steps {
        step.write(out, style)?;
        style.rest(out)?;
    }
    Ok(())
}

/// Plays the walkthrough of `layer`, and returns its steps.
///
/// # Errors
/// When the system gives no memory.
pub fn walk(layer: Layer) -> io::Result<Walk> {
    match layer {
        Layer::Buddy => buddy::walk(),
        Layer::Slab => slab::walk(),
        Layer::Cpus => cpus::walk(),
        Layer::Pressure => pressure::walk(),
    }
}
