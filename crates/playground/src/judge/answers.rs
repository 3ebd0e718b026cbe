//! Judges answers: lets the real allocator follow them, or says which rule they break.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;

use page_frame::Order;

use super::claims::{self, overlap};
use super::rule::{Broken, Rule};
use super::statement::{Kind, Piece, Policy};
use super::verdict::{Found, Picture};
use crate::buddy_scene::machine::Machine;
use crate::input::request::{Answer, Request, Size};

/// Counts, and the policy in force.
#[derive(Debug, Default)]
pub(super) struct Judge {
    policy: Policy,
    pub(super) requests: usize,
    pub(super) answers: usize,
}

impl Judge {
    /// Checks a line. The machine then has the right state, whether the line was right or not.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub(super) fn check(
        &mut self,
        kind: &Kind<'_>,
        machine: &mut Machine<'_>,
    ) -> Result<(), Found> {
        match kind {
            Kind::Policy(policy) => self.policy = *policy,
            Kind::List(order, starts) => {
                self.answers += 1;
                claims::check_list(machine, *order, starts)?;
            }
            Kind::State(pieces) => {
                self.answers += 1;
                claims::check_state(machine, pieces)?;
            }
            Kind::Requests { requests, places, has_claim } => {
                for (request, answer) in requests {
                    self.requests += 1;
                    self.answers += usize::from(answer.is_some());
                    self.serve(request, *answer, places, machine)?;
                }
                if *has_claim {
                    self.answers += 1;
                    claims::check_state(machine, places)?;
                }
            }
        }
        Ok(())
    }

    fn serve(
        &self,
        request: &Request<'_>,
        answer: Option<Answer>,
        pieces: &[Piece<'_>],
        machine: &mut Machine<'_>,
    ) -> Result<(), Found> {
        match *request {
            Request::Allocate { name, size, .. } => {
                let name = name.map_or_else(|| machine.fresh_name(), ToString::to_string);
                if machine.start_of(&name).is_some() {
                    let why =
                        format!("{name} is allocated already. Free it first, or use another name.");
                    return Err((Broken::new(Rule::Request, why), None));
                }
                let judged = match answer {
                    None | Some(Answer::Done) => Ok(place_in(pieces, &name, size, machine)),
                    Some(Answer::Refused) => may_refuse(&name, size, machine).map(|()| None),
                    Some(Answer::At(byte)) => self.may_give(&name, size, byte, machine).map(Some),
                };
                let at = match &judged {
                    Ok(at) => *at,
                    Err(_) => None,
                };
                // A wrong answer is followed by the right one, so that the picture shows it.
                let done = machine.allocate(Some(&name), size, at);
                debug_assert!(done.is_ok(), "the name is free");
                judged.map(|_| ())
            }
            Request::FreeName(_) | Request::FreeStart(_) => free(request, answer, machine),
            Request::Drain => Ok(()),
        }
    }

    /// Returns the unit that an answer names, if a block may be given there.
    fn may_give(
        &self,
        name: &str,
        size: Size,
        byte: u64,
        machine: &Machine<'_>,
    ) -> Result<usize, Found> {
        let memory = machine.memory();
        let at = crate::input::size::exact(byte);
        let no_picture = |rule, why: String| Err((Broken::new(rule, why), None));
        let Some(order) = size.order.filter(|order| order.pages() <= memory.units) else {
            let why = format!(
                "{name} asks for {}, which is more than all memory. The right answer is none.",
                crate::input::size::short(size.bytes)
            );
            return no_picture(Rule::Outside, why);
        };
        let needed = memory.size_of(order.pages());
        if byte % memory.unit != 0 {
            let unit = memory.size_of(1);
            return no_picture(
                Rule::Aligned,
                format!("The answer is byte {byte}, inside a unit of {unit}."),
            );
        }
        let start = usize::try_from(byte / memory.unit).ok().filter(|start| {
            start.checked_add(order.pages()).is_some_and(|end| end <= memory.units)
        });
        let Some(start) = start else {
            let why = format!(
                "{name} needs {needed}, which at {at} would reach beyond the end of memory at {}.",
                memory.size()
            );
            return no_picture(Rule::Outside, why);
        };
        let theirs = || Some(Picture::marked(machine, start, order.pages(), name));
        if start % order.pages() != 0 {
            let why =
                format!("{name} needs a block of {needed}, and {at} is no multiple of {needed}.");
            return Err((Broken::new(Rule::Aligned, why), theirs()));
        }
        if let Some(why) = overlap(machine, start, order.pages()) {
            return Err((
                Broken::new(Rule::Overlap, format!("{name} is given {needed} at {at}, but {why}.")),
                theirs(),
            ));
        }
        match self.against_policy(start, order, machine) {
            Some(why) => {
                Err((Broken::new(Rule::Policy, format!("{name} is given {at}. {why}")), theirs()))
            }
            None => Ok(start),
        }
    }

    fn against_policy(&self, start: usize, order: Order, machine: &Machine<'_>) -> Option<String> {
        let memory = machine.memory();
        let fits = machine.free_blocks().filter(|(_, free)| *free >= order);
        let (best, smallest) = fits.min_by_key(|(begin, free)| (*free, *begin))?;
        let size = memory.size_of(smallest.pages());
        let (_, chosen) = machine
            .free_blocks()
            .find(|(begin, free)| (*begin..begin + free.pages()).contains(&start))?;
        match self.policy {
            Policy::Smallest if chosen != smallest => Some(format!(
                "It was split from a block of {}, but a block of {size} was free at {}.",
                memory.size_of(chosen.pages()),
                memory.size_of(best)
            )),
            Policy::Lowest if start != best => Some(format!(
                "Of the smallest free blocks that are large enough ({size}), the lowest is at {}.",
                memory.size_of(best)
            )),
            Policy::Any | Policy::Smallest | Policy::Lowest => None,
        }
    }
}

