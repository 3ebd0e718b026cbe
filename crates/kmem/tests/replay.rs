//! `kmem replay` as a user runs it.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

fn kmem(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kmem"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("it runs")
}

fn temporary(name: &str, contents: &str) -> String {
    let path: PathBuf = [env!("CARGO_TARGET_TMPDIR"), name].iter().collect();
    std::fs::write(&path, contents).expect("there is room for the file");
    path.to_str().expect("the folder's name is text").to_owned()
}

const SMALL: &str = "# kmem-compact 1
!g,0,GFP_KERNEL
!s,0,main
!s,1,filp
a,1,0,1000,20,32,0,0
A,1,1,2000,184,192,0,1
A,1,1,2000,184,192,0,1
A,1,0,3000,24,32,0,1
x,1,0,2a00,0,9,0,1
p,1,0,100,3,0,0
p,1,3,200,0,0,0
f,1,1,1000
F,1,0,9000
P,1,1,100,2
P,1,1,101,0";

#[test]
fn json_has_every_total_and_the_readme_explains_each() {
    let trace = temporary("small \"quoted\".csv", SMALL);
    let output = kmem(&["replay", "--json", "-", &trace]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let json = String::from_utf8(output.stdout).expect("JSON is text");
    for field in [
        "small \\\"quoted\\\".csv\",",
        "\"events\": 10,",
        "\"events_per_second\": ",
        "\"bytes_requested\": 412,",
        "\"bytes_allocated_traced\": 448,",
        "\"matched_frees\": 1,",
        "\"unmatched_frees\": 1,",
        "\"implied_frees\": 1,",
        "\"peak_live_bytes\": 228,",
        "\"peak_pages_held\": ",
        "\"slabs_grown\": ",
        "\"slabs_given_back\": ",
        "\"splits\": ",
        "\"merges\": ",
        "\"page_splits\": ",
        "\"page_merges\": ",
        "\"findings\": 0,",
        "\"page_matched_frees\": 1,",
        "\"page_unmatched_frees\": 1,",
        "\"page_implied_frees\": 0,",
        "\"page_other_orders\": 1,",
        "\"peak_live_pages\": 9,",
        "\"pages_held_after_shrink\": 0,",
        "\"buddy_equals_initial\": true",
    ] {
        assert!(json.contains(field), "{field} in {json}");
    }
    let readme = include_str!("../README.md");
    for field in json.lines().filter_map(|line| line.trim().strip_prefix('"')?.split('"').next()) {
        assert!(readme.contains(&format!("`{field}`")), "the README explains {field}");
    }
}

#[test]
fn several_traces_are_an_array_and_a_report_each() {
    let (one, other) = (temporary("one.csv", SMALL), temporary("other.csv", SMALL));
    let json = temporary("both.json", "");
    let output = kmem(&["replay", "--json", &json, &one, &other]);
    assert_eq!(output.status.code(), Some(0));
    let json = std::fs::read_to_string(json).expect("it was written");
    assert!(json.starts_with("[\n{") && json.ends_with("}\n]\n"), "{json}");
    assert_eq!(json.matches("\"events\": 10,").count(), 2);
    let report = String::from_utf8(output.stdout).expect("the report is text");
    assert!(report.contains(&one) && report.contains(&other), "{report}");
    assert_eq!(report.matches("filp-24").count(), 2, "{report}");
}

#[test]
fn buddyinfo_has_the_kernels_form_and_counts_every_free_page() {
    let (trace, file) = (temporary("free.csv", SMALL), temporary("buddyinfo", ""));
    let output = kmem(&["replay", "--memory", "1G", "--buddyinfo", &file, &trace]);
    assert_eq!(output.status.code(), Some(0));
    let line = std::fs::read_to_string(file).expect("it was written");
    let mut fields = line.split_whitespace();
    assert_eq!([(); 4].map(|()| fields.next().expect("a field")), ["Node", "0,", "zone", "Normal"]);
    let counts: Vec<usize> = fields.map(|field| field.parse().expect("a number")).collect();
    assert_eq!(counts.len(), 11);
    let free: usize = counts.iter().enumerate().map(|(order, count)| count << order).sum();
    let taken = (1 << 18) - free;
    // One page is live at the end; CPU slots may keep a word of frames each.
    assert!((1..=4 * 64).contains(&taken), "{taken} pages are taken");
}

#[test]
fn memory_that_is_too_small_is_a_finding_and_not_an_error() {
    let trace = format!("{SMALL}\np,1,0,300,9,0,0\na,1,0,7000,2000000,2097152,0,0");
    let output = kmem(&["replay", "--memory", "1M", &temporary("tight.csv", &trace)]);
    assert_eq!(output.status.code(), Some(1));
    let report = String::from_utf8(output.stdout).expect("the report is text");
    assert!(report.contains("tight.csv:16: no memory for a block of order 9"), "{report}");
    assert!(report.contains("tight.csv:17: no memory for 2000000 bytes"), "{report}");
    assert!(report.contains("pages free"), "{report}");
}

#[test]
fn caches_for_which_there_is_no_memory_are_findings_too() {
    let caches = (1..=4000).map(|n| format!("A,1,0,{n}000,{n},4096,0,1\n"));
    let trace = format!("{SMALL}\n{}", caches.collect::<String>());
    let output = kmem(&["replay", "--memory", "1M", &temporary("many.csv", &trace)]);
    assert_eq!(output.status.code(), Some(1));
    let report = String::from_utf8(output.stdout).expect("the report is text");
    assert!(report.contains("no memory for") && report.contains("pages free"), "{report}");
}

#[test]
fn slabinfo_has_the_kernels_form_and_counts_what_is_live() {
    let (trace, file) = (temporary("slabs.csv", SMALL), temporary("slabinfo", ""));
    let output = kmem(&["replay", "--slabinfo", &file, &trace]);
    assert_eq!(output.status.code(), Some(0));
    let text = std::fs::read_to_string(file).expect("it was written");
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("slabinfo - version: 2.1"));
    let header = lines.next().expect("a second line");
    assert!(header.starts_with("# name            <active_objs> <num_objs> <objsize>"), "{header}");
    let columns = |name: &str| {
        let line = text.lines().find(|line| line.split_whitespace().next() == Some(name));
        let fields = line.unwrap_or_else(|| panic!("{name} in {text}")).split_whitespace();
        fields.map(str::to_owned).collect::<Vec<_>>()
    };
    let (filp, small) = (columns("filp"), columns("filp-24"));
    assert_eq!((filp.len(), small.len()), (16, 16));
    assert_eq!((&*filp[3], &*small[3]), ("184", "24"));
    for cache in [&filp, &small] {
        let number = |index: usize| cache[index].parse::<usize>().expect("a number");
        let (active, all, per_slab, slabs) = (number(1), number(2), number(4), number(14));
        assert!(active >= 1 && active <= all && all == slabs * per_slab, "{cache:?}");
        assert_eq!(
            (&*cache[6], &*cache[7], &*cache[11], &*cache[12]),
            (":", "tunables", ":", "slabdata")
        );
    }
    // kmalloc has a cache of its own for the class of 20 bytes.
    assert_eq!(columns("kmalloc-24")[3], "24");
}

