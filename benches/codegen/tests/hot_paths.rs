//! The machine code of the hot paths: no locked instruction, no call, and as many instructions and
//! bytes of stack as `hot_paths.txt` says. A change of these figures has to change that file:
//! `UPDATE_SNAPSHOTS=1 cargo test -p codegen` does.
//!
//! A **hot path** is the shortest way through a function that enters a CPU slot, leaves it, and
//! returns without a call. On x86-64, as `rustc` compiles the release profile.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(any(loom, miri))))]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::Command;

/// An instruction, or the place of a label.
#[derive(Debug)]
enum Line {
    Label(String),
    Instruction { name: String, operands: String },
}

/// What a hot path costs.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cost {
    instructions: usize,
    stack_bytes: usize,
}

/// Compiles the library, and returns its assembly.
fn assembly() -> String {
    let own = std::env::current_exe().expect("a path");
    let target: PathBuf = own.ancestors().nth(3).expect("target, profile, deps").into();
    let file = target.join("hot_paths.s");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["rustc", "--quiet", "--release", "-p", "codegen", "--lib", "--target-dir"])
        .arg(target.join("hot-paths"))
        .args(["--", "-Cdebuginfo=0", "--emit"])
        .arg(format!("asm={}", file.display()))
        .status();
    assert!(status.is_ok_and(|status| status.success()), "the library cannot be compiled");
    std::fs::read_to_string(file).expect("written above")
}

/// Returns the lines of the functions whose names begin with `hot_`.
fn functions(assembly: &str) -> BTreeMap<String, Vec<Line>> {
    let mut functions = BTreeMap::new();
    let mut current: Option<(String, Vec<Line>)> = None;
    for line in assembly.lines() {
        let line = line.split('#').next().unwrap_or("").trim();
        if let Some(label) = line.strip_suffix(':') {
            if label.starts_with("hot_") {
                current = Some((label.into(), Vec::new()));
            } else if label.starts_with(".Lfunc_end") {
                functions.extend(current.take());
            } else if let Some((_, lines)) = &mut current {
                lines.push(Line::Label(label.into()));
            }
            continue;
        }
        let Some((_, lines)) = &mut current else { continue };
        if line.is_empty() || line.starts_with('.') {
            continue;
        }
        let (name, operands) = line.split_once(['\t', ' ']).unwrap_or((line, ""));
        lines.push(Line::Instruction { name: name.into(), operands: operands.trim().into() });
    }
    functions
}

/// What a walk has met.
#[derive(Clone, Default)]
struct Walk {
    instructions: usize,
    stack_bytes: usize,
    has_entered: bool,
    has_left: bool,
}

/// Returns the cost of the shortest hot path from line `at` on.
fn shortest(lines: &[Line], mut at: usize, mut walk: Walk, seen: &mut Vec<usize>) -> Option<Cost> {
    let place = |label: &str| {
        lines.iter().position(|line| matches!(line, Line::Label(name) if name == label))
    };
    loop {
        let Line::Instruction { name, operands } = lines.get(at)? else {
            at += 1;
            continue;
        };
        walk.instructions += 1;
        assert!(!name.starts_with("lock"), "a locked instruction: {name} {operands}");
        match name.as_str() {
            "retq" | "ret" => {
                let Walk { instructions, stack_bytes, has_entered, has_left } = walk;
                return (has_entered && has_left).then_some(Cost { instructions, stack_bytes });
            }
            "jmp" | "callq" | "call" | "ud2" => {
                // A jump out of the function is a call.
                at = (name == "jmp").then(|| place(operands)).flatten()?;
                continue;
            }
            jump if jump.starts_with('j') => {
                if let Some(target) = place(operands).filter(|target| !seen.contains(target)) {
                    seen.push(at);
                    let [there, here] = [target, at + 1]
                        .map(|next| shortest(lines, next, walk.clone(), &mut seen.clone()));
                    seen.pop();
                    return there.into_iter().chain(here).min_by_key(|cost| cost.instructions);
                }
            }
            "pushq" => walk.stack_bytes += 8,
            "subq" if operands.ends_with("%rsp") => {
                let bytes = operands.trim_start_matches('$').split(',').next();
                walk.stack_bytes += bytes.and_then(|bytes| bytes.parse::<usize>().ok())?;
            }
            // The busy byte of the slot, which is its first.
            "movb" if operands.starts_with("$1, (") => walk.has_entered = true,
            "movb" if operands.starts_with("$0, (") => walk.has_left = walk.has_entered,
            _ => {}
        }
        at += 1;
    }
}

/// Returns the compiler's version, of which the figures depend.
fn compiler() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().expect("a compiler");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// Mutations that it catches: a locked instruction, a call or a panic in a hit (no path is left);
/// an instruction more.
#[test]
fn hits_cost_what_the_file_says() {
    let functions = functions(&assembly());
    assert_eq!(functions.len(), 8, "{:?}", functions.keys());
    let mut text = format!("{}\n", compiler());
    for (name, lines) in &functions {
        let cost = shortest(lines, 0, Walk::default(), &mut Vec::new());
        let Cost { instructions, stack_bytes } =
            cost.unwrap_or_else(|| panic!("{name} has no path without a call: {lines:#?}"));
        writeln!(text, "{name} {instructions} instructions, {stack_bytes} bytes of stack")
            .expect("a string takes everything");
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/hot_paths.txt");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(file, &text).expect("the file can be written");
    }
    let expected = std::fs::read_to_string(file).expect("the file is there");
    if expected.lines().next() == text.lines().next() {
        assert_eq!(text, expected, "say why, and update the file");
    } else {
        println!("another compiler; the paths have no call and no lock:\n{text}");
    }
}
