//! The blocks of the buddy from left to right: as JSON, and in the notation of the course page.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use buddy::BlockState;
use page_frame::Order;

use super::machine::{Machine, Owned};
use crate::input::size::short;
use crate::json::{Json, numbers};

/// The state of a block.
enum State<'b> {
    Free,
    Taken(&'b Owned),
    /// In the CPU's slot.
    Cached,
    /// Freed, with its bit still set.
    Deferred,
}

/// Returns each block with its first unit and its number of units. `cached` are the blocks in the
/// CPU's slot, which the allocator itself shows unit by unit.
fn blocks<'b>(
    machine: &'b Machine<'_>,
    cached: &[(usize, Order)],
) -> impl Iterator<Item = (usize, usize, State<'b>)> {
    let mut next = 0;
    machine.frames().blocks().filter_map(move |block| {
        let start = block.start.get();
        if start < next {
            return None;
        }
        let in_slot = || cached.iter().find(|(cached, _)| *cached == start);
        let (units, state) = match (block.state, machine.live().get(&start)) {
            (BlockState::Free, _) => (block.frames, State::Free),
            (BlockState::Allocated, Some(owned)) => (block.frames, State::Taken(owned)),
            _ => match in_slot() {
                Some((_, order)) => (order.pages(), State::Cached),
                None => (block.frames, State::Deferred),
            },
        };
        next = start + units;
        Some((start, units, state))
    })
}

/// Returns the blocks as the course page writes them: `4A 2B 2- 8-`. `?` is neither free nor in
/// use.
pub(crate) fn plain(machine: &Machine<'_>, cached: &[(usize, Order)]) -> String {
    let words = blocks(machine, cached).map(|(_, units, state)| {
        let owner = match state {
            State::Free => "-",
            State::Taken(owned) => &owned.name,
            State::Cached | State::Deferred => "?",
        };
        format!("{units}{owner}")
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Returns each block as `[start, units, state]`, and where it is taken, its name and the size that
/// was asked for.
pub(crate) fn blocks_json(machine: &Machine<'_>, cached: &[(usize, Order)]) -> Json {
    Json::list(blocks(machine, cached), |list, (start, units, state)| {
        let mut entry = numbers([start, units]);
        match state {
            State::Free => entry.push_text("free"),
            State::Taken(Owned { name, bytes, .. }) => {
                entry.push_text("taken");
                entry.push_text(name);
                entry.push_text(&short(*bytes));
            }
            State::Cached => entry.push_text("cached"),
            State::Deferred => entry.push_text("deferred"),
        }
        list.push(entry);
    })
}
