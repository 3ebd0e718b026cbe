//! Tables of the report: text on the left, numbers on the right, as HTML and as CSV.

use std::ops::Range;

use crate::picture::chart::field;
use crate::picture::svg::escaped;

/// As wide as a terminal is at least.
const TERMINAL_COLUMNS: usize = 80;
/// The one other column of text.
pub(super) const VERDICT: &str = "verdict";

/// A table. The first column is text, the others are numbers with their units.
#[derive(Debug, Clone)]
pub struct Table {
    /// Stem of file names.
    pub name: &'static str,
    /// The caption, a few words.
    pub title: &'static str,
    /// How to read it.
    pub note: String,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// As many cells in each as there are columns.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// Returns the table as HTML.
    pub fn html(&self) -> String {
        let mut html = String::from("<div class='scroll'><table><thead><tr>");
        for (index, name) in self.columns.iter().enumerate() {
            html.push_str(&format!("<th scope='col'{}>{}</th>", self.class(index), escaped(name)));
        }
        html.push_str("</tr></thead><tbody>\n");
        for row in &self.rows {
            html.push_str("<tr>");
            for (index, cell) in row.iter().enumerate() {
                let cell = escaped(cell);
                match index {
                    0 => html.push_str(&format!("<th scope='row'>{cell}</th>")),
                    _ => html.push_str(&format!("<td{}>{cell}</td>", self.class(index))),
                }
            }
            html.push_str("</tr>\n");
        }
        html + "</tbody></table></div>"
    }

    /// Returns the class of a column's cells.
    fn class(&self, column: usize) -> &'static str {
        if self.columns[column] == VERDICT { " class='text'" } else { "" }
    }

    /// Returns the table for a terminal: columns as wide as they have to be, two blanks between
    /// them. Columns for which there is no room stand below, beside the first one once more.
    pub fn text(&self) -> String {
        let lines = || std::iter::once(&self.columns).chain(&self.rows);
        let width = |column: usize| lines().map(|cells| cells[column].chars().count()).max();
        let widths: Vec<usize> =
            (0..self.columns.len()).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = format!("{}\n", self.title);
        for (index, part) in parts(&widths).into_iter().enumerate() {
            if index > 0 {
                text.push('\n');
            }
            for cells in lines() {
                let mut line = String::new();
                for column in std::iter::once(0).chain(part.clone()) {
                    let (cell, width) = (&cells[column], widths[column]);
                    let is_text = column == 0 || self.columns[column] == VERDICT;
                    match is_text {
                        true => line.push_str(&format!("  {cell:<width$}")),
                        false => line.push_str(&format!("  {cell:>width$}")),
                    }
                }
                text.push_str(line.trim_end());
                text.push('\n');
            }
        }
        text
    }

    /// Returns the table as CSV.
    pub fn csv(&self) -> String {
        let line = |cells: &Vec<String>| {
            let cells: Vec<_> = cells.iter().map(|cell| field(cell)).collect();
            cells.join(",") + "\r\n"
        };
        std::iter::once(&self.columns).chain(&self.rows).map(line).collect()
    }
}

/// Returns which columns but the first stand beside one another, by the width of each; one alone
/// may be too wide for the terminal.
fn parts(widths: &[usize]) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let (mut begin, mut taken) = (1, 0);
    for column in 1..widths.len() {
        taken += 2 + widths[column];
        if 2 + widths[0] + taken > TERMINAL_COLUMNS && column > begin {
            parts.push(begin..column);
            (begin, taken) = (column, 2 + widths[column]);
        }
    }
    parts.push(begin..widths.len());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_under_one_another_on_a_terminal() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let table = Table {
            name: "t",
            title: "Times",
            note: String::new(),
            columns: row(["what", "mean"]),
            rows: vec![row(["allocate", "5 ns"]), row(["free", "1,000 ns"])],
        };
        assert_eq!(
            table.text(),
            "Times\n  what          mean\n  allocate      5 ns\n  free      1,000 ns\n"
        );
    }

    #[test]
    fn columns_for_which_a_terminal_has_no_room_stand_below() {
        // 2 + 8 + 3 * (2 + 21) are 79.
        assert_eq!(parts(&[8, 21, 21, 22]).len(), 1);
        assert_eq!(parts(&[8, 21, 21, 23]), [1..3, 3..4]);
        assert_eq!(parts(&[8, 100, 1, 100]), [1..2, 2..3, 3..4]);
        let wide = "w".repeat(70);
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let table = Table {
            name: "t",
            title: "Wide",
            note: String::new(),
            columns: row(["what", "mean", "p99"]),
            rows: vec![row(["free", &wide, "5 ns"])],
        };
        let mean = format!("{:>70}", "mean");
        assert_eq!(
            table.text(),
            format!("Wide\n  what  {mean}\n  free  {wide}\n\n  what   p99\n  free  5 ns\n")
        );
    }

    #[test]
    fn cells_are_escaped_in_both_forms() {
        let table = Table {
            name: "t",
            title: "",
            note: String::new(),
            columns: vec!["what".into(), "n".into()],
            rows: vec![vec!["<a>".into(), "1,000".into()]],
        };
        assert!(table.html().contains("<th scope='row'>&lt;a&gt;</th><td>1,000</td>"));
        let verdicts = Table { columns: vec!["what".into(), VERDICT.into()], ..table.clone() };
        assert!(verdicts.html().contains("<td class='text'>1,000</td>"), "text stands on the left");
        assert_eq!(table.csv(), "what,n\r\n<a>,\"1,000\"\r\n");
    }
}
