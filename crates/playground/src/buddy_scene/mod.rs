//! The scene of the buddy: blocks that split and merge, on the real allocator.

mod blocks;
pub(crate) mod machine;
mod session;
mod state;
mod trace_log;
mod words;

pub(crate) use blocks::{blocks_json, plain};
pub(crate) use session::Session;

#[cfg(test)]
mod tests {
    use alloc::string::String;

    use super::Session;
    use crate::input::complaint::Complaint;
    use crate::input::limits::MAX_STEPS;

    fn show(text: &str, position: usize) -> Result<String, Complaint> {
        Session::new().show(text, position)
    }

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
        assert!(json.contains(r#""plain":"8? 8? 16- "#), "{json}");
        assert!(json.contains(r#"[0,8,"cached"]"#), "{json}");
        assert!(json.contains("The CPU's slot keeps the block"), "{json}");
    }

    #[test]
    fn too_many_steps_are_refused() {
        let text = "alloc 1\n".repeat(MAX_STEPS + 1);
        assert_eq!(show(&text, 1).map_err(|complaint| complaint.line), Err(MAX_STEPS + 1));
    }
}
