//! Free blocks by mobility in the format of `/proc/pagetypeinfo`, so that tools written for the
//! kernel can read ours.

use std::fmt::Write;

use page_frame::Order;

/// Number of columns: the kernel's orders 0 to 10.
const COLUMNS: usize = 11;
/// Names in the kernel's order, each with its index in [`buddy::Mobility::ALL`].
const TYPES: [(&str, usize); 3] = [("Unmovable", 0), ("Movable", 2), ("Reclaimable", 1)];

/// Returns the first table of the file, from each zone's node, name and free blocks by mobility and
/// order. A block above order 10 is counted as the blocks of order 10 that it splits into.
pub fn text<'z>(
    zones: impl IntoIterator<Item = (u16, &'z str, [[usize; Order::COUNT]; 3])>,
) -> String {
    let mut text = String::from("Page block order: 9\nPages per block:  512\n\n");
    text.push_str("Free pages count per migrate type at order ");
    (0..COLUMNS).for_each(|order| text.push_str(&format!("{order:>6} ")));
    text.push('\n');
    for (node, zone, free_counts) in zones {
        for (name, place) in TYPES {
            write!(text, "Node {node:>4}, zone {zone:>8}, type {name:>12} ")
                .expect("a String takes all text");
            let mut columns = [0; COLUMNS];
            for (order, count) in free_counts[place].iter().enumerate() {
                let column = order.min(COLUMNS - 1);
                columns[column] += count << (order - column);
            }
            columns.iter().for_each(|count| text.push_str(&format!("{count:>6} ")));
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_the_kernels_and_in_its_order() {
        let mut counts = [[0; Order::COUNT]; 3];
        (counts[0][0], counts[1][3], counts[2][11]) = (3, 2, 5);
        let text = text([(0, "Normal", counts)]);
        let rows: Vec<_> = text.lines().skip(4).collect();
        assert_eq!(
            rows[0],
            "Node    0, zone   Normal, type    Unmovable      3      0      0      0      0      0      0      0      0      0      0 "
        );
        assert!(rows[1].contains("Movable") && rows[1].ends_with("    10 "), "{}", rows[1]);
        assert!(rows[2].contains("Reclaimable      0      0      0      2"), "{}", rows[2]);
    }
}
