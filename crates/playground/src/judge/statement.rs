//! Lines of a judged script: requests with answers, and claims about the state.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use page_frame::Order;

use crate::input::complaint::{Complaint, quoted};
use crate::input::names;
use crate::input::request::{self, Answer, Request};
use crate::input::script::{Line, Memory};

/// Which free block an allocator must choose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Policy {
    /// Any that is large enough.
    #[default]
    Any,
    /// One of the smallest that are large enough.
    Smallest,
    /// Of those the lowest.
    Lowest,
}

/// A piece of a claimed state: its size in units, and its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece<'t> {
    pub(super) start: usize,
    pub(super) units: usize,
    pub(super) owner: Option<&'t str>,
}

/// The meaning of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind<'t> {
    /// Requests.
    Requests {
        requests: Vec<(Request<'t>, Option<Answer>)>,
        /// The state that is claimed next, in this line or below. It says where the blocks without
        /// an answer are.
        places: Rc<[Piece<'t>]>,
        /// Whether the state is claimed in this line.
        has_claim: bool,
    },
    /// The free blocks of an order.
    List(Order, Vec<usize>),
    /// The whole state.
    State(Rc<[Piece<'t>]>),
    /// The policy from here on.
    Policy(Policy),
}

/// A line and its meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Statement<'t> {
    pub(super) line: Line<'t>,
    pub(super) kind: Kind<'t>,
}

/// Reads all lines.
///
/// # Errors
/// A complaint about the first line that is not understood.
pub(super) fn statements<'t>(
    lines: &[Line<'t>],
    memory: &Memory,
) -> Result<Vec<Statement<'t>>, Complaint> {
    let mut statements: Vec<Statement<'t>> = Vec::new();
    for line in lines {
        let kind =
            kind(line.text, memory).map_err(|message| Complaint::new(line.number, message))?;
        if let Kind::State(pieces) = &kind {
            say_places(&mut statements, pieces);
        }
        statements.push(Statement { line: *line, kind });
    }
    Ok(statements)
}

/// Tells the requests at the end of `statements` that `pieces` is the next state.
fn say_places<'t>(statements: &mut [Statement<'t>], pieces: &Rc<[Piece<'t>]>) {
    for statement in statements.iter_mut().rev() {
        match &mut statement.kind {
            Kind::Requests { places, has_claim: false, .. } if places.is_empty() => {
                *places = Rc::clone(pieces);
            }
            Kind::List(..) | Kind::Policy(_) => {}
            Kind::Requests { .. } | Kind::State(_) => return,
        }
    }
}

fn kind<'t>(text: &'t str, memory: &Memory) -> Result<Kind<'t>, String> {
    let (verb, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    match verb.to_ascii_lowercase().as_str() {
        "policy" => policy(rest.trim()).map(Kind::Policy),
        "list" => list(rest.trim(), memory),
        "state" => pieces(rest, memory).map(Kind::State),
        _ => {
            let (requests, state) = match text.split_once("=>") {
                Some((requests, state)) => (requests, Some(pieces(state, memory)?)),
                None => (text, None),
            };
            let mut read = Vec::new();
            for text in requests.split(';').map(str::trim) {
                if text.is_empty() || text.eq_ignore_ascii_case("start") {
                    continue;
                }
                let (request, answer) = request::parse(text, memory)?;
                match request {
                    Request::Drain => {
                        return Err(
                            "The judge knows no CPU slot, so nothing can be drained.".into()
                        );
                    }
                    Request::Allocate { at: Some(_), .. } => {
                        return Err(
                            "The judge knows no `at`: write the place as the answer, -> 8K.".into(),
                        );
                    }
                    request => read.push((request, answer)),
                }
            }
            let has_claim = state.is_some();
            Ok(Kind::Requests {
                requests: read,
                places: state.unwrap_or_else(|| Rc::new([])),
                has_claim,
            })
        }
    }
}

fn policy(text: &str) -> Result<Policy, String> {
    match text.to_ascii_lowercase().as_str() {
        "any" => Ok(Policy::Any),
        "smallest" => Ok(Policy::Smallest),
        "lowest" => Ok(Policy::Lowest),
        _ => {
            Err(format!("{} is not a policy. Policies are any, smallest and lowest.", quoted(text)))
        }
    }
}

fn list<'t>(text: &'t str, memory: &Memory) -> Result<Kind<'t>, String> {
    let Some((order, starts)) = text.split_once(':') else {
        return Err("`list` needs an order and starts: list 2: 4, 12.".into());
    };
    let order = order
        .trim()
        .parse()
        .ok()
        .and_then(Order::new)
        .filter(|order| order.pages() <= memory.units);
    let order = order.ok_or("`list` needs an order that memory has: list 2: 4, 12.")?;
    let starts = starts.split([',', ' ', '\t']).filter(|start| !start.is_empty());
    let starts = starts.map(|start| request::start_of(start, memory));
    Ok(Kind::List(order, starts.collect::<Result<_, _>>()?))
}

fn pieces<'t>(text: &'t str, memory: &Memory) -> Result<Rc<[Piece<'t>]>, String> {
    let mut start = 0_usize;
    let mut pieces = Vec::new();
    for word in text.split_whitespace() {
        let digits = word.bytes().take_while(u8::is_ascii_digit).count();
        let (units, owner) = word.split_at(digits);
        let units = units.parse().ok().filter(|units| (1..=memory.units).contains(units));
        let units: usize = units.ok_or_else(|| {
            format!(
                "{} is not a block. A state is 4A 2B 2- 8-: units and a name, or - for free.",
                quoted(word)
            )
        })?;
        let owner = match owner {
            "-" => None,
            name => Some(names::check(name)?),
        };
        pieces.push(Piece { start, units, owner });
        start = start.saturating_add(units);
    }
    Ok(pieces.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::script::lines;

    fn one(text: &str) -> Result<Kind<'_>, String> {
        kind(text, &Memory::default())
    }

    #[test]
    fn claims_are_read() {
        assert_eq!(one("policy Lowest"), Ok(Kind::Policy(Policy::Lowest)));
        let order = Order::new(2).expect("order 2 exists");
        assert_eq!(one("list 2: 4, 12"), Ok(Kind::List(order, [4, 12].into())));
        assert_eq!(one("list 2:"), Ok(Kind::List(order, [].into())));
        let piece = |start, units, owner| Piece { start, units, owner };
        assert_eq!(
            one("state 4A 12-"),
            Ok(Kind::State([piece(0, 4, Some("A")), piece(4, 12, None)].into()))
        );
        for wrong in [
            "policy best",
            "list 2",
            "list 9: 0",
            "list 2: 99",
            "state A4",
            "state 4",
            "state 0-",
            "drain",
        ] {
            assert!(one(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_state_below_requests_says_where_their_blocks_are() {
        let all: Vec<_> = lines("alloc A 4\nstate 4A 4- 8-\nstate 4A 4- 8-").collect();
        let read = statements(&all, &Memory::default()).expect("understood");
        assert!(matches!(&read[0].kind, Kind::Requests { places, .. } if places.len() == 3));
        assert!(matches!(&read[1].kind, Kind::State(_)) && read.len() == 3);
    }
}
