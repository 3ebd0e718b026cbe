//! Numbers that are right: columns add up, CSV has base units, and memory that runs out is the
//! main result.

mod common;

use std::path::{Path, PathBuf};

use common::kmem;

const PAGE_BYTES: u64 = 4096;

fn temporary(name: &str, contents: &str) -> String {
    let path: PathBuf = [env!("CARGO_TARGET_TMPDIR"), name].iter().collect();
    std::fs::write(&path, contents).expect("there is room for the file");
    path.to_str().expect("the folder's name is text").to_owned()
}

fn json_of(arguments: &[&str]) -> String {
    let (_, out, error) = kmem(&[&["replay", "--json", "-"], arguments].concat());
    assert!(out.starts_with('{'), "{error}");
    out
}

/// Returns every number of that name.
fn numbers(json: &str, name: &str) -> Vec<u64> {
    let begin = format!("\"{name}\": ");
    let digits = |rest: &str| -> String { rest.chars().take_while(char::is_ascii_digit).collect() };
    json.split(&*begin).skip(1).filter_map(|rest| digits(rest).parse().ok()).collect()
}

fn number(json: &str, name: &str) -> u64 {
    *numbers(json, name).first().unwrap_or_else(|| panic!("{name} in {json}"))
}

/// Returns the lines of the array `name`.
fn lines<'j>(json: &'j str, name: &str) -> Vec<&'j str> {
    let begin = format!("\"{name}\": [");
    let (_, rest) = json.split_once(&*begin).expect("there is such an array");
    rest.lines().skip(1).take_while(|line| line.starts_with("    {")).collect()
}

/// Two caches and kmalloc. Each has its own peak at another moment than all together.
fn waves() -> String {
    let mut trace =
        "# kmem-compact 2\n!g,0,G\n!s,0,filp\n!s,1,dentry\n!s,2,open+1\n!s,3,read+2\n".to_owned();
    let mut add = |line: String| trace.push_str(&(line + "\n"));
    for n in 0..100 {
        add(format!("A,1000,0,{:x},184,192,0,0,2", 0x10_0000 + n * 256));
    }
    for n in 0..90 {
        add(format!("F,1000,0,{:x}", 0x10_0000 + n * 256));
    }
    for n in 0..200 {
        add(format!("A,1000,0,{:x},192,192,0,1,3", 0x20_0000 + n * 256));
        add(format!("a,1000,0,{:x},100,128,0,2", 0x30_0000 + n * 256));
        add(format!("p,1000,0,{:x},0,0,0,3", 0x40_0000 + n));
    }
    for n in 0..200 {
        add(format!("F,1000,0,{:x}", 0x20_0000 + n * 256));
        add(format!("P,1000,0,{:x},0", 0x40_0000 + n));
    }
    for n in 0..90 {
        add(format!("a,1000,0,{:x},100,128,0,3", 0x50_0000 + n * 256));
    }
    trace
}

#[test]
fn live_memory_at_the_peak_adds_up_to_the_peak() {
    let waves = temporary("waves.csv", &waves());
    for arguments in [&[&*waves][..], &[]] {
        let json = json_of(arguments);
        let peak = number(&json, "peak_live_bytes");
        let sum = |lines: &[&str]| -> u64 {
            lines.iter().map(|line| number(line, "bytes_at_peak")).sum()
        };
        assert_eq!(sum(&lines(&json, "caches")), peak, "caches and kmalloc");
        let callers = lines(&json, "callers");
        let (pages, objects): (Vec<&str>, Vec<&str>) =
            callers.iter().partition(|line| line.contains("\"from\": \"pages\""));
        assert_eq!(sum(&objects), peak, "call sites of objects");
        assert_eq!(sum(&pages), number(&json, "peak_live_pages") * PAGE_BYTES, "of pages");
    }
    let folder: PathBuf = [env!("CARGO_TARGET_TMPDIR"), "adds-up"].iter().collect();
    let (status, _, error) = kmem(&["replay", "--csv", folder.to_str().expect("of text"), &waves]);
    assert_eq!(status, Some(0), "{error}");
    let caches = std::fs::read_to_string(folder.join("caches.csv")).expect("it was written");
    let peaks = column(&caches, "live at peak (bytes)");
    // 10 of filp, 200 of dentry, 200 of kmalloc.
    assert_eq!(peaks, [200.0 * 192.0, 200.0 * 100.0, 10.0 * 184.0], "{caches}");
}

