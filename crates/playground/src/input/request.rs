//! Requests of a buddy script, and the answers that a judged allocator gave to them.
//!
//! ```text
//! alloc A 3.6K            a block for 3.6 KiB, called A
//! alloc 3                 a block for 3 units, with the next free name
//! alloc A order 2         a block of 4 units
//! alloc A 2 at 8K         the block of 2 units at 8 KiB, and no other
//! alloc A 2 -> 8K         with an answer: it was given at 8 KiB (`-> none`: refused)
//! free A                  frees A
//! free 8                  frees the block that starts at unit 8
//! free A -> error         with an answer: it was refused
//! drain                   empties the CPU's slot
//! ```
//!
//! `allocate` is `alloc` as the course page has it: there a number without a suffix counts bytes.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use page_frame::Order;

use crate::input::complaint::quoted;
use crate::input::names;
use crate::input::script::Memory;
use crate::input::size::{self, Plain};

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request<'t> {
    /// Allocates a block.
    Allocate { name: Option<&'t str>, size: Size, at: Option<usize> },
    /// Frees the block of that name.
    FreeName(&'t str),
    /// Frees the block that starts at that unit.
    FreeStart(usize),
    /// Empties the CPU's slot.
    Drain,
}

/// The size of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    /// As asked for.
    pub(crate) bytes: u64,
    /// The smallest order that holds it; `None` if it is larger than every block.
    pub(crate) order: Option<Order>,
}

/// The answer of a judged allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The block begins at this byte.
    At(u64),
    /// The request was refused.
    Refused,
    /// The free was done.
    Done,
}

/// Reads one request, with its answer if it has one.
///
/// # Errors
/// A sentence that says what is not understood.
pub(crate) fn parse<'t>(
    text: &'t str,
    memory: &Memory,
) -> Result<(Request<'t>, Option<Answer>), String> {
    let (text, answer) = match text.split_once("->") {
        Some((request, answer)) => (request, Some(answer.trim())),
        None => (text, None),
    };
    let words: Vec<&str> = text.split_whitespace().collect();
    let Some((verb, rest)) = words.split_first() else {
        return Err("There is an answer, but no request before it.".into());
    };
    let request = match (verb.to_ascii_lowercase().as_str(), rest) {
        ("alloc" | "a", rest) => allocate(rest, Plain::Units, memory)?,
        ("allocate", rest) => allocate(rest, Plain::Bytes, memory)?,
        ("free" | "f", [target]) => free(target, memory)?,
        ("free" | "f", _) => {
            return Err("`free` needs one name, or one start: free A, free 8.".into());
        }
        ("drain", []) => Request::Drain,
        _ => {
            return Err(format!("{} is not a request. Requests are alloc and free.", quoted(verb)));
        }
    };
    let is_free = matches!(request, Request::FreeName(_) | Request::FreeStart(_));
    let answer = answer.map(|answer| parse_answer(answer, is_free, memory)).transpose()?;
    Ok((request, answer))
}

fn allocate<'t>(words: &[&'t str], plain: Plain, memory: &Memory) -> Result<Request<'t>, String> {
    let (words, at) = match words {
        [words @ .., at, start] if at.eq_ignore_ascii_case("at") => {
            (words, Some(start_of(start, memory)?))
        }
        _ => (words, None),
    };
    let (words, order) = match words {
        [words @ .., order, number] if order.eq_ignore_ascii_case("order") => {
            (words, Some(*number))
        }
        _ => (words, None),
    };
    let (name, size) = match (words, order) {
        ([], Some(number)) => (None, order_size(number, memory)?),
        ([name], Some(number)) => (Some(names::check(name)?), order_size(number, memory)?),
        ([size], None) => (None, unit_size(size, plain, memory)?),
        ([name, size], None) => (Some(names::check(name)?), unit_size(size, plain, memory)?),
        _ => return Err("`alloc` needs a name and a size: alloc A 3.6K.".into()),
    };
    Ok(Request::Allocate { name, size, at })
}

fn unit_size(text: &str, plain: Plain, memory: &Memory) -> Result<Size, String> {
    let bytes = size::bytes(text, plain, memory.unit)?;
    if bytes == 0 {
        return Err("A request of no bytes needs no block. Ask for at least 1B.".into());
    }
    let units = usize::try_from(bytes.div_ceil(memory.unit)).ok();
    Ok(Size { bytes, order: units.and_then(Order::for_pages) })
}

fn order_size(text: &str, memory: &Memory) -> Result<Size, String> {
    let order = text.parse().ok().and_then(Order::new);
    let order = order.ok_or_else(|| {
        format!("{} is not an order. Orders are 0 to {}.", quoted(text), Order::MAX.get())
    })?;
    Ok(Size { bytes: order.pages() as u64 * memory.unit, order: Some(order) })
}

