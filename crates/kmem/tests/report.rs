//! `kmem replay --report` and the files beside it.

mod common;

use std::path::{Path, PathBuf};

use common::kmem;

fn folder(name: &str) -> PathBuf {
    let folder: PathBuf = [env!("CARGO_TARGET_TMPDIR"), name].iter().collect();
    std::fs::create_dir_all(&folder).expect("there is room for the folder");
    folder
}

fn text_of(path: &Path) -> String {
    std::fs::read_to_string(path).expect("it was written, as text")
}

/// Names that appear as `attribute='...'`.
fn values<'t>(text: &'t str, attribute: &str) -> Vec<&'t str> {
    let begin = format!(" {attribute}='");
    text.split(&*begin).skip(1).filter_map(|rest| rest.split('\'').next()).collect()
}

/// Checks that elements are closed in the order in which they were opened.
fn assert_well_formed(text: &str) {
    let mut open: Vec<&str> = Vec::new();
    for tag in text.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').expect("every tag ends");
        let name = tag.split([' ', '/']).find(|name| !name.is_empty()).unwrap_or(tag);
        if tag.starts_with('!') || tag.ends_with('/') || name == "meta" {
            continue;
        }
        match tag.starts_with('/') {
            true => assert_eq!(open.pop(), Some(name), "closed in order"),
            false => open.push(name),
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn a_report_is_one_page_that_needs_nothing_else() {
    let folder = folder("report");
    let (page, csv, svg) = (folder.join("r.html"), folder.join("csv"), folder.join("svg"));
    let path = |path: &Path| path.to_str().expect("a path of text").to_owned();
    let (status, out, error) =
        kmem(&["replay", "--report", &path(&page), "--csv", &path(&csv), "--svg", &path(&svg)]);
    assert_eq!((status, error.as_str()), (Some(0), ""));
    assert!(out.contains("880,000 events"), "the report on the terminal stays: {out}");

    let html = text_of(&page);
    assert!(html.len() < 2_000_000, "{} bytes", html.len());
    for foreign in ["<script", "http-equiv", "<link", "<img", "url(", "@import", " src=", " href="]
    {
        assert!(!html.contains(foreign), "{foreign}");
    }
    let addresses: Vec<_> = html.match_indices("http").collect();
    let namespaces = html.matches("xmlns='http://www.w3.org/2000/svg'").count();
    assert_eq!(addresses.len(), namespaces, "only SVG's namespace");
    assert!(html.contains("prefers-color-scheme:dark") && html.contains("width=device-width"));
    assert_well_formed(&html);
    for shown in ["880,000", "buffer_head", "p99.9", "Fragmentation", "Lifetimes", "who holds them"]
    {
        assert!(html.contains(shown), "{shown}");
    }

    let charts = ["memory", "held", "pages", "fragmentation", "orders", "free-blocks", "lifetimes"];
    for name in charts {
        let table = text_of(&csv.join(format!("{name}.csv")));
        let columns = table.lines().next().map(|line| line.split(',').count());
        assert!(columns >= Some(2) && table.lines().count() > 5, "{name}: {table}");
        assert!(table.lines().all(|line| Some(line.split(',').count()) == columns), "{name}");
        let picture = text_of(&svg.join(format!("{name}.svg")));
        assert_well_formed(&picture);
        assert!(values(&picture, "viewBox").len() == 1 && picture.contains("prefers-color-scheme"));
    }
    for name in ["times", "caches"] {
        assert!(text_of(&csv.join(format!("{name}.csv"))).lines().count() > 5, "{name}");
    }
    for name in ["map-owner", "map-mobility", "map-order"] {
        assert_well_formed(&text_of(&svg.join(format!("{name}.svg"))));
    }
}

#[test]
fn the_last_sample_is_the_state_at_the_end() {
    let folder = folder("last-sample");
    let csv = folder.to_str().expect("a path of text");
    let info = folder.join("buddyinfo");
    let info_name = info.to_str().expect("a path of text");
    let (status, ..) = kmem(&["replay", "--force", "--csv", csv, "--buddyinfo", info_name]);
    assert_eq!(status, Some(0));
    let blocks = text_of(&folder.join("free-blocks.csv"));
    let ours: Vec<u64> = blocks
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(',')?.1.parse().ok())
        .take(10)
        .collect();
    let info = text_of(&info);
    let kernels: Vec<u64> =
        info.split_whitespace().skip(4).filter_map(|word| word.parse().ok()).take(10).collect();
    assert_eq!(ours, kernels);
}

#[test]
fn another_allocator_is_compared_in_the_same_table() {
    let folder = folder("compared");
    let csv = folder.to_str().expect("a path of text");
    let (status, out, error) = kmem(&["replay", "--against", "system", "--csv", csv]);
    assert_eq!(status, Some(0), "{error}");
    assert!(
        out.contains("Other allocators: object events\n") && out.contains("  system "),
        "{out}"
    );
    assert!(out.lines().all(|line| line.chars().count() <= 80), "fits 80 columns: {out}");
    let table = text_of(&folder.join("comparison.csv"));
    let rows: Vec<_> = table.lines().skip(1).collect();
    assert_eq!(rows.len(), 3, "{table}");
    let intact = ",\"same totals, every pattern intact\"";
    let unseen = ",\"same totals, patterns not checked\"";
    let expected = [("ours,", intact), ("no allocator,", unseen), ("system,", intact)];
    for (row, (name, verdict)) in rows.iter().zip(expected) {
        assert!(row.starts_with(name) && row.ends_with(verdict), "{row}");
    }
    let table = text_of(&folder.join("comparison-pages.csv"));
    let rows: Vec<_> = table.lines().skip(1).collect();
    assert_eq!(rows.len(), 3, "{table}");
    assert!(rows.iter().all(|row| row.ends_with(",same totals")), "{table}");
    let (status, out, _) = kmem(&["replay", "--against", "system", "--no-check"]);
    assert_eq!((status, out.contains("intact")), (Some(0), false), "{out}");
    let (status, out, _) = kmem(&["replay", "--against", "system", "--patience", "0"]);
    assert!(status == Some(0) && out.contains("too slow: stopped after 0 s, at event "), "{out}");
    let (status, _, error) = kmem(&["replay", "--against", "nobody"]);
    assert_eq!(status, Some(2));
    assert!(error.contains("linked_list_allocator"), "the names are listed: {error}");
}

#[test]
fn the_kernels_own_slabinfo_stands_beside_ours() {
    let folder = folder("beside");
    let kernels = folder.join("kernel.txt");
    let text = "slabinfo - version: 2.1\n# name\nbuffer_head 1 39 104 39 1 : tunables 0 0 0 : slabdata 1 1 0\n";
    std::fs::write(&kernels, text).expect("there is room");
    let (csv, kernels) = (folder.to_str().expect("text"), kernels.to_str().expect("text"));
    let (status, _, error) = kmem(&["replay", "--csv", csv, "--kernel-slabinfo", kernels]);
    assert_eq!(status, Some(0), "{error}");
    let caches = text_of(&folder.join("caches.csv"));
    let row = caches.lines().find(|line| line.starts_with("buffer_head,")).expect("a busy cache");
    assert!(row.ends_with(",104,4096,39"), "{row}");
    let (status, _, error) = kmem(&["replay", "--csv", csv, "--kernel-slabinfo", "Cargo.toml"]);
    assert_eq!(status, Some(2));
    assert!(error.starts_with("Cargo.toml:1: expected `slabinfo - version: 2.1`"), "{error}");
    // Without a file to write, on the terminal.
    let (status, out, error) = kmem(&["replay", "--kernel-slabinfo", kernels]);
    assert_eq!(status, Some(0), "{error}");
    let rows = out.lines().filter(|line| line.starts_with("  buffer_head "));
    let rows: Vec<Vec<_>> = rows.map(|row| row.split_whitespace().collect()).collect();
    // Its columns stand in two parts of the table, as one would be too wide.
    let [.., before, last] = &rows[..] else { panic!("two parts: {out}") };
    assert!([&before[..], &last[..]].concat().ends_with(&["104", "4,096", "39"]), "{rows:?}");
    assert!(out.lines().all(|line| line.chars().count() <= 80), "fits 80 columns: {out}");
    let (status, out, error) = kmem(&["replay", "--kernel-slabinfo", "/nowhere/at all"]);
    assert_eq!((status, &*out), (Some(2), ""), "{error}");
    assert!(error.starts_with("/nowhere/at all: expected a readable file, found "), "{error}");
}

#[test]
fn a_trace_is_never_written_over() {
    let folder = folder("kept");
    for (name, start) in
        [("plain.csv", &b"# kmem-compact 1\n"[..]), ("frames.zst", &[0x28, 0xb5, 0x2f, 0xfd, 0])]
    {
        let trace = folder.join(name);
        std::fs::write(&trace, start).expect("there is room");
        let (status, _, error) = kmem(&["replay", "--json", trace.to_str().expect("text")]);
        assert_eq!(status, Some(2));
        assert!(error.contains("found a recorded trace, which stays as it is"), "{error}");
        assert_eq!(std::fs::read(&trace).expect("it is there"), start);
    }
}

#[test]
fn charts_show_values_at_the_pointer_the_peak_and_a_zoom() {
    let folder = folder("pointer");
    let (page, svg) = (folder.join("r.html"), folder.join("svg"));
    let text = |path: &Path| path.to_str().expect("a path of text").to_owned();
    let (status, _, error) =
        kmem(&["replay", "--report", &text(&page), "--svg", &text(&svg), "--csv", &text(&folder)]);
    assert_eq!(status, Some(0), "{error}");
    let html = text_of(&page);
    for style in [".at:hover .tip{display:block}", ".hit{fill:transparent}"] {
        assert!(html.contains(style), "{style}");
    }
    // Five charts over time, each in three widths.
    assert_eq!(html.matches("<summary>Zoom in</summary>").count(), 5);
    assert_eq!(html.matches("class='at'").count(), 5 * (80 + 34 + 120));
    assert_eq!(html.matches("class='mark'><title>peak: 4.84 MiB</title>").count(), 2 * 3);
    assert_eq!(html.matches("class='mark'><title>peak: 371 MiB</title>").count(), 3);
    for name in ["memory", "free-blocks"] {
        let picture = text_of(&svg.join(format!("{name}.svg")));
        let title = if name == "memory" { "Live objects" } else { "Free blocks at the end" };
        assert!(picture.contains(&format!("class='bold'>{title}</text>")), "{picture}");
        assert!(!picture.contains("class='at'"), "no pointer over an exported picture");
    }
    // Few blocks of a high order stand beside thousands of order 0: each has a bar to be seen.
    let picture = text_of(&svg.join("free-blocks.svg"));
    let blocks = text_of(&folder.join("free-blocks.csv"));
    let some = |line: &&str| line.split(',').nth(1).is_some_and(|count| count != "0");
    let orders = blocks.lines().skip(1).filter(some).count();
    let heights = picture.split("<rect ").filter(|rect| rect.contains("<title>"));
    let heights = heights.filter_map(|rect| values(rect, "height").first()?.parse::<f64>().ok());
    assert_eq!(heights.filter(|height| *height >= 10.0).count(), orders, "{picture}");
}

#[test]
fn the_memory_of_pictures_is_little_so_that_fragmentation_is_seen() {
    let folder = folder("little");
    let csv = folder.to_str().expect("text");
    let largest = |arguments: &[&str]| {
        let (status, _, error) = kmem(&[&["replay", "--csv", csv], arguments].concat());
        assert_eq!(status, Some(0), "{error}");
        let text = text_of(&folder.join("fragmentation.csv"));
        let order_9 = |line: &str| line.split(',').nth(3).and_then(|share| share.parse().ok());
        text.lines().skip(1).filter_map(order_9).fold(0.0_f64, f64::max)
    };
    let chosen = largest(&[]);
    let usual = largest(&["--memory", "4G"]);
    assert!(chosen > 20.0 && usual < 5.0, "{chosen} {usual}");
    let (_, help, _) = kmem(&["replay", "--help"]);
    let help: String = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("page events have a quarter more than their peak"), "{help}");
}

/// Mutation that it catches: a trace of one batch is watched once.
#[test]
fn a_short_trace_has_a_course_too() {
    let folder = folder("short");
    let mut text = "!g,0,G\n!s,0,filp\n".to_owned();
    (0..900).for_each(|n| text.push_str(&format!("A,1000,0,{:x},184,192,0,0\n", n * 192)));
    let trace = folder.join("short.csv");
    std::fs::write(&trace, text).expect("there is room");
    let csv = folder.join("csv");
    let arguments = ["replay", "-q", "--csv"].map(Path::new);
    let output = kmem(
        &[arguments[0], arguments[1], arguments[2], &csv, &trace]
            .map(|path| path.to_str().expect("it is text")),
    );
    assert_eq!(output.0, Some(0), "{}", output.2);
    let rows = text_of(&csv.join("memory.csv")).lines().count();
    assert!(rows > 32, "{rows} rows");
}
