//! The script of the slab scene: options of the cache, and requests.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::input::complaint::{Complaint, quoted};
use crate::input::limits::MAX_COUNT;
use crate::input::script::Line;

/// Sizes of objects in bytes, for which a slab is one page and can be drawn.
const SIZES: core::ops::RangeInclusive<usize> = 64..=2048;

/// CPUs of the scene.
pub(super) const CPUS: usize = 2;

/// The options of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) object_bytes: usize,
    pub(super) is_coloured: bool,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Allocate(usize),
    Free(usize),
    FreeLast,
    FreeAll,
    SwitchTo(u32),
    Shrink,
}

/// Takes the line of the options off `lines`, if it is there.
///
/// # Errors
/// A complaint when the line is not understood.
pub(super) fn take_options(lines: &mut Vec<Line<'_>>) -> Result<Options, Complaint> {
    let default = Options { object_bytes: 640, is_coloured: true };
    let Some(first) = lines.first().copied() else { return Ok(default) };
    let words: Vec<&str> = first.text.split_whitespace().collect();
    let (bytes, rest) = match &words[..] {
        ["objects", bytes, rest @ ..] => (*bytes, rest),
        ["objects"] => {
            let message = "`objects` needs a size in bytes: objects 640.";
            return Err(Complaint::new(first.number, message));
        }
        _ => return Ok(default),
    };
    let object_bytes = bytes.parse().ok().filter(|bytes| SIZES.contains(bytes));
    let object_bytes = object_bytes.ok_or_else(|| {
        let message = format!(
            "{} is not a size for objects here. Sizes are {} to {} bytes.",
            quoted(bytes),
            SIZES.start(),
            SIZES.end()
        );
        Complaint::new(first.number, message)
    })?;
    let is_coloured = match rest {
        [] => true,
        ["uncoloured"] => false,
        _ => {
            return Err(Complaint::new(
                first.number,
                "The only option of a cache is `uncoloured`.",
            ));
        }
    };
    lines.remove(0);
    Ok(Options { object_bytes, is_coloured })
}

/// Reads a request.
///
/// # Errors
/// A sentence that says what is not understood.
pub(super) fn parse(text: &str) -> Result<Request, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    match words[..] {
        ["alloc"] => Ok(Request::Allocate(1)),
        ["alloc", count] => match count.parse() {
            Ok(count @ 1..=MAX_COUNT) => Ok(Request::Allocate(count)),
            _ => {
                Err(format!("{} is not a number of objects from 1 to {MAX_COUNT}.", quoted(count)))
            }
        },
        ["free", "last"] => Ok(Request::FreeLast),
        ["free", "all"] => Ok(Request::FreeAll),
        ["free", object] => object
            .parse()
            .map(Request::Free)
            .map_err(|_| format!("{} is not the number of an object.", quoted(object))),
        ["cpu", cpu] => match cpu.parse() {
            Ok(cpu) if (cpu as usize) < CPUS => Ok(Request::SwitchTo(cpu)),
            _ => Err(format!("{} is not a CPU. There are {CPUS}: 0 and 1.", quoted(cpu))),
        },
        ["shrink"] => Ok(Request::Shrink),
        _ => Err(format!(
            "{} is not a request. Requests are alloc, free, cpu and shrink.",
            quoted(text)
        )),
    }
}
