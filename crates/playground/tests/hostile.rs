//! Input of any kind gets an answer: JSON that can be read, in time, without a panic.

use std::time::{Duration, Instant};

use playground::answer;
use testkit::Random;

/// Checks that `text` is one JSON value, and returns what follows it.
fn value(text: &str) -> Result<&str, String> {
    let text = text.trim_start();
    let first = text.chars().next().ok_or("the text ends too early")?;
    match first {
        '{' | '[' => {
            let mut rest = text[1..].trim_start();
            let end = if first == '{' { '}' } else { ']' };
            if let Some(after) = rest.strip_prefix(end) {
                return Ok(after);
            }
            loop {
                if first == '{' {
                    rest = string(rest.trim_start())?.strip_prefix(':').ok_or("no colon")?;
                }
                rest = value(rest)?;
                match rest.strip_prefix(',') {
                    Some(after) => rest = after,
                    None => return rest.strip_prefix(end).ok_or(format!("no {end} at {rest:.20}")),
                }
            }
        }
        '"' => string(text),
        't' => text.strip_prefix("true").ok_or("no value".into()),
        'f' => text.strip_prefix("false").ok_or("no value".into()),
        '0'..='9' => Ok(text.trim_start_matches(|digit: char| digit.is_ascii_digit())),
        other => Err(format!("no value begins with {other:?}")),
    }
}

fn string(text: &str) -> Result<&str, String> {
    let inside = text.strip_prefix('"').ok_or("no string")?;
    let mut is_escaped = false;
    for (at, character) in inside.char_indices() {
        match character {
            '"' if !is_escaped => return Ok(&inside[at + 1..]),
            '\0'..='\x1f' => return Err("a control character in a string".into()),
            _ => is_escaped = character == '\\' && !is_escaped,
        }
    }
    Err("a string does not end".into())
}

/// Asks, and returns the answer, which must be one JSON object.
fn ask(command: &str) -> String {
    let begun = Instant::now();
    let json = answer(command);
    assert!(begun.elapsed() < Duration::from_secs(10), "too slow: {command:.60}");
    assert!(json.starts_with('{'), "{json:.60}");
    assert_eq!(value(&json), Ok(""), "{command:.200}\n{json:.400}");
    json
}

const COMMANDS: [&str; 5] = ["buddy 9999", "slab 9999", "pressure 9999", "judge", "no such"];

const WORDS: [&str; 46] = [
    "alloc", "allocate", "free", "drain", "memory", "unit", "slot", "policy", "lowest", "smallest",
    "any", "list", "state", "start", "A", "B", "c1", "at", "order", "0", "1", "2", "3.6K", "16",
    "16K", "4M", "850B", "-1", "none", "ok", "error", "->", "=>", ";", ":", ",", "4A", "2-", "16-",
    "\n", "\n", "\n", "objects", "cpu", "shrink", "dentry",
];

#[test]
fn random_words_get_an_answer() {
    let mut random = Random::new(1);
    let mut understood = 0;
    for _ in 0..3000 {
        let mut script = String::new();
        for _ in 0..random.below(40) {
            script.push_str(WORDS[random.below(WORDS.len())]);
            script.push(' ');
        }
        for command in COMMANDS {
            let json = ask(&format!("{command}\n{script}"));
            understood +=
                usize::from(!json.contains("complaint") && !json.contains("not understood"));
        }
    }
    assert!(understood > 100, "{understood} scripts were understood");
}

#[test]
fn random_requests_get_states_that_are_valid() {
    let mut random = Random::new(2);
    for round in 0..60 {
        let slot = if round % 2 == 0 { "" } else { " slot" };
        let units = 1 + random.below(200);
        let mut script = format!("memory {units} unit 1{slot}\n");
        for number in 0..80 {
            let line = match random.below(6) {
                0..3 => format!("alloc N{number} {}\n", 1 + random.below(9)),
                3 => format!("alloc N{number} 1 at {}\n", random.below(units)),
                4 => format!("free N{}\n", random.below(number + 1)),
                _ => "drain\n".into(),
            };
            // A free of a name without a block ends a replay, so only those that work are kept.
            let json = ask(&format!("buddy 9999\n{script}{line}"));
            if !json.contains("\"complaint\"") {
                script.push_str(&line);
                let bits = json
                    .split("\"bits\":\"")
                    .nth(1)
                    .expect("bits")
                    .split('"')
                    .next()
                    .expect("they end");
                assert_eq!(bits.len(), units);
            }
        }
    }
}

#[test]
fn odd_bytes_and_extreme_sizes_get_an_answer() {
    let long = "A".repeat(100_000);
    let many = "alloc 1\n".repeat(30_000);
    let objects = "alloc 1000\nfree all\n".repeat(900);
    let scripts = [
        "",
        "\0",
        "\u{feff}memory",
        "memory 99999999999999999999999G",
        "memory 0",
        "memory 16K unit 0",
        "alloc \u{202e}",
        "memory 4096 unit 1G\nalloc A 4096\nalloc B 99999999999G",
        "<script>alert(1)</script>",
        "alloc A order 18",
        "free 18446744073709551616",
        "alloc A 0.0000000000001K",
        "=>",
        "->",
        ";;;;",
        "state",
        "list 18:",
        "\r\n\r\nfree A\r\n",
        "alloc A 1 at 9999999999999",
        "objects 99999999999999999999",
        "dentry 18446744073709551615",
        "cpu 4294967296",
        &long,
        &many,
        &objects,
    ];
    for script in scripts {
        for command in COMMANDS {
            ask(&format!("{command}\n{script}"));
        }
    }
    ask("");
    ask("buddy 99999999999999999999999");
    ask("buddy -1\nalloc A 1");
    for command in ["buddy 9", "judge"] {
        let json = ask(&format!("{command}\nmemory 4096\n{}", "alloc 1;".repeat(200_000)));
        assert!(json.contains("At most 20000 requests"), "{json:.200}");
    }
    assert!(ask(&format!("judge\n{}", "#".repeat(3 << 20))).contains("longer than"));
}

#[test]
fn the_judge_reads_ten_thousand_lines_and_names_the_wrong_one() {
    let mut script = String::from("memory 4096\n");
    for _ in 0..4999 {
        script.push_str("alloc A 1 -> 0\nfree A -> ok\n");
    }
    assert!(ask(&format!("judge\n{script}")).contains("\"right\":true"));
    script.push_str("alloc A 4 -> 3\n");
    assert!(ask(&format!("judge\n{script}")).contains("Line 10000 is wrong (misaligned)"));
    // Memory in pieces, with a long free list and a long state on many lines.
    let mut script = String::from("memory 4096\n");
    script.push_str(&"alloc 1\n".repeat(4096));
    let odd: Vec<String> = (1..4096).step_by(2).map(|unit| unit.to_string()).collect();
    odd.iter().for_each(|unit| script.push_str(&format!("free {unit}\n")));
    let list = format!("list 0: {}\n", odd.join(" "));
    script.push_str(&list.repeat(100));
    let swap = format!("free 0\nalloc Z 1 -> 0\nfree Z -> ok\nalloc 1 -> 0\n{list}");
    script.push_str(&swap.repeat(50));
    let json = ask(&format!("judge\n{script}"));
    assert!(json.contains("\"right\":true"), "{:.400}", json);
    let long = "alloc 1\n".repeat(20_001);
    assert!(ask(&format!("judge\n{long}")).contains("at most 20000 lines"));
}