/// Returns the place of a block without an answer. If the next claimed state shows the block in
/// free memory, it is there. Otherwise it is at a place where the claim shows no later block.
fn place_in(pieces: &[Piece<'_>], name: &str, size: Size, machine: &Machine<'_>) -> Option<usize> {
    let units = size.order.filter(|_| !pieces.is_empty())?.pages();
    let shown = pieces.iter().find(|piece| piece.owner == Some(name)).map(|piece| piece.start);
    let mut is_later = vec![false; machine.memory().units];
    for piece in pieces {
        let owner = piece.owner.filter(|owner| machine.start_of(owner).is_none());
        if owner.is_some_and(|owner| owner != name) {
            let end = (piece.start + piece.units).min(is_later.len());
            is_later[piece.start.min(end)..end].fill(true);
        }
    }
    let mut first = None;
    for (start, free) in machine.free_blocks().filter(|(_, free)| free.pages() >= units) {
        let starts = (start..start + free.pages()).step_by(units);
        if shown.is_some_and(|shown| starts.clone().any(|start| start == shown)) {
            return shown;
        }
        let is_left = |start: &usize| !is_later[*start..start + units].contains(&true);
        first = first.or_else(|| starts.clone().find(is_left));
    }
    first
}

fn may_refuse(name: &str, size: Size, machine: &Machine<'_>) -> Result<(), Found> {
    let memory = machine.memory();
    let Some(order) = size.order else { return Ok(()) };
    let mut fits = machine.free_blocks().filter(|(_, free)| *free >= order);
    let Some((start, free)) = fits.next() else { return Ok(()) };
    let why = format!(
        "{name} needs {}, and {} is free at {}. Perhaps free buddies were not merged.",
        memory.size_of(order.pages()),
        memory.size_of(free.pages()),
        memory.size_of(start)
    );
    Err((Broken::new(Rule::Refusal, why), Some(Picture::of(machine))))
}

fn free(
    request: &Request<'_>,
    answer: Option<Answer>,
    machine: &mut Machine<'_>,
) -> Result<(), Found> {
    let before = (answer == Some(Answer::Refused)).then(|| Picture::of(machine));
    let is_double = match *request {
        Request::FreeName(name) => machine.was_freed(name),
        Request::FreeStart(start) => machine
            .free_blocks()
            .any(|(begin, order)| (begin..begin + order.pages()).contains(&start)),
        Request::Allocate { .. } | Request::Drain => false,
    };
    match (machine.perform(request), answer) {
        (Ok(()), Some(Answer::Refused)) => {
            let why = "The block is allocated, so its free must be done.";
            Err((Broken::new(Rule::Refusal, why), before))
        }
        (Ok(()), _) | (Err(_), Some(Answer::Refused)) => Ok(()),
        (Err(why), _) => {
            let rule = if is_double { Rule::DoubleFree } else { Rule::Request };
            Err((Broken::new(rule, why), None))
        }
    }
}
