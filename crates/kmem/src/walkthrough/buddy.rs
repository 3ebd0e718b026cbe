//! The walkthrough of the buddy allocator: the 16 KiB example on the real one, drawn from its
//! blocks.
//!
//! A frame stands for 1 KiB. The allocator works in its plain mode, on frame numbers: there is no
//! memory behind them, as it never touches any.

use std::collections::HashMap;
use std::io;

use buddy::{BlockState, EventCounts, FrameAllocator, Mode};
use page_frame::{FrameNumber, Order, SingleCpu};

use crate::memory::simulated::Simulated;

use super::script::{Operation, example};
use super::step::{self, LEFT, SCALE, Step, Walk};
use crate::picture::style::{Ink, Style};
use crate::picture::svg::Svg;
use crate::picture::text::counted;

/// The frames of the example.
const FRAMES: usize = 16;
/// Columns that a frame takes in the picture.
const COLUMNS: usize = 4;
/// Height of a picture in pixels.
const HEIGHT: f64 = 62.0;

type Example = FrameAllocator<'static, SingleCpu, EventCounts>;
type Owners = HashMap<FrameNumber, (&'static str, Order)>;

/// A block of the example.
#[derive(Debug, Clone, PartialEq, Eq)]
struct BlockOf {
    start: usize,
    frames: usize,
    owner: Option<&'static str>,
}

/// The blocks after a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    blocks: Vec<BlockOf>,
    /// Free blocks: how many of how many KiB.
    free: Vec<(usize, usize)>,
    splits: usize,
    merges: usize,
    /// Two free neighbours that were not split from one another: KiB of each, and where they are.
    strangers: Option<(usize, usize, usize)>,
}

/// Plays the example.
///
/// # Errors
/// When the system gives no memory for the metadata.
pub(super) fn walk() -> io::Result<Walk> {
    let buddy = Simulated::new(FRAMES, SingleCpu::new(), Mode::Plain)?;
    let mut owners = Owners::new();
    let introduction =
        "16 KiB, smallest block 1 KiB. A request is rounded up to a power of two; the\n\
                        smallest free block that is large enough is split until it fits.\n"
            .to_owned();
    let mut steps = Vec::new();
    for step in example() {
        let before = splits_and_merges(&buddy);
        for operation in step.operations {
            perform(&buddy, &mut owners, operation).map_err(io::Error::other)?;
        }
        let state = Box::new(state(&buddy, &owners, before));
        steps.push(Step { caption: step.text.to_owned(), state });
    }
    Ok(Walk { introduction, legend: String::new(), steps })
}

fn perform(
    buddy: &Example,
    owners: &mut Owners,
    operation: Operation<'static>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    match operation {
        Operation::Allocate { name, units } => {
            let order = Order::for_pages(units).ok_or("a request of the example is too large")?;
            owners.insert(buddy.allocate_frames(order)?, (name, order));
        }
        Operation::Free { name } => {
            let owned = owners.iter().find(|(_, (owner, _))| *owner == name);
            let (&frame, &(_, order)) = owned.ok_or("the example frees what is not allocated")?;
            owners.remove(&frame);
            buddy.free_frames(frame, order)?;
        }
    }
    Ok(())
}

fn splits_and_merges(buddy: &Example) -> (usize, usize) {
    (buddy.trace().splits(), buddy.trace().merges())
}

/// Looks at the buddy; `before` are the splits and merges before the step.
fn state(buddy: &Example, owners: &Owners, before: (usize, usize)) -> State {
    let blocks = buddy.blocks().map(|block| {
        let is_free = block.state == BlockState::Free;
        let owner = owners.get(&block.start).map(|(name, _)| *name).filter(|_| !is_free);
        BlockOf { start: block.start.get(), frames: block.frames, owner }
    });
    let sizes = Order::all().zip(buddy.free_counts()).filter(|(_, count)| *count > 0);
    let after = splits_and_merges(buddy);
    let free: Vec<_> = buddy.free_blocks().collect();
    let strangers = free.windows(2).find_map(|pair| {
        let ((first, order), (second, other)) = (pair[0], pair[1]);
        let are = order == other && second.get() == first.get() + order.pages();
        are.then(|| (order.pages(), first.get(), second.get()))
    });
    State {
        blocks: blocks.collect(),
        free: sizes.map(|(order, count)| (count, order.pages())).collect(),
        splits: after.0 - before.0,
        merges: after.1 - before.1,
        strangers,
    }
}

impl step::State for State {
    /// Returns the state in the example's notation: `4A 4- 8-`.
    fn plain(&self) -> String {
        let block = |block: &BlockOf| format!("{}{}", block.frames, block.owner.unwrap_or("-"));
        self.blocks.iter().map(block).collect::<Vec<_>>().join(" ")
    }

    /// Draws the blocks side by side, each as wide as it is large.
    fn lines(&self, style: &Style) -> Vec<String> {
        let mut upper = String::new();
        let mut middle = String::new();
        for block in &self.blocks {
            let width = block.frames * COLUMNS - 1;
            let text = match block.owner {
                None => " ".repeat(width),
                Some(owner) if style.colour => format!("{owner:^width$}"),
                Some(owner) => format!("{:#^width$}", format!(" {owner} ")),
            };
            upper.push_str(&format!("+{:-^width$}", block.frames));
            let ink = if block.owner.is_none() { Ink::Idle } else { Ink::Taken };
            middle.push('|');
            middle.push_str(&style.paint(ink, &text));
        }
        vec![upper + "+", middle + "|"]
    }

    /// Says which free blocks there are, how many splits and merges the step took, and why
    /// neighbours did not join.
    fn notes(&self) -> Vec<String> {
        let list: Vec<_> =
            self.free.iter().map(|(count, size)| format!("{count} x {size}K")).collect();
        let list = if list.is_empty() { "none".to_string() } else { list.join(", ") };
        let events = [(self.splits, "split"), (self.merges, "merge")];
        let events = events.into_iter().filter(|(count, _)| *count > 0);
        let events: String =
            events.map(|(count, what)| format!("; {}", counted(count, what))).collect();
        let mut notes = vec![format!("free blocks: {list}{events}")];
        if let Some((size, first, second)) = self.strangers {
            notes.push(format!(
                "the free {size}K at {first}K and {second}K are neighbours, but were not split from one\n\
                 another: they never join, and cannot serve {}K",
                2 * size
            ));
        }
        notes
    }

    /// Draws the blocks to scale.
    fn draw(&self, svg: &mut Svg, top: f64) {
        let unit = SCALE / FRAMES as f64;
        for block in &self.blocks {
            let (left, width) = (LEFT + block.start as f64 * unit, block.frames as f64 * unit);
            let class = if block.owner.is_some() { "taken" } else { "idle" };
            svg.rect((left + 1.0, top), (width - 2.0, 40.0), class, "");
            let middle = left + width / 2.0;
            if let Some(owner) = block.owner {
                svg.text((middle, top + 25.0), "on middle bold", owner);
            }
            svg.text((middle, top + 56.0), "faint middle", &format!("{}K", block.frames));
        }
    }

    fn height(&self) -> f64 {
        HEIGHT
    }
}
