//! The state of the buddy as JSON and in the notation of the course page.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use buddy::BlockState;
use page_frame::{FrameNumber, Order};

use super::machine::{Deed, Machine, Owned, Step};
use super::trace_log::{merged_blocks, split_blocks};
use super::words;
use crate::json::{Json, numbers, texts};

/// Returns the state after `step`.
pub(crate) fn json(machine: &mut Machine<'_>, step: &Step) -> Json {
    let cached = machine.cached();
    let words::Words { said, notes } = words::words(machine, step, &cached);
    let memory = machine.memory();
    Json::object()
        .number("units", memory.units)
        .number("unit", memory.unit as usize)
        .text("size", &memory.size())
        .flag("slot", memory.has_slot)
        .text("plain", &plain(machine))
        .member("blocks", blocks_json(machine, &cached))
        .text("bits", &bits(machine))
        .member("orders", orders(machine))
        .member("cached", ranges(cached.iter().map(|(start, order)| (*start, order.pages()))))
        .member("changed", changed(step))
        .member("splits", ranges(step.deeds.iter().flat_map(|(_, events)| split_blocks(events))))
        .member("merges", ranges(step.deeds.iter().flat_map(|(_, events)| merged_blocks(events))))
        .text("next", &machine.fresh_name())
        .text("said", &said)
        .member("notes", texts(notes))
}

/// Returns the state as the course page writes it: `4A 2B 2- 8-`. `?` is what a slot caches.
pub(crate) fn plain(machine: &Machine<'_>) -> String {
    let blocks = machine.frames().blocks().map(|block| {
        let owner = match block.state {
            BlockState::Free => "-",
            BlockState::Allocated => {
                machine.live().get(&block.start.get()).map_or("?", |owned| &owned.name)
            }
            BlockState::Cached => "?",
        };
        format!("{}{owner}", block.frames)
    });
    blocks.collect::<Vec<_>>().join(" ")
}

/// Returns each block as `[start, units, state, name, asked]`. The state is `free`, `taken`,
/// `cached` by the CPU's slot, or `deferred`. `cached` are the blocks in the slot.
pub(crate) fn blocks_json(machine: &Machine<'_>, cached: &[(usize, Order)]) -> Json {
    // The allocator shows what a slot caches unit by unit.
    let mut next = 0;
    let blocks = machine.frames().blocks().filter_map(|block| {
        let start = block.start.get();
        if start < next {
            return None;
        }
        let order = cached.iter().find(|(cached, _)| *cached == start).map(|(_, order)| *order);
        let order = order.filter(|_| block.state == BlockState::Cached);
        let units = order.map_or(block.frames, Order::pages);
        next = start + units;
        Some((block, units, order.is_some()))
    });
    Json::list(blocks, |list, (block, units, is_cached)| {
        let mut entry = numbers([block.start.get(), units]);
        match (block.state, machine.live().get(&block.start.get())) {
            (BlockState::Free, _) => entry.push_text("free"),
            (BlockState::Allocated, Some(Owned { name, bytes, .. })) => {
                entry.push_text("taken");
                entry.push_text(name);
                entry.push_text(&crate::size::short(*bytes));
            }
            _ => entry.push_text(if is_cached { "cached" } else { "deferred" }),
        }
        list.push(entry);
    })
}

/// Returns a character for each unit: `1` where its bit says that it is taken.
fn bits(machine: &Machine<'_>) -> String {
    let word_bits = usize::BITS as usize;
    let mut free = 0;
    let units = 0..machine.memory().units;
    units
        .map(|unit| {
            if unit % word_bits == 0 {
                free = machine.frames().free_bits(FrameNumber::new(unit));
            }
            if free >> (unit % word_bits) & 1 == 1 { '0' } else { '1' }
        })
        .collect()
}

/// Returns the free blocks of each order up to the size of memory.
fn orders(machine: &Machine<'_>) -> Json {
    let memory = machine.memory();
    let orders = Order::all().take_while(|order| order.pages() <= memory.units);
    Json::list(orders, |list, order| {
        let starts =
            machine.free_blocks().filter(|(_, other)| *other == order).map(|(start, _)| start);
        list.push(
            Json::object()
                .number("order", order.index())
                .number("units", order.pages())
                .text("size", &memory.size_of(order.pages()))
                .member("free", numbers(starts)),
        );
    })
}

/// Returns the units that the step allocated or freed.
fn changed(step: &Step) -> Json {
    ranges(step.deeds.iter().filter_map(|(deed, _)| match deed {
        Deed::Allocated { start, owned } | Deed::Freed { start, owned } => {
            Some((*start, owned.order.pages()))
        }
        Deed::Refused { .. } | Deed::Drained(_) => None,
    }))
}

/// Returns ranges of units as `[start, units]`.
fn ranges(ranges: impl IntoIterator<Item = (usize, usize)>) -> Json {
    Json::list(ranges, |list, (start, units)| list.push(numbers([start, units])))
}