#[test]
fn the_report_fits_80_columns_and_has_no_colours_when_piped() {
    let output = kmem(&["replay"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "no progress bar where there is no terminal");
    let report = String::from_utf8(output.stdout).expect("the report is text");
    assert!(!report.contains('\x1b'));
    assert!(report.lines().all(|line| line.chars().count() <= 80), "{report}");
    assert!(report.lines().count() <= 40, "one screen: {report}");
    let mut caches = report.lines().skip_while(|line| !line.starts_with("  cache "));
    let row = |line: Option<&str>| -> Vec<String> {
        line.expect("a row").split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(row(caches.next()), ["cache", "allocated", "each", "live"]);
    assert_eq!(row(caches.next())[..6], ["buffer_head", "29,160", "104", "B", "2.88", "MiB"]);
}

#[test]
fn files_about_the_end_of_a_trace_go_with_one_trace() {
    for option in ["--buddyinfo", "--slabinfo"] {
        let output = kmem(&["replay", option, "x", "a", "b"]);
        assert_eq!(output.status.code(), Some(2));
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains("goes with one trace"), "{error}");
    }
}

#[test]
fn a_boot_memory_map_in_zones_is_the_page_sides_machine() {
    let map = temporary(
        "e820.txt",
        "BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable\n\
         BIOS-e820: [mem 0x0000000000100000-0x000000001fffffff] usable\n\
         BIOS-e820: [mem 0x0000000100000000-0x000000010fffffff] usable\n",
    );
    let (info, types) = (temporary("zones.txt", ""), temporary("types.txt", ""));
    let output =
        kmem(&["replay", "--map", &map, "--zones", "--buddyinfo", &info, "--pagetypeinfo", &types]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let info = std::fs::read_to_string(info).expect("it was written");
    let zones: Vec<_> = info.lines().filter_map(|line| line.split_whitespace().nth(3)).collect();
    assert_eq!(zones, ["DMA", "DMA32", "Normal"]);
    let types = std::fs::read_to_string(types).expect("it was written");
    assert_eq!(types.lines().filter(|line| line.contains("Reclaimable")).count(), 3, "{types}");
    let info = temporary("nodes.txt", "");
    assert_eq!(kmem(&["replay", "--nodes", "2", "--buddyinfo", &info]).status.code(), Some(0));
    let info = std::fs::read_to_string(info).expect("it was written");
    let nodes: Vec<_> = info.lines().filter_map(|line| line.split([' ', ',']).nth(1)).collect();
    assert_eq!(nodes, ["0", "1"]);
    let wrong = temporary("wrong-map.txt", "usable\n");
    let output = kmem(&["replay", "--map", &wrong]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("wrong-map.txt:1: expected a region"), "{error}");
}

#[test]
fn under_pressure_a_replay_reclaims_and_still_releases_all() {
    let output = kmem(&["replay", "--memory", "512M", "--pressure", "99", "--json", "-"]);
    let json = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(json.contains("\"pages_held_after_shrink\": 0,"), "{json}");
    assert!(json.contains("\"reclaims\": ") && !json.contains("\"reclaims\": 0,"), "{json}");
    assert!(!json.contains("\"reclaimed_pages\": 0,"), "{json}");
    assert!(json.contains("\"buddy_equals_initial\": true"), "{json}");
}

#[test]
fn times_of_each_operation_are_in_the_json_unless_speed_is_asked_for() {
    let text = "!g,0,G\n!s,0,S\na,0,0,40,8,8,0,0\nf,0,0,40\np,0,0,7,0,0,0\n";
    let trace = temporary("timed.csv", text);
    let json = |more: &[&str]| {
        let output = kmem(&[&["replay", "--json", "-", &trace], more].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).expect("it is text")
    };
    for timed in [json(&[]), json(&["--no-check", "--times"])] {
        for (operation, count) in
            [("allocate_object", 1), ("free_object", 1), ("allocate_pages", 1), ("free_pages", 0)]
        {
            let begin = format!("    \"{operation}\": {{\"count\": {count}, \"mean\": ");
            let line =
                timed.lines().find(|line| line.starts_with(&begin)).expect("each has a line");
            for name in ["p50", "p99", "p99.9", "max"] {
                let number = line.split(&format!("\"{name}\": ")).nth(1).expect("it is there");
                let number =
                    number.split([',', '}']).next().and_then(|text| text.parse::<u64>().ok());
                assert!(number.is_some_and(|ns| (ns > 0) == (count > 0)), "{name} in {line}");
            }
        }
    }
    assert!(!json(&["--no-check"]).contains("times_ns"));
}
