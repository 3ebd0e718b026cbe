//! Converts terminal output to SVG: the same characters in the same places, in the same colours.
//!
//! So each picture is drawn once, for terminals. The converter understands only the escape
//! sequences that [`Style`](super::style::Style) writes.

use super::style::Ink;
use super::svg::Svg;

/// A character's cell in pixels.
const CELL: (f64, f64) = (8.0, 18.0);
/// From a cell's top to its baseline.
const BASELINE: f64 = 13.5;
/// Around the picture.
const MARGIN: f64 = 10.0;

/// A stretch of one ink.
struct Run<'t> {
    ink: Option<Ink>,
    text: &'t str,
}

/// Draws `text`, which may hold our colours.
pub fn svg(text: &str, title: &str) -> Svg {
    let mut ink = None;
    let lines: Vec<Vec<Run<'_>>> =
        text.trim_end().lines().map(|line| runs(line, &mut ink)).collect();
    let width = |line: &Vec<Run<'_>>| line.iter().map(|run| run.text.chars().count()).sum();
    let columns: usize = lines.iter().map(width).max().unwrap_or(0);
    let size = (columns as f64 * CELL.0 + 2.0 * MARGIN, lines.len() as f64 * CELL.1 + 2.0 * MARGIN);
    let mut svg = Svg::new(size.0, size.1, title);
    for (row, line) in lines.iter().enumerate() {
        let top = MARGIN + row as f64 * CELL.1;
        let mut left = MARGIN;
        for run in line {
            let width = run.text.chars().count() as f64 * CELL.0;
            draw(&mut svg, run, (left, top), width);
            left += width;
        }
    }
    svg
}

fn draw(svg: &mut Svg, run: &Run<'_>, (left, top): (f64, f64), width: f64) {
    let (background, class) = run.ink.map_or(("", ""), Ink::classes);
    if !background.is_empty() {
        svg.rect((left, top + 0.5), (width, CELL.1 - 1.0), background, "");
    }
    // Blanks at either end need no glyphs, and would be dropped.
    let inner = run.text.trim();
    if !inner.is_empty() {
        let before = run.text.chars().take_while(|character| *character == ' ').count() as f64;
        let at = (left + before * CELL.0, top + BASELINE);
        svg.cells(at, inner.chars().count() as f64 * CELL.0, class, inner);
    }
}

/// Takes a line apart at its escapes. An `ink` goes on from line to line until another one is
/// taken.
fn runs<'t>(line: &'t str, ink: &mut Option<Ink>) -> Vec<Run<'t>> {
    let mut pieces = line.split("\x1b[");
    let mut runs = vec![Run { ink: *ink, text: pieces.next().unwrap_or("") }];
    for piece in pieces {
        let (code, text) = piece.split_once('m').unwrap_or(("", piece));
        *ink = Ink::with_code(code);
        runs.push(Run { ink: *ink, text });
    }
    runs.retain(|run| !run.text.is_empty());
    runs
}

#[cfg(test)]
mod tests {
    use super::super::style::Style;
    use super::*;

    #[test]
    fn every_character_stays_in_its_cell_and_keeps_its_ink() {
        let style = Style { colour: true, ..Style::default() };
        let line = format!("ab {}  c", style.paint(Ink::Taken, "# A "));
        let text = svg(&line, "t").inline();
        assert!(
            text.contains("<rect x='34' y='10.5' width='32' height='17' class='taken'/>"),
            "{text}"
        );
        assert!(text.contains("x='34' y='23.5' class='mono on' textLength='24'"), "{text}");
        assert!(text.contains("x='82' y='23.5' class='mono ' textLength='8'"), "{text}");
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn a_caption_of_two_lines_is_bold_in_both() {
        let text = svg(&Style::still(true).paint(Ink::Caption, "one\ntwo"), "t").inline();
        assert_eq!(text.matches("class='mono bold'").count(), 2, "{text}");
    }

    #[test]
    fn every_ink_is_known_by_its_code() {
        for ink in Ink::all() {
            assert_eq!(Ink::with_code(&ink.code()), Some(ink));
        }
        assert_eq!(Ink::with_code("0"), None);
    }
}
