//! The judge: reads requests with the answers of another buddy allocator, and finds the first one
//! that is wrong.
//!
//! # Concepts
//! The real allocator performs the same requests and **follows** the answers: where the other
//! allocator chose another free block of the right order, the real one allocates that block too. So
//! only the rules decide about an answer:
//! - a block has the size of the request, rounded up to a power of two, and is aligned to it;
//! - all of it was free;
//! - a request is refused only if no free block is large enough;
//! - a block is freed once;
//! - two free buddies merge, and nothing else does.
//!
//! `policy smallest` and `policy lowest` add the rules of the textbook, for those who want them.
//!
//! ```text
//! memory 16K unit 1K
//! policy lowest               optional: any (the default), smallest, lowest
//! alloc A 3.6K -> 0           a request and its answer
//! list 2: 4                   optional: the free blocks of order 2 begin at 4, and nowhere else
//! state 4A 4- 8-              optional: all blocks from left to right, `-` is free
//! free A => 16-               the same at the end of a line
//! ```

mod answers;
mod claims;
mod rule;
mod statement;
mod verdict;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::buddy_scene::machine::{Machine, MachineMemory};
use crate::buddy_scene::plain;
use crate::input::complaint::Complaint;
use crate::input::limits::MAX_LINES;
use crate::input::script::{self, Line};
use rule::{Broken, Rule};
use statement::{Statement, statements};
pub use verdict::Verdict;
use verdict::{Checked, MAX_SHOWN, Picture, Wrong};

/// Judges `text`. No text makes it panic.
///
/// ```
/// use playground::judge::judge;
/// let right = judge("alloc A 3 -> 0\nalloc B 1 -> 12\nfree A -> ok");
/// assert!(right.is_right());
/// let wrong = judge("alloc A 3 -> 0\nalloc B 1 -> 2");
/// assert_eq!((wrong.is_right(), wrong.wrong_line()), (false, Some(2)));
/// assert!(wrong.to_string().contains("inside A"));
/// ```
pub fn judge(text: &str) -> Verdict {
    let mut verdict = Verdict::default();
    if let Err(Complaint { line, message }) = follow(text, &mut verdict) {
        let text = text.lines().nth(line.saturating_sub(1)).unwrap_or("").trim();
        let broken = Broken { rule: Rule::Format, why: message };
        verdict.wrong = Some(Wrong::without_pictures(line, text, broken));
    }
    verdict
}

/// Lets the real allocator follow the script, up to the first wrong line.
///
/// # Errors
/// A complaint about a line that is not understood.
fn follow(text: &str, verdict: &mut Verdict) -> Result<(), Complaint> {
    let mut lines: Vec<Line<'_>> = script::lines(text).collect();
    if let Some(line) = lines.get(MAX_LINES) {
        return Err(Complaint::new(
            line.number,
            format!("The judge reads at most {MAX_LINES} lines."),
        ));
    }
    let memory = script::take_memory(&mut lines)?;
    if memory.has_slot {
        return Err(Complaint::new(1, "The judge knows no CPU slot: it judges the buddy alone."));
    }
    script::check_requests(&lines)?;
    let statements = statements(&lines, &memory)?;
    let mut space = MachineMemory::new(&memory);
    let mut machine = Machine::new(&mut space, memory)
        .map_err(|error| Complaint::new(1, format!("No allocator can be built: {error}.")))?;
    verdict.memory = machine.memory().clone();
    let mut judge = answers::Judge::default();
    for Statement { line, kind } in &statements {
        machine.begin_step();
        let outcome = judge.check(kind, &mut machine);
        verdict.lines += 1;
        if let Err((broken, theirs)) = outcome {
            let right = Picture::of(&machine);
            verdict.wrong = Some(Wrong::new(*line, broken, theirs, right));
            break;
        }
        if verdict.steps.len() < MAX_SHOWN {
            let (number, text) = (line.number, String::from(line.text));
            verdict.steps.push(Checked { number, text, plain: plain(&machine, &[]) });
        }
    }
    (verdict.requests, verdict.answers) = (judge.requests, judge.answers);
    verdict.last = Some(Picture::of(&machine));
    Ok(())
}
