//! The state of the buddy as JSON.

use alloc::string::String;
use alloc::vec::Vec;

use page_frame::{FrameNumber, Order};

use super::blocks::{blocks_json, plain};
use super::machine::{Deed, Machine, Step};
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
        .text("plain", &plain(machine, &cached))
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
    // Finding the free blocks takes a look at every unit, so it is done once for all orders.
    let free: Vec<(usize, Order)> = machine.free_blocks().collect();
    Json::list(orders, |list, order| {
        let starts = free.iter().filter(|(_, other)| *other == order).map(|(start, _)| *start);
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
