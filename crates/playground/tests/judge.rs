//! The judge against a textbook buddy with lists, which chooses any free block, and against
//! answers that break one rule each.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use playground::judge::judge;
use testkit::Random;

/// A buddy allocator as the textbook has it: a set of free blocks for each order.
struct Textbook {
    free: Vec<BTreeSet<usize>>,
    /// Start and order of each block by name.
    live: BTreeMap<String, (usize, usize)>,
}

impl Textbook {
    fn new(orders: usize) -> Self {
        let mut free = vec![BTreeSet::new(); orders + 1];
        free[orders].insert(0);
        Self { free, live: BTreeMap::new() }
    }

    /// Allocates from a free block that `random` chooses, at a place in it that `random` chooses.
    fn allocate(&mut self, name: &str, order: usize, random: &mut Random) -> Option<usize> {
        let fits: Vec<(usize, usize)> = (order..self.free.len())
            .flat_map(|larger| self.free[larger].iter().map(move |start| (*start, larger)))
            .collect();
        let (mut start, mut size) = *fits.get(random.below(fits.len().max(1)))?;
        self.free[size].remove(&start);
        while size > order {
            size -= 1;
            let upper = start + (1 << size);
            let (kept, given) = if random.below(2) == 0 { (upper, start) } else { (start, upper) };
            self.free[size].insert(kept);
            start = given;
        }
        self.live.insert(name.to_owned(), (start, order));
        Some(start)
    }

    fn free(&mut self, name: &str) {
        let (mut start, mut order) = self.live.remove(name).expect("it is allocated");
        while order + 1 < self.free.len() && self.free[order].remove(&(start ^ 1 << order)) {
            start &= !(1 << order);
            order += 1;
        }
        self.free[order].insert(start);
    }

    fn is_free(&self, start: usize, order: usize) -> bool {
        let holds = |(size, starts): (usize, &BTreeSet<usize>)| {
            size >= order && starts.contains(&(start & !((1 << size) - 1)))
        };
        start % (1 << order) == 0 && self.free.iter().enumerate().any(holds)
    }
}

/// The lines of a run, and those with a block that was given: line number, order, state before.
struct Run {
    lines: Vec<String>,
    given: Vec<(usize, usize, Vec<BTreeSet<usize>>)>,
}

fn run(seed: u64, orders: usize) -> Run {
    let mut random = Random::new(seed);
    let mut book = Textbook::new(orders);
    let mut lines = vec![format!("memory {} unit 1K", 1 << orders)];
    let mut given = Vec::new();
    for number in 0..60 {
        let mut line = String::new();
        if book.live.is_empty() || random.below(5) < 3 {
            let order = random.below(orders);
            let name = format!("N{number}");
            let before = book.free.clone();
            let units = (1 << order) - if order > 1 { random.below(2) } else { 0 };
            let answer = match book.allocate(&name, order, &mut random) {
                Some(start) => {
                    given.push((lines.len() + 1, order, before));
                    start.to_string()
                }
                None => "none".into(),
            };
            write!(line, "alloc {name} {units} -> {answer}").expect("a string takes all");
        } else {
            let index = random.below(book.live.len());
            let name = book.live.keys().nth(index).expect("it is there").clone();
            book.free(&name);
            write!(line, "free {name} -> ok").expect("a string takes all");
        }
        lines.push(line);
        let order = random.below(orders + 1);
        let starts: Vec<String> = book.free[order].iter().rev().map(usize::to_string).collect();
        lines.push(format!("list {order}: {}", starts.join(", ")));
    }
    Run { lines, given }
}

#[test]
fn every_choice_of_a_textbook_buddy_is_right() {
    for seed in 0..40 {
        for orders in [1, 4, 7] {
            let Run { lines, .. } = run(seed, orders);
            let verdict = judge(&lines.join("\n"));
            assert!(verdict.is_right(), "seed {seed}: {verdict}\n{}", lines.join("\n"));
        }
    }
}

#[test]
fn a_changed_answer_is_wrong_exactly_when_no_such_block_was_free() {
    let (mut wrong, mut right) = (0, 0);
    for seed in 0..60 {
        let Run { lines, given } = run(seed, 4);
        let mut random = Random::new(seed ^ 0xfeed);
        for (line, order, before) in &given {
            let start = random.below(16);
            let book = Textbook { free: before.clone(), live: BTreeMap::new() };
            let (request, _) = lines[line - 1].split_once("->").expect("it has an answer");
            let mut changed = lines[..*line].to_vec();
            changed[line - 1] = format!("{request}-> {start}");
            let verdict = judge(&changed.join("\n"));
            let expected = if book.is_free(start, *order) { None } else { Some(*line) };
            assert_eq!(verdict.wrong_line(), expected, "seed {seed}: {verdict}");
            if expected.is_none() { right += 1 } else { wrong += 1 }
        }
    }
    assert!(wrong > 100 && right > 100, "{wrong} wrong and {right} right changes");
}

#[test]
fn a_refusal_is_wrong_exactly_when_a_block_was_free() {
    for seed in 0..20 {
        let Run { lines, given } = run(seed, 4);
        for (line, _, _) in &given {
            let (request, _) = lines[line - 1].split_once("->").expect("it has an answer");
            let mut changed = lines[..*line].to_vec();
            changed[line - 1] = format!("{request}-> none");
            assert_eq!(judge(&changed.join("\n")).wrong_line(), Some(*line), "seed {seed}");
        }
    }
}

