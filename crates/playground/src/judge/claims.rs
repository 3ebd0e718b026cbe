//! Judges claims about the state: free lists, and whole states.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use page_frame::{FrameNumber, Order};

use super::rule::{Broken, Rule};
use super::statement::Piece;
use super::verdict::{Found, Picture};
use crate::buddy_scene::machine::Machine;

/// Checks the claim that the free blocks of `order` begin at `starts`, in any order.
///
/// # Errors
/// The rule that it breaks.
pub(super) fn check_list(
    machine: &Machine<'_>,
    order: Order,
    starts: &[usize],
) -> Result<(), Found> {
    let memory = machine.memory();
    let units = order.pages();
    let theirs = || Some(Picture::listed(machine, starts, units));
    let wrong = |rule, why: String| Err((Broken::new(rule, why), theirs()));
    let free = free_blocks(machine);
    let mut listed = BTreeSet::new();
    for start in starts {
        if !listed.insert(*start) {
            return wrong(Rule::State, format!("{} is listed twice.", memory.size_of(*start)));
        }
        if let Some((rule, why)) = wrong_free(machine, &free, *start, units) {
            return wrong(rule, why);
        }
    }
    let missing = free.iter().find(|(start, free)| **free == units && !listed.contains(start));
    match missing {
        Some((start, _)) => {
            let (size, at) = (memory.size_of(units), memory.size_of(*start));
            wrong(
                Rule::State,
                format!("A block of {size} is free at {at}, but the list does not have it."),
            )
        }
        None => Ok(()),
    }
}

/// Checks the claim that memory consists of `pieces`.
///
/// # Errors
/// The rule that it breaks.
pub(super) fn check_state(machine: &Machine<'_>, pieces: &[Piece<'_>]) -> Result<(), Found> {
    let memory = machine.memory();
    let wrong = |rule, why: String| {
        Err((Broken::new(rule, why), Some(Picture::claimed(pieces, memory.units))))
    };
    let covered = pieces.last().map_or(0, |piece| piece.start + piece.units);
    if covered != memory.units {
        let why = format!("The state covers {covered} units, but memory has {}.", memory.units);
        return wrong(Rule::State, why);
    }
    let blocks = free_blocks(machine);
    let (taken, free): (Vec<_>, Vec<_>) = pieces.iter().partition(|piece| piece.owner.is_some());
    for Piece { start, units, owner } in taken {
        let (size, at) = (memory.size_of(units), memory.size_of(start));
        let name = owner.unwrap_or("-");
        if start % units != 0 && units.is_power_of_two() {
            let why = format!(
                "The state shows {name} with {size} at {at}, which is no multiple of {size}."
            );
            return wrong(Rule::Aligned, why);
        }
        let Some(right) = machine.start_of(name) else {
            return wrong(Rule::State, format!("The state shows {name}, which is not allocated."));
        };
        let right_size = machine.live().get(&right).map_or(0, |owned| owned.order.pages());
        if (right, right_size) != (start, units) {
            let (right, right_size) = (memory.size_of(right), memory.size_of(right_size));
            let why = format!(
                "The state shows {name} with {size} at {at}, but it has {right_size} at {right}."
            );
            return wrong(Rule::State, why);
        }
    }
    for Piece { start, units, .. } in free {
        if let Some((rule, why)) = wrong_free(machine, &blocks, start, units) {
            return wrong(rule, why);
        }
    }
    Ok(())
}

/// Returns the units of each free block by its first unit.
fn free_blocks(machine: &Machine<'_>) -> BTreeMap<usize, usize> {
    machine.free_blocks().map(|(start, order)| (start, order.pages())).collect()
}

/// Says why the given units are not one of the `free` blocks.
fn wrong_free(
    machine: &Machine<'_>,
    free: &BTreeMap<usize, usize>,
    start: usize,
    units: usize,
) -> Option<(Rule, String)> {
    let memory = machine.memory();
    let (size, at) = (memory.size_of(units), memory.size_of(start));
    if let Some(why) = overlap(machine, start, units) {
        return Some((Rule::Overlap, format!("{size} at {at} is shown as free, but {why}.")));
    }
    if !units.is_power_of_two() {
        return Some((
            Rule::Buddies,
            format!(
                "{size} at {at} is shown as one free block, but {units} units are no power of two."
            ),
        ));
    }
    if start % units != 0 {
        let why = format!(
            "{size} at {at} is shown as one free block, but {at} is no multiple of {size}: its halves are not buddies."
        );
        return Some((Rule::Buddies, why));
    }
    let (whole, length) =
        free.range(..=start).next_back().map(|(start, units)| (*start, *units))?;
    if start >= whole + length || length <= units {
        return None;
    }
    let order = Order::for_pages(units)?;
    let buddy = memory.size_of(FrameNumber::new(start).buddy(order).get());
    let double = memory.size_of(2 * units);
    let parent = memory.size_of(whole & !(2 * units - 1) | start & !(2 * units - 1));
    let why = format!(
        "{size} at {at} and its buddy at {buddy} are both free. They must merge into {double} at {parent}."
    );
    Some((Rule::Merge, why))
}

/// Says which block of the machine lies in the given units.
pub(super) fn overlap(machine: &Machine<'_>, start: usize, units: usize) -> Option<String> {
    let memory = machine.memory();
    let (begin, owned) = machine.live().range(..start + units).next_back()?;
    let end = begin + owned.order.pages();
    if end <= start {
        return None;
    }
    let (from, to) = (memory.size_of(*begin), memory.size_of(end));
    let name = &owned.name;
    Some(match (*begin <= start && start + units <= end, *begin == start) {
        (true, false) => format!("that is inside {name}, which has {from} to {to}"),
        _ => format!("{name} has {from} to {to}"),
    })
}
