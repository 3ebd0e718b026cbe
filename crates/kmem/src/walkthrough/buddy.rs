//! The walkthrough of the buddy allocator: the 16 KiB example on the real one, drawn from its
//! blocks.
//!
//! A frame stands for 1 KiB. The allocator works in its plain mode, on frame numbers: there is no
//! memory behind them, as it never touches any.

use std::collections::HashMap;
use std::io::{self, Write};

use buddy::{Block, BlockState, EventCounts, FrameAllocator, Mode};
use page_frame::{FrameNumber, Order, SingleCpu};

use crate::simulated::Simulated;

use super::script::{Operation, example};
use crate::picture::style::{Ink, Style};
use crate::picture::text::counted;

/// The frames of the example.
const FRAMES: usize = 16;
/// Columns that a frame takes in the picture.
const COLUMNS: usize = 4;
type Example = FrameAllocator<'static, SingleCpu, EventCounts>;
type Owners = HashMap<FrameNumber, (&'static str, Order)>;

/// Plays the example and draws each state.
///
/// # Errors
/// When `out` does not take the text, or the system gives no memory for the metadata.
pub fn play(out: &mut impl Write, style: &Style) -> io::Result<()> {
    let buddy = Simulated::new(FRAMES, SingleCpu::new(), Mode::Plain)?;
    let mut owners = Owners::new();
    if !style.plain {
        writeln!(
            out,
            "16 KiB, smallest block 1 KiB. A request is rounded up to a power of two; the"
        )?;
        writeln!(out, "smallest free block that is large enough is split until it fits.\n")?;
    }
    for step in example() {
        let before = splits_and_merges(&buddy);
        for operation in step.operations {
            perform(&buddy, &mut owners, operation).map_err(io::Error::other)?;
        }
        if style.plain {
            writeln!(out, "{}", state(&buddy, &owners))?;
        } else {
            writeln!(out, "{}", style.paint(Ink::Caption, step.text))?;
            draw(out, &buddy, &owners, style)?;
            caption(out, &buddy, before)?;
        }
        style.rest(out)?;
    }
    Ok(())
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

fn owner(owners: &Owners, block: &Block) -> &'static str {
    owners.get(&block.start).map_or("-", |(name, _)| name)
}

/// Returns the state in the example's notation: `4A 4- 8-`.
fn state(buddy: &Example, owners: &Owners) -> String {
    let blocks = buddy.blocks().map(|block| format!("{}{}", block.frames, owner(owners, &block)));
    blocks.collect::<Vec<_>>().join(" ")
}

/// Draws the blocks side by side, each as wide as it is large.
fn draw(out: &mut impl Write, buddy: &Example, owners: &Owners, style: &Style) -> io::Result<()> {
    let mut upper = String::new();
    let mut middle = String::new();
    for block in buddy.blocks() {
        let width = block.frames * COLUMNS - 1;
        let is_free = block.state == BlockState::Free;
        let label = if is_free { String::new() } else { owner(owners, &block).to_string() };
        let fill = if is_free || style.colour { ' ' } else { '#' };
        let text = match fill {
            ' ' => format!("{label:^width$}"),
            _ => format!("{:#^width$}", format!(" {label} ")),
        };
        upper.push_str(&format!("+{:-^width$}", block.frames));
        let ink = if is_free { Ink::Idle } else { Ink::Taken };
        middle.push('|');
        middle.push_str(&style.paint(ink, &text));
    }
    writeln!(out, "  {upper}+\n  {middle}|")
}

fn splits_and_merges(buddy: &Example) -> (usize, usize) {
    (buddy.trace().splits(), buddy.trace().merges())
}

/// Says which free blocks there are, how many splits and merges it took since `before`, and why
/// neighbours did not join.
fn caption(out: &mut impl Write, buddy: &Example, before: (usize, usize)) -> io::Result<()> {
    let counts = buddy.free_counts();
    let sizes = Order::all().zip(counts).filter(|(_, count)| *count > 0);
    let list: Vec<_> =
        sizes.map(|(order, count)| format!("{count} x {}K", order.pages())).collect();
    let list = if list.is_empty() { "none".to_string() } else { list.join(", ") };
    let after = splits_and_merges(buddy);
    let events = [(after.0 - before.0, "split"), (after.1 - before.1, "merge")];
    let events = events.into_iter().filter(|(count, _)| *count > 0);
    let events: String =
        events.map(|(count, what)| format!("; {}", counted(count, what))).collect();
    writeln!(out, "  free blocks: {list}{events}")?;
    let free: Vec<_> = buddy.free_blocks().collect();
    let strangers = free.windows(2).find(|pair| {
        let ((first, order), (second, other)) = (pair[0], pair[1]);
        order == other && second.get() == first.get() + order.pages()
    });
    if let Some([(first, order), (second, _)]) = strangers.and_then(|pair| pair.first_chunk()) {
        let (size, first, second) = (order.pages(), first.get(), second.get());
        writeln!(
            out,
            "  the free {size}K at {first}K and {second}K are neighbours, but were not split from one\n  another: they never join, and cannot serve {}K",
            2 * size
        )?;
    }
    Ok(())
}
