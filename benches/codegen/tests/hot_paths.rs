//! The machine code of the hot paths: no locked instruction, no call, and as many instructions and
//! bytes of stack as `hot_paths.txt` says. A change of these figures has to change that file:
//! `UPDATE_SNAPSHOTS=1 cargo test -p codegen` does.
//!
//! A **hot path** is the shortest way through a function that enters a CPU slot, leaves it, and
//! returns without a call, as `rustc` compiles the release profile. On aarch64 the same, in
//! `hot_paths_aarch64.txt`: `.ci/codegen` runs that test where the target's library is there.
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

/// Compiles the library for `target`, or for this machine, and returns its assembly.
fn assembly(target: Option<&str>) -> String {
    let own = std::env::current_exe().expect("a path");
    let folder: PathBuf = own.ancestors().nth(3).expect("target, profile, deps").into();
    let file = folder.join(format!("hot_paths{}.s", target.unwrap_or_default()));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["rustc", "--quiet", "--release", "-p", "codegen", "--lib", "--target-dir"]);
    command.arg(folder.join("hot-paths"));
    command.args(target.iter().flat_map(|target| ["--target", target]));
    command.args(["--", "-Cdebuginfo=0", "--emit"]).arg(format!("asm={}", file.display()));
    assert!(command.status().is_ok_and(|status| status.success()), "the library does not compile");
    std::fs::read_to_string(file).expect("written above")
}