/// Returns the numbers of a column of CSV.
fn column(csv: &str, name: &str) -> Vec<f64> {
    let mut lines = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let heading = lines.next().expect("there is a heading");
    let index = heading.iter().position(|column| *column == name);
    let index = index.unwrap_or_else(|| panic!("{name} in {heading:?}"));
    lines.map(|line| line[index].parse().expect("a number")).collect()
}

#[test]
fn csv_has_numbers_in_base_units_and_the_unit_in_the_heading() {
    let folder: PathBuf = [env!("CARGO_TARGET_TMPDIR"), "base-units"].iter().collect();
    let path = folder.to_str().expect("of text");
    let (status, _, error) = kmem(&["replay", "--csv", path, "--against", "system"]);
    assert_eq!(status, Some(0), "{error}");
    let mut files = 0;
    for file in std::fs::read_dir(&folder).expect("it is there") {
        let file = file.expect("it is there").path();
        check_numbers(&file);
        files += 1;
    }
    assert_eq!(files, 13);
    let of = |name: &str| std::fs::read_to_string(folder.join(name)).expect("it was written");
    for (name, heading) in [
        ("caches.csv", "object (bytes)"),
        ("times.csv", "p99 (ns)"),
        ("memory.csv", "kmalloc (bytes)"),
        ("fragmentation.csv", "order 9 (2 MiB) (%)"),
        ("callers.csv", "requested (bytes)"),
        ("comparison.csv", "replayed in (s)"),
    ] {
        assert!(of(name).lines().next().expect("a heading").contains(heading), "{name}");
    }
}

/// Checks that all columns but those of text are numbers without a unit.
fn check_numbers(file: &Path) {
    let text = std::fs::read_to_string(file).expect("it was written");
    let is_text = |name: &str| {
        [
            "cache",
            "call site",
            "from",
            "operation",
            "allocator",
            "verdict",
            "lifetime",
            "order",
            "total",
        ]
        .contains(&name)
    };
    let heading: Vec<&str> = text.lines().next().expect("a heading").split(',').collect();
    for line in text.lines().skip(1) {
        // The verdict is last and may have commas.
        for (name, cell) in heading.iter().zip(line.split(',')).filter(|(name, _)| !is_text(name)) {
            let is_number = cell.is_empty() || cell.parse::<f64>().is_ok();
            assert!(is_number, "{}, {name}: {cell}", file.display());
        }
    }
}

/// Blocks and objects for which 1 MiB is too little.
fn too_much() -> String {
    let mut trace = "!g,0,G\n!s,0,filp\n!s,1,open\n".to_owned();
    for n in 0..400 {
        trace.push_str(&format!("p,1,0,{:x},0,0,0\n", n * 16));
        trace.push_str(&format!("A,1,0,{:x},4000,4096,0,0\n", 0x10_0000 + n * 4096));
    }
    // Every other page is freed: enough is free, but no block of order 1.
    for n in (0..256).step_by(2) {
        trace.push_str(&format!("P,1,0,{:x},0\n", n * 16));
    }
    trace.push_str("p,1,0,f0000,1,0,0\np,1,0,f8000,9,0,0\na,1,0,9000000,2000000,2097152,0,1\n");
    trace
}

