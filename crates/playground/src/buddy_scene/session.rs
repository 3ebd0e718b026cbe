//! A session with the buddy: its machine stays between two questions, and performs only the steps
//! that are new.
//!
//! # Concepts
//! A script determines every state. So a machine that performed the first steps of a script may
//! perform the next ones, and its state is that of a new machine. A session keeps the text of what
//! its machine performed. It begins again where a script differs from it, as after an undo.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ptr::NonNull;

use super::machine::{Machine, MachineMemory, Step};
use super::state;
use crate::input::complaint::Complaint;
use crate::input::limits::MAX_STEPS;
use crate::input::request;
use crate::input::script::{self, Line, Memory};
use crate::json::Json;

/// The buddy's part of the page.
#[derive(Default)]
pub(crate) struct Session {
    kept: Option<Kept>,
}

/// A machine and what it performed.
struct Kept {
    machine: OwnMachine,
    /// The steps that were performed, in order.
    performed: Vec<String>,
    /// The effects of the last one.
    step: Step,
}

impl Session {
    /// A session that has performed nothing.
    pub(crate) const fn new() -> Self {
        Self { kept: None }
    }

    /// Performs the first `position` steps of `text`, and returns the state after them as JSON.
    ///
    /// A step that cannot be performed is left out, with all later ones: the state is then the one
    /// before it.
    pub(crate) fn show(&mut self, text: &str, position: usize) -> Result<String, Complaint> {
        let mut lines: Vec<Line<'_>> = script::lines(text).collect();
        let memory = script::take_memory(&mut lines)?;
        if lines.len() > MAX_STEPS {
            let last = lines[MAX_STEPS].number;
            let message = format!("The page replays at most {MAX_STEPS} steps.");
            return Err(Complaint::new(last, message));
        }
        script::check_requests(&lines)?;
        lines.truncate(position);
        let mut complaint = None;
        let kept = loop {
            let mut kept = match self.kept.take() {
                Some(kept) if kept.is_prefix(&memory, &lines) => kept,
                _ => Kept::new(memory.clone())?,
            };
            match kept.perform(&lines) {
                Ok(()) => break self.kept.insert(kept),
                Err(refused) => {
                    // The machine performed a part of the step, so a new one takes its place.
                    lines.truncate(kept.performed.len());
                    complaint = Some(refused);
                }
            }
        };
        let json =
            state::json(&mut kept.machine.machine, &kept.step).number("position", lines.len());
        let complaint = complaint.map(|Complaint { line, message }| {
            Json::object().number("line", line).text("message", &message)
        });
        Ok(json.maybe("complaint", complaint).finish())
    }
}

impl Kept {
    fn new(memory: Memory) -> Result<Self, Complaint> {
        Ok(Self { machine: OwnMachine::new(memory)?, performed: Vec::new(), step: Step::default() })
    }

    /// Returns whether the machine has performed the first ones of `lines` and nothing else.
    fn is_prefix(&self, memory: &Memory, lines: &[Line<'_>]) -> bool {
        self.machine.machine.memory() == memory
            && self.performed.len() <= lines.len()
            && self.performed.iter().zip(lines).all(|(performed, line)| performed == line.text)
    }

    /// Performs those of `lines` that were not performed yet. An error ends it within a step.
    fn perform(&mut self, lines: &[Line<'_>]) -> Result<(), Complaint> {
        for line in &lines[self.performed.len()..] {
            self.machine.machine.begin_step();
            perform(&mut self.machine.machine, line)
                .map_err(|message| Complaint::new(line.number, message))?;
            self.step = self.machine.machine.end_step();
            self.performed.push(line.text.to_string());
        }
        Ok(())
    }
}

fn perform(machine: &mut Machine<'_>, line: &Line<'_>) -> Result<(), String> {
    // The notation of the course page ends with the state.
    let requests = line.text.split("=>").next().unwrap_or("");
    for text in requests.split(';').map(str::trim) {
        if text.is_empty() || text.eq_ignore_ascii_case("start") {
            continue;
        }
        let (request, answer) = request::parse(text, machine.memory())?;
        if answer.is_some() {
            return Err("Answers are for the judge. Here the real allocator answers.".into());
        }
        machine.perform(&request)?;
    }
    Ok(())
}

/// A machine that owns the memory of its metadata.
///
/// # Invariants
/// - I1: `machine` uses the value at `memory`, and nothing else does until it is dropped. The
///   fields are dropped in this order: `machine` first.
struct OwnMachine {
    machine: Machine<'static>,
    _memory: OwnMemory,
}

/// Memory on the heap that is freed when this is dropped.
struct OwnMemory(NonNull<MachineMemory>);

impl OwnMachine {
    fn new(memory: Memory) -> Result<Self, Complaint> {
        let own = OwnMemory(NonNull::from(Box::leak(Box::new(MachineMemory::new(&memory)))));
        let mut space = own.0;
        // SAFETY: I1: the value was just leaked, so it stays until `own` is dropped, which is after
        // the machine; this is the only reference to it.
        let space = unsafe { space.as_mut() };
        let machine = Machine::new(space, memory)
            .map_err(|error| Complaint::new(1, format!("No allocator can be built: {error}.")))?;
        Ok(Self { machine, _memory: own })
    }
}

impl Drop for OwnMemory {
    fn drop(&mut self) {
        // SAFETY: the value came from a box in `OwnMachine::new`, and by I1 nothing uses it any
        // more.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

#[cfg(test)]
mod tests {
    use testkit::Random;

    use super::*;

    /// A session gets scripts that grow, shrink, and differ in a step or in their memory. Each
    /// answer is that of a new session.
    ///
    /// Mutation that it catches: `is_prefix` compares only the number of steps.
    #[test]
    fn a_kept_machine_answers_as_a_new_one() {
        let mut random = Random::new(5);
        let mut session = Session::new();
        let mut steps: Vec<String> = Vec::new();
        let mut memory = "memory 64K unit 1K";
        let mut complaints = 0;
        for _ in 0..600 {
            match random.below(10) {
                0 => memory = ["memory 64K unit 1K", "memory 48K unit 1K slot"][random.below(2)],
                1 if !steps.is_empty() => _ = steps.remove(random.below(steps.len())),
                2 => steps.truncate(random.below(steps.len() + 1)),
                3 => steps.push("alloc 3; free C; free C".to_string()),
                4..7 => steps.push(format!("free {}", char::from(b'A' + random.below(9) as u8))),
                _ => steps.push(format!("alloc {}", 1 + random.below(9))),
            }
            let text = format!("{memory}\n{}", steps.join("\n"));
            let position = random.below(steps.len() + 2);
            let answer = session.show(&text, position).expect("a state");
            assert_eq!(Ok(&answer), Session::new().show(&text, position).as_ref(), "{text}");
            complaints += usize::from(answer.contains("complaint"));
            if answer.contains("complaint") && random.below(2) == 0 {
                steps.clear();
            }
        }
        assert!((50..550).contains(&complaints), "{complaints} complaints");
    }

    /// Mutation that it catches: `show` keeps the machine that performed a part of a step.
    #[test]
    fn a_refused_step_is_left_out_as_a_whole() {
        let json = Session::new().show("alloc A 3\nfree A; free A\nalloc B 1", 3).expect("a state");
        assert!(json.contains(r#""plain":"4A 4- 8-""#), "{json}");
        assert!(json.contains(r#""position":1"#), "{json}");
        assert!(json.contains("A is free already"), "{json}");
    }
}