#[test]
fn each_rule_has_its_name() {
    let cases = [
        ("alloc A 4 -> 0\nalloc B 2 -> 2", "overlap", "inside A"),
        ("alloc A 1 -> 1\nalloc B 4 -> 0", "overlap", "A has 1K to 2K"),
        ("alloc A 4 -> 2", "misaligned", "no multiple of 4K"),
        ("alloc A 1 -> 100B", "misaligned", "inside a unit"),
        ("alloc A 4 -> 14", "outside memory", "beyond the end"),
        ("alloc A 1 -> 99999999999", "outside memory", "beyond the end"),
        ("alloc A 17 -> 0", "outside memory", "more than all memory"),
        ("alloc A 8 -> none", "refused without need", "16K is free at 0"),
        ("alloc A 1 -> 0\nfree A -> error", "refused without need", "must be done"),
        ("alloc A 1 -> 0\nfree A\nfree A -> ok", "double free", "A is free already"),
        ("alloc A 1 -> 0\nfree A\nalloc B 1 -> 0\nfree A", "double free", "memory of B"),
        ("alloc A 1 -> 0\nfree 0\nfree 0", "double free", "free already"),
        ("alloc A 4 -> 0\nfree 2", "wrong request", "inside A"),
        ("free A", "wrong request", "never allocated"),
        ("alloc A 1\nalloc A 1", "wrong request", "allocated already"),
        ("alloc A 1 -> 0\nfree A\nlist 0: 0", "not merged", "1K at 0 and its buddy at 1K"),
        ("alloc A 4\nstate 4A 4- 4- 4-", "not merged", "4K at 8K and its buddy at 12K"),
        ("alloc A 4\nstate 4A 8- 4-", "merged without being buddies", "4K is no multiple of 8K"),
        ("alloc A 4\nstate 4A 12-", "merged without being buddies", "12 units are no power of two"),
        ("alloc A 4\nlist 3: 4", "merged without being buddies", "4K is no multiple of 8K"),
        ("alloc A 4\nlist 2:", "wrong state", "free at 4K"),
        ("alloc A 4\nlist 2: 4, 4", "wrong state", "listed twice"),
        ("alloc A 4\nlist 2: 0, 4", "overlap", "shown as free"),
        ("alloc A 4\nstate 4A 4-", "wrong state", "covers 8 units"),
        ("alloc A 4\nstate 4B 4- 8-", "wrong state", "shows B"),
        ("alloc A 4\nstate 2A 2- 4- 8-", "wrong state", "shows A with 2K"),
        ("alloc A 4\nstate 4- 4- 8-", "overlap", "A has 0 to 4K"),
        ("policy lowest\nalloc A 4 -> 4", "other than the policy", "lowest is at 0"),
        ("alloc A 4 -> 0\npolicy smallest\nalloc B 4 -> 8", "other than the policy", "free at 4K"),
        ("dance A", "not understood", "not a request"),
        ("alloc A 1 at 3", "not understood", "-> 8K"),
        ("memory 16K unit 3K", "not understood", "no power of two"),
        ("alloc A 1\nmemory 16K", "not understood", "the first one"),
        ("memory 16K slot", "not understood", "no CPU slot"),
    ];
    for (script, rule, why) in cases {
        let verdict = judge(script);
        let text = verdict.to_string();
        let lines = script.lines().count();
        let expected = if script.starts_with("memory") { 1 } else { lines };
        assert_eq!(verdict.wrong_line(), Some(expected), "{script}: {text}");
        assert!(text.contains(&format!("({rule})")) && text.contains(why), "{script}: {text}");
    }
}

#[test]
fn a_wrong_answer_is_found_before_the_state_below_it() {
    let verdict = judge("alloc A 4 -> 2\nstate 2- 4A 2- 8-");
    assert_eq!(verdict.wrong_line(), Some(1), "{verdict}");
    let verdict = judge("alloc A 4 -> 4\nstate 4A 4- 8-");
    assert_eq!(verdict.wrong_line(), Some(2), "{verdict}");
    assert!(verdict.to_string().contains("line:   state 4A 4- 8-"), "{verdict}");
}

#[test]
fn policies_accept_what_they_ask_for() {
    for script in [
        "policy lowest\nalloc A 4 -> 0\nalloc B 2 -> 4\nfree A\nalloc C 1 -> 6",
        "policy smallest\nalloc A 4 -> 12\nalloc B 4 -> 8\nalloc C 8 -> 0",
        "policy lowest\npolicy any\nalloc A 4 -> 8",
        "alloc A 16 -> 0\nalloc B 1 -> none\nfree A -> ok\nfree A -> error\nfree 3 -> error",
        "alloc 99999999999 -> none",
        "alloc A 0x1000 -> 0x2000\nfree 0x2000",
        "# nothing\n\n",
    ] {
        let verdict = judge(script);
        assert!(verdict.is_right(), "{script}: {verdict}");
    }
}

#[test]
fn answers_that_are_missing_are_taken_from_the_state() {
    let verdict = judge("alloc A 4\nalloc B 4\nfree A\nlist 3: 0\nalloc C 4\nstate 8- 4C 4B");
    assert!(verdict.is_right(), "{verdict}");
    let verdict = judge("alloc A 4 => 2- 4A 2- 8-");
    assert!(verdict.to_string().contains("no multiple of 4K"), "{verdict}");
    let verdict = judge("alloc A 4 => 12- 4A\n");
    assert_eq!(verdict.wrong_line(), Some(1), "12 free units are no block: {verdict}");
    let verdict =
        judge("alloc A 4; alloc B 4; free A => 8- 4B 4-\nalloc C 2\nstate 4- 2- 2C 4B 4-");
    assert!(verdict.is_right(), "{verdict}");
}
