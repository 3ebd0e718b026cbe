//! Histories of allocations and frees.

use alloc::vec::Vec;

use crate::held::Random;
use crate::longest::row::Row;

/// The length of a history.
#[derive(Clone, Copy)]
pub(super) struct Length {
    /// Maximum number of allocations held.
    pub(super) held: usize,
    /// Number of rounds. A round is about 5.5 times as many operations as allocations are held.
    pub(super) rounds: usize,
}

/// The action at a place that may hold an allocation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    /// Frees what is held, or allocates.
    Toggle,
    Fill,
    Empty,
}

/// Runs a history of `allocate` and `free`; returns a row for each. An allocation that fails is not
/// counted. Calls `between` before each round.
///
/// A round toggles random places. Then it fills and empties all of them twice: in the order of
/// allocation, and against it.
pub(super) fn history<T>(
    names: [&'static str; 2],
    Length { held: places, rounds }: Length,
    mut between: impl FnMut(),
    mut allocate: impl FnMut(&mut Random) -> Option<T>,
    mut free: impl FnMut(T),
) -> [Row; 2] {
    let mut random = Random::new(7);
    let [mut allocations, mut frees] = names.map(|name| Row::new(name, 4 * places * rounds));
    let mut held: Vec<Option<T>> = (0..places).map(|_| None).collect();
    let mut act = |place: &mut Option<T>, action: Action, random: &mut Random| match place.take() {
        Some(block) if action == Action::Fill => *place = Some(block),
        Some(block) => frees.count(|| free(block)),
        None if action == Action::Empty => {}
        None => *place = allocations.count_if(Option::is_some, || allocate(random)),
    };
    for _ in 0..rounds {
        between();
        for _ in 0..2 * places {
            let index = random.below(places);
            act(&mut held[index], Action::Toggle, &mut random);
        }
        for action in [Action::Fill, Action::Empty, Action::Fill] {
            held.iter_mut().for_each(|place| act(place, action, &mut random));
        }
        held.iter_mut().rev().for_each(|place| act(place, Action::Empty, &mut random));
    }
    [allocations, frees]
}