#[test]
fn memory_that_runs_out_is_the_main_result_with_its_reasons() {
    let trace = temporary("too-much.csv", &too_much());
    let (status, out, _) = kmem(&["replay", "--memory", "1M", &trace]);
    assert_eq!(status, Some(1));
    let third = out.lines().nth(2).expect("a screen");
    assert!(third.starts_with("  Ran out of memory: "), "{out}");
    assert!(!out.contains("Everything freed"), "{out}");
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
    for reason in [
        "144 blocks: too little memory free",
        "1 blocks: enough memory free, but in pieces",
        "1 blocks: larger than all memory",
        "1 objects: larger than all memory",
    ] {
        assert!(out.contains(reason), "{reason} in {out}");
    }
    let (_, coloured, _) = kmem(&["--color", "always", "replay", "--memory", "1M", &trace]);
    assert!(coloured.contains("\x1b[1;31mRan out of memory") && !coloured.contains("\x1b[1;32m"));
    let (_, coloured, _) = kmem(&["--color", "always", "replay", "--memory", "1G", &trace]);
    assert!(coloured.contains("\x1b[1;32mEverything freed"), "{coloured}");
    let json = json_of(&["--memory", "1M", &trace]);
    assert!(json.contains("\"out_of_memory\": true"));
    let sum = |names: [&str; 3]| names.map(|name| number(&json, name)).iter().sum::<u64>();
    let of_objects = ["failed_too_little_free", "failed_in_pieces", "failed_too_large"];
    let of_pages = of_objects.map(|name| format!("page_{name}"));
    assert_eq!(sum(of_objects), number(&json, "failed_allocations"));
    assert_eq!(sum(of_pages.each_ref().map(|name| &**name)), 146);
    assert_eq!(number(&json, "page_failed_allocations"), 146);
    assert!(number(&json, "peak_live_bytes") <= 1 << 20);
    assert!(number(&json, "peak_live_pages") <= 256);
    let page: PathBuf = [env!("CARGO_TARGET_TMPDIR"), "too-much.html"].iter().collect();
    kmem(&["replay", "--memory", "1M", "--report", page.to_str().expect("of text"), &trace]);
    let html = std::fs::read_to_string(page).expect("it was written");
    assert!(html.contains("<p class='verdict bad'>Ran out of memory: "), "{html}");
    assert!(!html.contains("verdict good"));
}

#[test]
fn a_median_below_the_clock_is_said_to_be() {
    let json = json_of(&[]);
    let of = |name: &str| {
        let begin = format!("\"{name}\": {{");
        json.lines().find(|line| line.contains(&begin)).expect("an operation").to_owned()
    };
    let clock = number(&of("read_clock"), "p50");
    for operation in ["allocate_object", "free_object", "allocate_pages", "free_pages"] {
        let line = of(operation);
        let is_below = number(&line, "p50") <= clock;
        assert_eq!(line.contains("\"p50_below_clock\": true"), is_below, "{line}");
    }
    assert!(!of("read_clock").contains("below"));
}

#[test]
fn large_allocations_are_a_line_of_top_and_of_slabinfo() {
    let trace = temporary("large.csv", "!g,0,G\n!s,0,S\na,1,0,1000,1000000,1048576,0,0\n");
    let written = temporary("large.slabinfo", "");
    let (status, out, error) = kmem(&["top", "--once", "--replay", &trace]);
    assert_eq!(status, Some(0), "{error}");
    let row = out.lines().find(|line| line.contains("kmalloc-large")).expect("a row");
    let pages: u64 = row.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number");
    assert!(pages * PAGE_BYTES >= 1_000_000, "{row}");
    assert_eq!(kmem(&["replay", "--slabinfo", &written, &trace]).0, Some(0));
    let text = std::fs::read_to_string(&written).expect("it was written");
    assert!(text.contains("\nkmalloc-large"), "{text}");
    // As a program on kmalloc-preload reports it.
    let text = "slabinfo - version: 2.1\n# name\nfilp 7 21 184 21 1 : tunables 0 0 0 : slabdata 1 1 0\n\
                # pages: 600 held, 512 of them in large allocations; 0 free ones with memory; 0 requests failed\n";
    let program = temporary("program.slabinfo", text);
    let (_, out, _) = kmem(&["top", "--once", "--sort", "c", &program]);
    let first = out.lines().nth(7).expect("a row");
    assert!(first.contains("2048K kmalloc-large"), "{out}");
}
