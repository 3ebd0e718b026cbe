//! Tables of the report: text on the left, numbers on the right, as HTML, for terminals, and as
//! CSV.

use std::ops::Range;

use super::cell::{Cell, Column, Scale, Unit};
use crate::picture::chart::field;
use crate::picture::svg::escaped;
use crate::picture::text::shortened;

/// As wide as a terminal is at least.
const TERMINAL_COLUMNS: usize = 80;

/// The widest first column on a terminal. Longer names are cut there.
const NAME_COLUMNS: usize = 34;

/// A table. The first column is text.
#[derive(Debug, Clone)]
pub struct Table {
    /// Stem of file names.
    pub name: &'static str,
    /// The caption, a few words.
    pub title: &'static str,
    /// How to read it.
    pub note: String,
    /// The columns.
    pub columns: Vec<Column>,
    /// As many cells in each as there are columns.
    pub rows: Vec<Vec<Cell>>,
}

/// Returns a column.
pub fn column(name: &'static str, unit: Unit) -> Column {
    Column { name, unit }
}

impl Table {
    /// Returns the table as HTML.
    pub fn html(&self) -> String {
        let scales = self.scales();
        // A narrow screen shows a second text below the first one.
        let has_two = self.columns.get(1).is_some_and(|column| column.unit == Unit::Text);
        let class = if has_two { " class='two'" } else { "" };
        let mut html = format!("<div class='scroll'><table{class}><thead><tr>");
        for (column, scale) in self.columns.iter().zip(&scales) {
            let class = if column.unit == Unit::Text { " class='text'" } else { "" };
            let unit = match scale.unit {
                "" => String::new(),
                unit => format!(" <small>{unit}</small>"),
            };
            html.push_str(&format!("<th scope='col'{class}>{}{unit}</th>", escaped(column.name)));
        }
        html.push_str("</tr></thead><tbody>\n");
        for row in &self.rows {
            html.push_str("<tr>");
            for (index, cell) in row.iter().enumerate() {
                let text = escaped(&cell.shown(scales[index]));
                let class = match self.columns[index].unit {
                    Unit::Text => " class='text'",
                    _ => "",
                };
                // Long masks break between their flags.
                let text = text.replace('|', "|<wbr/>");
                let under = match row.get(1).filter(|_| has_two && index == 0) {
                    Some(cell) => {
                        let text = escaped(&cell.shown(scales[1]));
                        format!("<small class='under' aria-hidden='true'>{text}</small>")
                    }
                    None => String::new(),
                };
                match index {
                    0 => html.push_str(&format!("<th scope='row'>{text}{under}</th>")),
                    _ => html.push_str(&format!("<td{class}>{text}</td>")),
                }
            }
            html.push_str("</tr>\n");
        }
        html + "</tbody></table></div>"
    }

    /// Returns the table for a terminal: columns as wide as they have to be, two blanks between
    /// them, their units in a second heading. Columns for which there is no room stand below,
    /// beside the first one once more.
    pub fn text(&self) -> String {
        let scales = self.scales();
        let names = self.columns.iter().map(|column| column.name.to_owned()).collect();
        let units = scales.iter().map(|scale| scale.unit.to_owned()).collect();
        let shown = |row: &Vec<Cell>| -> Vec<String> {
            let cells = row.iter().zip(&scales).map(|(cell, scale)| cell.shown(*scale));
            let mut cells: Vec<_> = cells.collect();
            cells[0] = shortened(&cells[0], NAME_COLUMNS);
            cells
        };
        let mut lines: Vec<Vec<String>> = vec![names, units];
        lines.extend(self.rows.iter().map(shown));
        let width = |column: usize| lines.iter().map(|cells| cells[column].chars().count()).max();
        let widths: Vec<usize> =
            (0..self.columns.len()).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = format!("{}\n", self.title);
        for (index, part) in parts(&widths).into_iter().enumerate() {
            if index > 0 {
                text.push('\n');
            }
            let columns = || std::iter::once(0).chain(part.clone());
            let has_units = columns().any(|column| !scales[column].unit.is_empty());
            for cells in lines.iter().enumerate().filter(|(row, _)| *row != 1 || has_units) {
                let mut line = String::new();
                for column in columns() {
                    let (cell, width) = (&cells.1[column], widths[column]);
                    match column == 0 || self.columns[column].unit == Unit::Text {
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

    /// Returns the table as CSV, with all numbers in base units, which the heading names.
    pub fn csv(&self) -> String {
        let heading = self.columns.iter().map(|column| match column.unit.base() {
            "" => field(column.name),
            unit => field(&format!("{} ({unit})", column.name)),
        });
        let mut csv = heading.collect::<Vec<_>>().join(",") + "\r\n";
        for row in &self.rows {
            let cells: Vec<_> = row.iter().map(|cell| field(&cell.base())).collect();
            csv.push_str(&(cells.join(",") + "\r\n"));
        }
        csv
    }

    /// Returns the scale of each column.
    fn scales(&self) -> Vec<Scale> {
        let largest = |column: usize| {
            self.rows.iter().filter_map(|row| row[column].value()).fold(0.0, f64::max)
        };
        let columns = self.columns.iter().enumerate();
        columns.map(|(index, column)| column.unit.scale(largest(index))).collect()
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

    fn table(columns: Vec<Column>, rows: Vec<Vec<Cell>>) -> Table {
        Table { name: "t", title: "Times", note: String::new(), columns, rows }
    }

    #[test]
    fn numbers_stand_under_one_another_with_their_unit_above() {
        let columns = vec![column("what", Unit::Text), column("mean", Unit::Nanoseconds)];
        let rows = vec![
            vec![Cell::text("allocate"), Cell::number(5)],
            vec![Cell::text("free"), Cell::number(1000)],
        ];
        assert_eq!(
            table(columns.clone(), rows).text(),
            "Times\n  what       mean\n               ns\n  allocate      5\n  free      1,000\n"
        );
        let counts = vec![columns[0].clone(), column("count", Unit::Count)];
        let rows = vec![vec![Cell::text("free"), Cell::number(7)]];
        assert_eq!(table(counts, rows).text(), "Times\n  what  count\n  free      7\n");
    }

    #[test]
    fn columns_for_which_a_terminal_has_no_room_stand_below() {
        // 2 + 8 + 3 * (2 + 21) are 79.
        assert_eq!(parts(&[8, 21, 21, 22]).len(), 1);
        assert_eq!(parts(&[8, 21, 21, 23]), [1..3, 3..4]);
        assert_eq!(parts(&[8, 100, 1, 100]), [1..2, 2..3, 3..4]);
        let columns = ["what", "mean", "p99"].map(|name| column(name, Unit::Text)).to_vec();
        let wide = "w".repeat(70);
        let rows = vec![["free", &wide, "5"].map(Cell::text).to_vec()];
        assert_eq!(
            table(columns, rows).text(),
            format!("Times\n  what  mean\n  free  {wide}\n\n  what  p99\n  free  5\n")
        );
    }

    #[test]
    fn cells_are_escaped_in_both_forms() {
        let columns = vec![column("what", Unit::Text), column("size", Unit::Bytes)];
        let table = table(columns, vec![vec![Cell::text("<a>,"), Cell::number(1000)]]);
        assert!(table.html().contains("<th scope='row'>&lt;a&gt;,</th><td>1,000</td>"));
        assert!(table.html().contains("size <small>B</small>"));
        assert_eq!(table.csv(), "what,size (bytes)\r\n\"<a>,\",1000\r\n");
    }
}