fn free<'t>(target: &'t str, memory: &Memory) -> Result<Request<'t>, String> {
    if target.starts_with(|first: char| first.is_ascii_digit()) {
        return start_of(target, memory).map(Request::FreeStart);
    }
    names::check(target).map(Request::FreeName)
}

/// Returns the unit that begins at an offset.
pub(crate) fn start_of(text: &str, memory: &Memory) -> Result<usize, String> {
    let bytes = size::bytes(text, Plain::Units, memory.unit)?;
    if bytes % memory.unit != 0 {
        let unit = size::short(memory.unit);
        return Err(format!(
            "{} is inside a unit. Blocks begin at multiples of {unit}.",
            quoted(text)
        ));
    }
    match usize::try_from(bytes / memory.unit) {
        Ok(unit) if unit < memory.units => Ok(unit),
        _ => Err(format!("{} is not in memory, which ends at {}.", quoted(text), memory.size())),
    }
}

fn parse_answer(text: &str, is_free: bool, memory: &Memory) -> Result<Answer, String> {
    match text.to_ascii_lowercase().as_str() {
        "none" | "null" | "fail" | "failed" | "oom" | "error" | "-1" => Ok(Answer::Refused),
        "ok" | "done" if is_free => Ok(Answer::Done),
        _ if is_free => {
            Err(format!("{} is not an answer to a free. Answers are ok and error.", quoted(text)))
        }
        "" => {
            Err("The answer after -> is missing. Answers are a start, such as 8K, or none.".into())
        }
        _ => size::bytes(text, Plain::Units, memory.unit).map(Answer::At).map_err(|_| {
            format!("{} is not an answer. Answers are a start, such as 8K, or none.", quoted(text))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(text: &str) -> Result<(Request<'_>, Option<Answer>), String> {
        parse(text, &Memory::default())
    }

    fn sized(bytes: u64, order: u8) -> Size {
        Size { bytes, order: Order::new(order) }
    }

    #[test]
    fn every_form_of_a_request_is_read() {
        let cases = [
            ("alloc A 3.6K", Request::Allocate { name: Some("A"), size: sized(3687, 2), at: None }),
            ("ALLOC 3", Request::Allocate { name: None, size: sized(3072, 2), at: None }),
            (
                "alloc x order 3",
                Request::Allocate { name: Some("x"), size: sized(8192, 3), at: None },
            ),
            (
                "alloc order 0 at 8K",
                Request::Allocate { name: None, size: sized(1024, 0), at: Some(8) },
            ),
            (
                "allocate I 850",
                Request::Allocate { name: Some("I"), size: sized(850, 0), at: None },
            ),
            ("free A", Request::FreeName("A")),
            ("free 8K", Request::FreeStart(8)),
            ("drain", Request::Drain),
        ];
        for (text, request) in cases {
            assert_eq!(ask(text), Ok((request, None)), "{text}");
        }
        let request = Request::Allocate { name: None, size: sized(3072, 2), at: None };
        assert_eq!(ask("alloc 3 -> 0"), Ok((request.clone(), Some(Answer::At(0)))));
        assert_eq!(ask("alloc 3 -> none"), Ok((request, Some(Answer::Refused))));
        assert_eq!(ask("free A->ok"), Ok((Request::FreeName("A"), Some(Answer::Done))));
    }

    #[test]
    fn a_request_larger_than_every_block_has_no_order() {
        let Ok((Request::Allocate { size, .. }, None)) = ask("alloc A 99999999G") else {
            panic!("a request")
        };
        assert_eq!(size.order, None);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let cases = [
            ("grow A 3", "\"grow\" is not a request. Requests are alloc and free."),
            ("alloc", "`alloc` needs a name and a size: alloc A 3.6K."),
            ("alloc A 0", "A request of no bytes needs no block. Ask for at least 1B."),
            ("alloc A order 30", "\"30\" is not an order. Orders are 0 to 29."),
            ("alloc A 1 at 16", "\"16\" is not in memory, which ends at 16K."),
            ("free", "`free` needs one name, or one start: free A, free 8."),
            ("free 1.5K", "\"1.5K\" is inside a unit. Blocks begin at multiples of 1K."),
            ("free A -> 3", "\"3\" is not an answer to a free. Answers are ok and error."),
            (
                "alloc A 1 ->",
                "The answer after -> is missing. Answers are a start, such as 8K, or none.",
            ),
            ("-> 3", "There is an answer, but no request before it."),
        ];
        for (text, message) in cases {
            assert_eq!(ask(text), Err(message.into()), "{text}");
        }
    }
}
