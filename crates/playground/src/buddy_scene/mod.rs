//! The scene of the buddy: blocks that split and merge, on the real allocator.

mod blocks;
pub(crate) mod machine;
mod state;
mod trace_log;
mod words;

use alloc::string::String;
use alloc::vec::Vec;

use crate::complaint::Complaint;
use crate::json::{Json, texts};
use crate::limits::MAX_STEPS;
use crate::request;
use crate::script::{self, Line};
pub(crate) use blocks::{blocks_json, plain};
use machine::{Machine, MachineMemory, Step};

/// Replays the first `position` steps of `text`, and returns the state after them as JSON.
///
/// A step that cannot be replayed ends the replay: the state is then the one before it.
pub(crate) fn show(text: &str, position: usize) -> Result<String, Complaint> {
    let mut lines: Vec<Line<'_>> = script::lines(text).collect();
    let memory = script::take_memory(&mut lines)?;
    if lines.len() > MAX_STEPS {
        let last = lines[MAX_STEPS].number;
        return Err(Complaint::new(
            last,
            alloc::format!("The page replays at most {MAX_STEPS} steps."),
        ));
    }
    script::check_requests(&lines)?;
    let mut space = MachineMemory::new(&memory);
    let mut machine = Machine::new(&mut space, memory).map_err(|error| {
        Complaint::new(1, alloc::format!("No allocator can be built: {error}."))
    })?;
    let mut step = Step::default();
    let mut complaint = None;
    let mut done = 0;
    for line in lines.iter().take(position) {
        machine.begin_step();
        if let Err(message) = perform(&mut machine, line) {
            complaint = Some(Complaint::new(line.number, message));
            break;
        }
        step = machine.end_step();
        done += 1;
    }
    let steps = texts(lines.iter().map(|line| line.text));
    let json = state::json(&mut machine, &step).number("position", done).member("steps", steps);
    let complaint = complaint.map(|Complaint { line, message }| {
        Json::object().number("line", line).text("message", &message)
    });
    Ok(json.maybe("complaint", complaint).finish())
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

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "memory 16K unit 1K\nalloc A 3.6K\nalloc B 1.5K\n\
        alloc C 1.2K; alloc D 1.9K; alloc E 2.7K\nfree C\n";

    fn plain_after(text: &str, position: usize) -> String {
        let json = show(text, position).expect("understood");
        let (_, rest) = json.split_once("\"plain\":\"").expect("a state");
        rest.split('"').next().expect("a text").into()
    }

    #[test]
    fn a_state_is_that_after_the_steps_up_to_the_position() {
        assert_eq!(plain_after(EXAMPLE, 0), "16-");
        assert_eq!(plain_after(EXAMPLE, 2), "4A 2B 2- 8-");
        assert_eq!(plain_after(EXAMPLE, 4), "4A 2B 2- 2D 2- 4E");
        assert_eq!(plain_after(EXAMPLE, usize::MAX), "4A 2B 2- 2D 2- 4E");
    }

    #[test]
    fn a_step_that_is_refused_leaves_the_state_before_it_and_says_why() {
        let json = show("alloc A 3\nfree A; free A\nalloc B 1", 3).expect("a state");
        assert!(json.contains(r#""complaint":{"line":2,"message":"A is free already"#), "{json}");
        assert!(json.contains(r#""position":1"#), "{json}");
    }

    #[test]
    fn memory_that_runs_out_is_no_complaint() {
        let json = show("alloc A 9K\nalloc B 1K", 2).expect("a state");
        assert!(!json.contains("complaint"), "{json}");
        assert!(json.contains("No free block is large enough"), "{json}");
        assert!(json.contains(r#""plain":"16A""#), "{json}");
    }

    #[test]
    fn a_block_that_needs_no_split_and_one_that_finds_no_buddy_say_so() {
        let text = "memory 12K\nalloc A 3K\nalloc B 4K\nfree A";
        assert!(show(text, 1).expect("a state").contains("No split is needed"));
        assert!(show(text, 3).expect("a state").contains("so nothing merges"));
    }

    #[test]
    fn what_the_slot_caches_is_shown_block_by_block() {
        let json = show("memory 1024 unit 4K slot\nalloc A order 3\nfree A", 2).expect("a state");
        assert!(json.contains(r#""plain":"8? 8- "#), "{json}");
        assert!(json.contains(r#"[0,8,"cached"]"#), "{json}");
        assert!(json.contains("The CPU's slot keeps the block"), "{json}");
    }

    #[test]
    fn too_many_steps_are_refused() {
        let text = "alloc 1\n".repeat(MAX_STEPS + 1);
        assert_eq!(show(&text, 1).map_err(|complaint| complaint.line), Err(MAX_STEPS + 1));
    }
}