/// Returns the lines of the functions whose names begin with `hot_`.
fn functions(assembly: &str, comment: &str) -> BTreeMap<String, Vec<Line>> {
    let mut functions = BTreeMap::new();
    let mut current: Option<(String, Vec<Line>)> = None;
    for line in assembly.lines() {
        let line = line.split(comment).next().unwrap_or("").trim();
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
    /// The register that was set to one last, on aarch64.
    one: String,
}

/// Where a walk goes on.
enum Next {
    /// Behind the instruction.
    Behind,
    /// At a label. A jump to one that is not in the function is a call.
    Label(String),
    /// At either.
    BehindOrLabel(String),
    Return,
    /// A call, or a trap.
    Call,
}

/// What an instruction does to a walk.
type Read = fn(&str, &str, &mut Walk) -> Next;

fn read_x86_64(name: &str, operands: &str, walk: &mut Walk) -> Next {
    assert!(!name.starts_with("lock"), "a locked instruction: {name} {operands}");
    match name {
        "retq" | "ret" => return Next::Return,
        "callq" | "call" | "ud2" => return Next::Call,
        "jmp" => return Next::Label(operands.into()),
        jump if jump.starts_with('j') => return Next::BehindOrLabel(operands.into()),
        "pushq" => walk.stack_bytes += 8,
        "subq" if operands.ends_with("%rsp") => {
            let bytes = operands.trim_start_matches('$').split(',').next();
            walk.stack_bytes += bytes.and_then(|bytes| bytes.parse::<usize>().ok()).expect("bytes");
        }
        // The busy byte of the slot, which is its first.
        "movb" if operands.starts_with("$1, (") => walk.has_entered = true,
        "movb" if operands.starts_with("$0, (") => walk.has_left = walk.has_entered,
        _ => {}
    }
    Next::Behind
}

/// The first letters of exclusive loads and stores, of atomic read-modify-writes, and of fences.
const ATOMIC: [&str; 13] = [
    "ldx", "ldax", "stx", "stlx", "cas", "swp", "ldadd", "ldset", "ldclr", "ldeor", "stadd", "dmb",
    "dsb",
];

fn read_aarch64(name: &str, operands: &str, walk: &mut Walk) -> Next {
    let is_atomic = ATOMIC.iter().any(|prefix| name.starts_with(prefix));
    assert!(!is_atomic, "an atomic exchange or a fence: {name} {operands}");
    let label = || operands.rsplit(", ").next().unwrap_or_default().to_owned();
    let number = |text: &str| text.trim_end_matches(['!', ']']).parse::<usize>().expect("bytes");
    match name {
        "ret" => return Next::Return,
        "bl" | "blr" | "br" | "brk" | "udf" => return Next::Call,
        "b" => return Next::Label(label()),
        "cbz" | "cbnz" | "tbz" | "tbnz" => return Next::BehindOrLabel(label()),
        branch if branch.starts_with("b.") => return Next::BehindOrLabel(label()),
        "sub" if operands.starts_with("sp, sp, #") => {
            walk.stack_bytes += number(&operands["sp, sp, #".len()..]);
        }
        // A store that first moves the stack pointer.
        "stp" | "str" if operands.ends_with(']') || operands.ends_with('!') => {
            if let Some((_, bytes)) = operands.split_once("[sp, #-") {
                walk.stack_bytes += number(bytes);
            }
        }
        "mov" if operands.ends_with(", #1") => {
            walk.one = operands.trim_end_matches(", #1").into();
        }
        // The busy byte of the slot, which is its first.
        "strb" if !walk.one.is_empty() && operands.starts_with(&format!("{}, [", walk.one)) => {
            walk.has_entered |= operands.ends_with(']') && !operands.contains("],");
        }
        "stlrb" if operands.starts_with("wzr, [") => walk.has_left = walk.has_entered,
        _ => {}
    }
    Next::Behind
}

/// Returns the cost of the shortest hot path from line `at` on.
fn shortest(
    lines: &[Line],
    read: Read,
    mut at: usize,
    mut walk: Walk,
    seen: &mut Vec<usize>,
) -> Option<Cost> {
    let place = |label: &str| {
        lines.iter().position(|line| matches!(line, Line::Label(name) if name == label))
    };
    loop {
        let Line::Instruction { name, operands } = lines.get(at)? else {
            at += 1;
            continue;
        };
        walk.instructions += 1;
        match read(name, operands, &mut walk) {
            Next::Return => {
                let Walk { instructions, stack_bytes, has_entered, has_left, .. } = walk;
                return (has_entered && has_left).then_some(Cost { instructions, stack_bytes });
            }
            Next::Call => return None,
            Next::Label(label) => at = place(&label)?,
            Next::BehindOrLabel(label) => {
                if let Some(target) = place(&label).filter(|target| !seen.contains(target)) {
                    seen.push(at);
                    let [there, here] = [target, at + 1]
                        .map(|next| shortest(lines, read, next, walk.clone(), &mut seen.clone()));
                    seen.pop();
                    return there.into_iter().chain(here).min_by_key(|cost| cost.instructions);
                }
                at += 1;
            }
            Next::Behind => at += 1,
        }
    }
}

/// Returns the compiler's version, of which the figures depend.
fn compiler() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().expect("a compiler");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// Compares the hot paths with those of `file`.
fn compare(functions: &BTreeMap<String, Vec<Line>>, read: Read, file: &str) {
    assert_eq!(functions.len(), 8, "{:?}", functions.keys());
    let mut text = format!("{}\n", compiler());
    for (name, lines) in functions {
        let cost = shortest(lines, read, 0, Walk::default(), &mut Vec::new());
        let Cost { instructions, stack_bytes } =
            cost.unwrap_or_else(|| panic!("{name} has no path without a call: {lines:#?}"));
        writeln!(text, "{name} {instructions} instructions, {stack_bytes} bytes of stack")
            .expect("a string takes everything");
    }
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&file, &text).expect("the file can be written");
    }
    let expected = std::fs::read_to_string(file).expect("the file is there");
    if expected.lines().next() == text.lines().next() {
        assert_eq!(text, expected, "say why, and update the file");
    } else {
        println!("another compiler; the paths have no call and no lock:\n{text}");
    }
}

/// Mutations that it catches: a locked instruction, a call or a panic in a hit (no path is left);
/// an instruction more.
#[test]
fn hits_cost_what_the_file_says() {
    compare(&functions(&assembly(None), "#"), read_x86_64, "hot_paths.txt");
}

/// Mutations that it catches: as above; and an acquire or a release that is ordered more strongly
/// than on x86-64, where it costs nothing.
#[test]
#[ignore = "needs the library of aarch64-unknown-linux-gnu: `.ci/codegen`"]
fn hits_on_aarch64_cost_what_the_file_says() {
    let assembly = assembly(Some("aarch64-unknown-linux-gnu"));
    compare(&functions(&assembly, "//"), read_aarch64, "hot_paths_aarch64.txt");
}
