//! Free blocks in the format of `/proc/buddyinfo`, so that tools written for the kernel can read
//! ours.

use std::fmt::Write;

/// Number of columns: the kernel's orders 0 to 10.
const COLUMNS: usize = 11;

/// Returns the line of a zone from its number of free blocks by order. A block above order 10 is
/// counted as the blocks of order 10 that it splits into.
pub fn line(node: u32, zone: &str, free_counts: &[usize]) -> String {
    let mut columns = [0; COLUMNS];
    for (order, count) in free_counts.iter().enumerate() {
        let column = order.min(COLUMNS - 1);
        columns[column] += count << (order - column);
    }
    let mut line = format!("Node {node}, zone {zone:>8} ");
    for count in columns {
        write!(line, "{count:>6} ").expect("a String takes all text");
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_the_kernels_and_larger_orders_count_in_the_last_column() {
        let mut counts = [0; 19];
        (counts[0], counts[3], counts[10], counts[11], counts[18]) = (3, 2, 1, 5, 1);
        let expected = "Node 0, zone   Normal      3      0      0      2      0      0      0      0      0      0    267 \n";
        assert_eq!(line(0, "Normal", &counts), expected);
    }
}
