//! The scene of a slab cache: slabs that fill with colours, over the sets of a CPU cache, and the
//! magazines of two CPUs.
//!
//! ```text
//! objects 640             bytes of an object; `uncoloured` at the end turns colours off
//! alloc 3                 three objects for the current CPU
//! free 7                  frees object 7; `free last`, `free all`
//! cpu 1                   CPU 1 is the current one from here on
//! shrink                  the cache releases every slab without an object in use
//! ```

mod cache;
mod script;
mod state;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use page_frame::SwitchedCpu;

use crate::input::complaint::Complaint;
use crate::input::limits::MAX_STEPS;
use crate::input::script::{Line, lines};
use crate::json::{Json, texts};
use crate::page_memory::PageMemory;
use cache::SceneCache;
use script::CPUS;

/// Replays the first `position` steps of `text`, and returns the state after them as JSON.
///
/// A step that is refused ends the replay: the state is the one before it, with a complaint.
pub(crate) fn show(text: &str, position: usize) -> Result<String, Complaint> {
    let mut lines: Vec<Line<'_>> = lines(text).collect();
    let options = script::take_options(&mut lines)?;
    if lines.len() > MAX_STEPS {
        let last = lines[MAX_STEPS].number;
        return Err(Complaint::new(last, format!("The page replays at most {MAX_STEPS} steps.")));
    }
    let cannot = |error: &dyn core::fmt::Display| {
        Complaint::new(1, format!("No cache can be built: {error}."))
    };
    let cpus = SwitchedCpu::new(CPUS);
    let mut memory = PageMemory::new(CPUS);
    let base = memory.start_address();
    let buddy = memory.buddy(&cpus).map_err(|error| cannot(&error))?;
    let mut cache =
        SceneCache::new(&buddy, &cpus, base, &options).map_err(|message| cannot(&message))?;
    let mut complaint = None;
    let mut done = 0;
    let mut said = String::new();
    for line in lines.iter().take(position) {
        match script::parse(line.text).and_then(|request| cache.perform(&request)) {
            Ok(sentence) => said = sentence,
            Err(message) => {
                complaint =
                    Some(Json::object().number("line", line.number).text("message", &message));
                break;
            }
        }
        done += 1;
    }
    let steps = texts(lines.iter().map(|line| line.text));
    let json = state::json(&cache, &said).number("position", done).member("steps", steps);
    Ok(json.maybe("complaint", complaint).finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(json: &str, key: &str) -> String {
        let (_, rest) = json.split_once(&format!("\"{key}\":")).expect("the key is there");
        rest.split([',', '}', ']']).next().expect("a value").into()
    }

    #[test]
    fn slabs_of_a_coloured_cache_begin_in_different_sets() {
        let sets = |options: &str| {
            let json = show(&format!("objects 640 {options}\nalloc 20"), 9).expect("a state");
            let mut offsets = Vec::new();
            for part in json.split("\"colour\":").skip(1) {
                offsets.push(
                    part.split(',').next().expect("a number").parse::<usize>().expect("a number"),
                );
            }
            offsets
        };
        let coloured = sets("");
        assert!(coloured.len() >= 3 && coloured[0] != coloured[1], "{coloured:?}");
        assert!(sets("uncoloured").iter().all(|offset| *offset == 0));
    }

    #[test]
    fn an_object_is_freed_once() {
        let json = show("alloc 2\nfree 1\nfree 1", 9).expect("a state");
        assert!(json.contains("Object 1 is free already"), "{json}");
        assert_eq!((member(&json, "position"), member(&json, "held")), ("2".into(), "1".into()));
        let json = show("alloc 1\nfree 9", 9).expect("a state");
        assert!(json.contains("There was no object 9"), "{json}");
    }

    #[test]
    fn memory_that_runs_out_is_said() {
        let json = show("objects 2048\nalloc 1000", 9).expect("a state");
        assert!(json.contains("The page source has no page left"), "{json}");
        assert!(!json.contains("complaint"), "{json}");
    }

    #[test]
    fn a_shrunk_cache_without_objects_has_no_slab() {
        let json = show("alloc 50\ncpu 1\nfree all\nshrink", 9).expect("a state");
        assert!(json.contains(r#""slabs":[]"#), "{json}");
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for text in [
            "grow",
            "alloc x",
            "alloc 1001",
            "free",
            "cpu 2",
            "free -1",
            "alloc 99999999999999999999",
        ] {
            let json = show(text, 9).expect("a state");
            assert!(json.contains("complaint"), "{text}: {json}");
        }
        for text in ["objects 0", "objects 4096", "objects 640 green", "objects"] {
            assert!(show(text, 9).is_err(), "{text}");
        }
    }
}
