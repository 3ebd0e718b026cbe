//! The documentation states the figures of `longest.csv`, which the kernel asserts: each doc
//! comment of the libraries that says `Longest path counted:`, and the table of the book.
//!
//! `UPDATE_SNAPSHOTS=1 cargo test -p kernel` boots the kernel under QEMU, and writes the file, the
//! doc comments and the table with the figures that it counts.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const MARKER: &str = "Longest path counted:";

/// A row of the file.
#[derive(Clone)]
struct Figure {
    row: String,
    /// Number of equal parts of which the operation consists: blocks of a bulk call, for example.
    parts: u64,
    median: u64,
    most: u64,
    longest: u64,
}

impl Figure {
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<_> = line.split(',').collect();
        let [row, parts, median, most, longest] = fields[..] else { return None };
        let number = |field: &str| field.parse().ok();
        let [parts, median, most, longest] =
            [number(parts)?, number(median)?, number(most)?, number(longest)?];
        Some(Self { row: row.into(), parts, median, most, longest })
    }

    fn line(&self) -> String {
        let Self { row, parts, median, most, longest } = self;
        format!("{row},{parts},{median},{most},{longest}\n")
    }

    /// Returns the longest operation, or its share of one part.
    fn documented(&self) -> String {
        with_commas(self.longest.div_ceil(self.parts))
    }
}

fn with_commas(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn path(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(below)
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Returns the figures of the file.
fn figures() -> Vec<Figure> {
    let text = read(&path("examples/kernel/longest.csv"));
    let parse = |line: &str| Figure::parse(line).unwrap_or_else(|| panic!("no figure: {line}"));
    text.lines().map(parse).collect()
}

/// Counts the figures, and writes the file.
fn count() {
    let before = figures();
    let output = Command::new(path("examples/kernel/boot.sh")).arg("--bench").output();
    let output = String::from_utf8(output.expect("it is there").stdout).expect("text");
    let counted = output.lines().filter_map(|line| line.strip_prefix("longest,"));
    let text: String = counted
        .map(|line| {
            let [row, rest] = line.splitn(2, ',').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let (rest, _limit) = rest.rsplit_once(',').expect("the limit is the last field");
            let parts = before.iter().find(|figure| figure.row == row).map_or(1, |old| old.parts);
            Figure::parse(&format!("{row},{parts},{rest}")).expect("numbers").line()
        })
        .collect();
    assert!(!text.is_empty(), "the kernel counted nothing: {output}");
    fs::write(path("examples/kernel/longest.csv"), text).expect("the file can be written");
}

/// Returns the sources of the libraries.
fn sources() -> Vec<PathBuf> {
    fn add(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                add(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    let mut files = Vec::new();
    ["buddy", "slab", "kmalloc"]
        .iter()
        .for_each(|name| add(&path(&format!("crates/{name}/src")), &mut files));
    files
}

/// Returns the text of a source with the figures in each sentence that begins with the marker: the
/// first number in front of each row's name. Adds the rows to `named`.
fn with_figures(text: &str, figures: &[Figure], named: &mut BTreeSet<String>) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(MARKER) {
        let sentence;
        (sentence, rest) = rest.split_at(at + MARKER.len());
        out.push_str(sentence);
        while let Some(open) = rest.find("(`") {
            let part = &rest[..open];
            if part.contains(". ") || part.contains(".\n") {
                break;
            }
            let close = open + rest[open..].find("`)").expect("the name ends");
            let row = &rest[open + 2..close];
            let figure = figures.iter().find(|figure| figure.row == row);
            let figure = figure.unwrap_or_else(|| panic!("no row is called {row}"));
            let first = part.find(|letter: char| letter.is_ascii_digit());
            let first = first.unwrap_or_else(|| panic!("no figure of {row}: {part}"));
            let is_part = |letter: char| letter.is_ascii_digit() || letter == ',';
            let length = part[first..].find(|letter| !is_part(letter)).expect("a unit follows");
            out.push_str(&part[..first]);
            out.push_str(&figure.documented());
            out.push_str(&rest[first + length..close + 2]);
            named.insert(row.into());
            rest = &rest[close + 2..];
        }
    }
    out + rest
}

/// Returns the text of the book's chapter with the figures in its table. Adds the rows to `named`.
fn with_table(text: &str, figures: &[Figure], named: &mut BTreeSet<String>) -> String {
    let line = |line: &str| {
        let Some(row) = line.strip_prefix("| `").and_then(|line| line.split('`').next()) else {
            return format!("{line}\n");
        };
        let figure = figures.iter().find(|figure| figure.row == row);
        let Some(figure) = figure else { panic!("no row is called {row}") };
        named.insert(row.into());
        let operation = line.split(" | ").nth(1).expect("the operation");
        let [median, most, longest] = [figure.median, figure.most, figure.longest].map(with_commas);
        let part = if figure.parts == 1 { String::new() } else { figure.documented() };
        format!("| `{row}` | {operation} | {median} | {most} | {longest} | {part} |\n")
    };
    text.lines().map(line).collect()
}

#[test]
fn the_documentation_states_the_figures_that_the_kernel_asserts() {
    let updates = std::env::var_os("UPDATE_SNAPSHOTS").is_some();
    if updates {
        count();
    }
    let figures = figures();
    let all: BTreeSet<_> = figures.iter().map(|figure| figure.row.clone()).collect();
    assert_eq!(all.len(), figures.len(), "each row is there once");
    let (mut in_sources, mut in_book) = (BTreeSet::new(), BTreeSet::new());
    let check = |file: PathBuf, expected: String, text: String| {
        if text == expected {
            return;
        }
        assert!(updates, "{} has other figures than `longest.csv`", file.display());
        fs::write(file, expected).expect("the file can be written");
    };
    for file in sources() {
        let text = read(&file);
        check(file, with_figures(&text, &figures, &mut in_sources), text);
    }
    let chapter = path("docs/src/longest-paths.md");
    let text = read(&chapter);
    check(chapter, with_table(&text, &figures, &mut in_book), text);
    assert_eq!(in_sources, all, "each row is named by a doc comment");
    assert_eq!(in_book, all, "each row is in the book");
}

#[test]
fn a_figure_is_the_first_number_in_front_of_the_name_of_its_row() {
    let figures = ["one,1,5,6,1234567", "each,64,5,6,65"].map(|line| Figure::parse(line).unwrap());
    let text = "/// 7. Longest path counted: 12\n/// instructions with 8 bytes (`one`), 3 a\n\
                /// block (`each`). See (`other`).\n";
    let mut named = BTreeSet::new();
    let expected = text.replace("12\n", "1,234,567\n").replace(", 3 a", ", 2 a");
    assert_eq!(with_figures(text, &figures, &mut named), expected);
    assert_eq!(named.len(), 2);
    let table = "| row | x |\n| `each` | `f`, g | 1 | 2 | 3 | 4 |\n";
    let expected = "| row | x |\n| `each` | `f`, g | 5 | 6 | 65 | 2 |\n";
    assert_eq!(with_table(table, &figures, &mut named), expected);
}
