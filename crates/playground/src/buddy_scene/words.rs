//! Describes a step in sentences, which the page shows and a screen reader speaks.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use page_frame::Order;

use super::machine::{Deed, Machine, Owned, Step};
use super::trace_log::{Event, merged_blocks, split_blocks};
use crate::input::request::Size;
use crate::input::script::Memory;
use crate::input::size::short;

/// The sentences about a step and about the state after it.
pub(crate) struct Words {
    /// The effects of the step.
    pub(crate) said: String,
    /// Observations about the state.
    pub(crate) notes: Vec<String>,
}

/// Describes `step` and the state of `machine`, whose CPU's slot caches the blocks of `cached`.
pub(crate) fn words(machine: &Machine<'_>, step: &Step, cached: &[(usize, Order)]) -> Words {
    let sentences = step.deeds.iter().map(|(deed, events)| match deed {
        Deed::Allocated { start, owned } => allocated(machine.memory(), *start, owned, events),
        Deed::Freed { start, owned } => freed(machine, *start, owned, events, cached),
        Deed::Refused { name, size, at } => refused(machine, name, *size, *at),
        Deed::Drained(units) => {
            format!("The slot returns {} to the bitmap.", machine.memory().size_of(*units))
        }
    });
    let said = sentences.collect::<Vec<_>>().join(" ");
    let said = match said.is_empty() {
        true => format!("{} of memory, all free.", machine.memory().size()),
        false => said,
    };
    Words { said, notes: notes(machine) }
}

fn allocated(memory: &Memory, start: usize, owned: &Owned, events: &[Event]) -> String {
    let Owned { name, order, bytes } = owned;
    let (given, at) = (memory.size_of(order.pages()), memory.size_of(start));
    let asked = short(*bytes);
    let size = match asked == given {
        true => format!("{name} gets {given} at {at}."),
        false => format!("{name} asks for {asked} and gets {given} at {at}."),
    };
    let how = match events {
        [] if memory.has_slot => {
            " A hit: the block was in the CPU's slot, and no bit changes.".to_string()
        }
        [Event::Taken(..)] => " No split is needed.".to_string(),
        events if !split_blocks(events).is_empty() => splits(memory, events),
        events => moved(memory, events, "The CPU's slot was refilled"),
    };
    size + &how
}

fn splits(memory: &Memory, events: &[Event]) -> String {
    let steps = split_blocks(events).into_iter().map(|(start, units)| {
        let (whole, half) = (memory.size_of(units), memory.size_of(units / 2));
        format!(" {whole} at {} splits into two blocks of {half}.", memory.size_of(start))
    });
    steps.collect()
}

fn freed(
    machine: &Machine<'_>,
    start: usize,
    owned: &Owned,
    events: &[Event],
    cached: &[(usize, Order)],
) -> String {
    let memory = machine.memory();
    let Owned { name, order, .. } = owned;
    let block =
        format!("{name} is freed: {} at {}.", memory.size_of(order.pages()), memory.size_of(start));
    let how = match events {
        [] if machine.live().contains_key(&start) || cached.contains(&(start, *order)) => {
            " The CPU's slot keeps the block, and no bit changes.".to_string()
        }
        [] => {
            " The free is deferred: its bits are cleared later, together with others.".to_string()
        }
        [Event::Returned(..)] => {
            " Its buddy is not free as a whole, so nothing merges.".to_string()
        }
        events if !merged_blocks(events).is_empty() => merges(memory, events),
        events => moved(memory, events, "Blocks returned from the CPU's slot"),
    };
    block + &how
}

fn merges(memory: &Memory, events: &[Event]) -> String {
    let steps = merged_blocks(events).into_iter().map(|(start, units)| {
        let (whole, half) = (memory.size_of(units), memory.size_of(units / 2));
        format!(" Two buddies of {half} merge into {whole} at {}.", memory.size_of(start))
    });
    steps.collect()
}

fn moved(memory: &Memory, events: &[Event], what: &str) -> String {
    let units: usize = events
        .iter()
        .map(|event| match event {
            Event::Moved(units) => *units,
            _ => 0,
        })
        .sum();
    match units {
        0 => String::new(),
        units => format!(" {what}: {} moved.", memory.size_of(units)),
    }
}

fn refused(machine: &Machine<'_>, name: &str, size: Size, at: Option<usize>) -> String {
    let memory = machine.memory();
    let asked = short(size.bytes);
    let Some(order) = size.order.filter(|order| order.pages() <= memory.units) else {
        return format!(
            "{name} asks for {asked}, but memory has {}. The request is refused.",
            memory.size()
        );
    };
    let needed = memory.size_of(order.pages());
    if let Some(at) = at {
        let at = memory.size_of(at);
        return format!(
            "{name} asks for {needed} at {at}, but no free block of that size begins there. The request is refused."
        );
    }
    let free: usize = machine.free_blocks().map(|(_, order)| order.pages()).sum();
    let largest = machine.free_blocks().map(|(_, order)| order.pages()).max();
    let largest = largest.map_or("none".to_string(), |units| memory.size_of(units));
    let free = memory.size_of(free);
    format!(
        "{name} asks for {asked} and needs a block of {needed}. No free block is large enough: {free} is free, the largest block is {largest}. The request is refused."
    )
}

/// Returns observations about the state.
fn notes(machine: &Machine<'_>) -> Vec<String> {
    let memory = machine.memory();
    let mut notes = Vec::new();
    let free: Vec<(usize, Order)> = machine.free_blocks().collect();
    let neighbours = free.windows(2).find_map(|pair| {
        let ((first, order), (second, other)) = (pair[0], pair[1]);
        (order == other && second == first + order.pages()).then_some((order, first, second))
    });
    if let Some((order, first, second)) = neighbours {
        notes.push(format!(
            "The free {} at {} and at {} are neighbours, but not buddies: they were not split from one block. They never merge, and cannot serve {}.",
            memory.size_of(order.pages()),
            memory.size_of(first),
            memory.size_of(second),
            memory.size_of(2 * order.pages())
        ));
    }
    let given: u64 =
        machine.live().values().map(|owned| owned.order.pages() as u64 * memory.unit).sum();
    let asked: u64 = machine.live().values().map(|owned| owned.bytes).sum();
    if given > asked {
        notes.push(format!(
            "Rounding up to powers of two costs {} of {} allocated (internal fragmentation).",
            short(given - asked),
            short(given)
        ));
    }
    notes
}
