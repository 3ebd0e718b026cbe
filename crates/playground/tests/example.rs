//! The worked example of 16 KiB: the scene and the judge agree with the states of the course page.

use std::fs;

use playground::{answer, judge::judge};

/// Returns the example of `kmem`, which has a state on each line.
fn course_page() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../kmem/src/walkthrough/example-16k.txt");
    fs::read_to_string(path).expect("kmem has the example")
}

/// Returns the states of the course page.
fn states(page: &str) -> Vec<String> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once("=>"))
        .map(|(_, state)| state.trim().to_owned())
        .collect()
}

/// Returns the state after `position` steps.
fn plain(script: &str, position: usize) -> String {
    let json = answer(&format!("buddy {position}\n{script}"));
    let (_, rest) = json.split_once("\"plain\":\"").unwrap_or_else(|| panic!("no state: {json}"));
    assert!(!json.contains("\"complaint\""), "{json}");
    rest.split('"').next().expect("a text ends").to_owned()
}

#[test]
fn the_scene_has_the_thirteen_states_of_the_course_page() {
    let page = course_page();
    let states = states(&page);
    assert_eq!(states.len(), 13);
    for (index, state) in states.iter().enumerate() {
        // The page's first line, `start`, is a step that does nothing.
        assert_eq!(plain(&page, index + 1), *state, "state {index}");
    }
}

#[test]
fn the_first_example_of_the_page_has_the_same_states() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/page/buddy.js");
    let script = fs::read_to_string(path).expect("the page has a tab for the buddy");
    let (_, example) = script.split_once("const EXAMPLE = `").expect("it has an example");
    let (example, _) = example.split_once('`').expect("the example ends");
    for (index, state) in states(&course_page()).iter().enumerate() {
        assert_eq!(plain(example, index), *state, "state {index}");
    }
}

#[test]
fn the_judge_finds_the_course_page_right_and_each_change_of_a_state_wrong() {
    let page = course_page();
    let verdict = judge(&page);
    assert!(verdict.is_right(), "{verdict}");
    let lines: Vec<&str> = page.lines().collect();
    let mut changed = 0;
    for (index, line) in lines.iter().enumerate() {
        let Some((requests, state)) = line.split_once("=>") else { continue };
        if line.starts_with('#') {
            continue;
        }
        for other in states(&page) {
            if other == state.trim() {
                continue;
            }
            let mut wrong = lines.clone();
            let line = format!("{requests}=> {other}");
            wrong[index] = &line;
            let verdict = judge(&wrong.join("\n"));
            assert_eq!(verdict.wrong_line(), Some(index + 1), "{line}: {verdict}");
            changed += 1;
        }
    }
    assert_eq!(changed, 13 * 12);
}

#[test]
fn the_examples_of_the_book_are_understood() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/src/playground.md");
    let book = fs::read_to_string(path).expect("the book has a chapter");
    let (_, example) = book.rsplit_once("counts bytes:").expect("an example is last");
    let verdict = judge(example);
    assert!(verdict.is_right(), "{verdict}");
    // Each line of the judge's table is understood by itself.
    let (_, table) = book.split_once("buddy-judge").expect("the judge has a section");
    let lines = table.lines().filter(|line| line.starts_with("| `"));
    let lines: Vec<_> = lines.filter_map(|line| line.split('`').nth(1)).collect();
    assert_eq!(lines.len(), 7);
    for line in lines {
        let text = judge(line).to_string();
        assert!(!text.contains("not understood"), "{line}: {text}");
    }
}
