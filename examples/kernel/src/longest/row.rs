//! A row: the lengths of the operations of one kind, in instructions, and their limit.

use alloc::vec::Vec;

use crate::console::print;
use crate::machine::time;

/// Ticks of one instruction, as `-icount shift=5` says.
const TICKS: u64 = 32;
/// The figures that the documentation states: row, parts, median, 99.9th percentile, longest.
const FIGURES: &str = include_str!("../../longest.csv");

/// The rows printed so far.
pub(super) struct Report {
    rows: usize,
    is_within: bool,
}

impl Report {
    pub(super) fn new() -> Self {
        Self { rows: 0, is_within: true }
    }

    /// Returns whether each row that has a figure was printed, and is within its limit.
    pub(super) fn is_good(&self) -> bool {
        let figures = FIGURES.lines().count();
        if self.rows != figures {
            print!("{} rows were counted, and {figures} have figures", self.rows);
        }
        self.is_within && self.rows == figures
    }

    /// Prints each of `rows`, and compares its longest operation with the limit.
    pub(super) fn add<const N: usize>(&mut self, rows: [Row; N]) {
        rows.into_iter().for_each(|row| self.add_one(row));
    }

    fn add_one(&mut self, mut row: Row) {
        let longest = row.lengths.iter().max().copied().unwrap_or(0);
        let (median, most) = (row.all_but_one_in(2), row.all_but_one_in(1000));
        let limit = limit(row.name);
        print!("longest,{},{median},{most},{longest},{limit}", row.name);
        self.rows += 1;
        self.is_within &= longest > 0 && u64::from(longest) <= limit;
    }
}

/// Returns the limit of row `name`: its figure and a tenth. Zero if it has none.
fn limit(name: &str) -> u64 {
    let mut lines = FIGURES.lines().map(|line| line.split(','));
    let figure = lines.find_map(|mut fields| {
        if fields.next() == Some(name) { fields.next_back()?.parse::<u64>().ok() } else { None }
    });
    figure.map_or(0, |figure| figure + figure / 10)
}

/// The operations of one kind, each counted by itself.
pub(super) struct Row {
    name: &'static str,
    /// Ticks that the counting itself takes.
    floor: u64,
    lengths: Vec<u32>,
}

impl Row {
    /// Makes the row `name` for at most `operations` operations. To count them allocates nothing.
    pub(super) fn new(name: &'static str, operations: usize) -> Self {
        let start = time();
        let floor = time() - start;
        Self { name, floor, lengths: Vec::with_capacity(operations) }
    }

    /// Counts the instructions of `operation`.
    #[inline(always)]
    pub(super) fn count<R>(&mut self, operation: impl FnOnce() -> R) -> R {
        self.count_if(|_| true, operation)
    }

    /// Counts the instructions of `operation` if its result `is_counted`.
    #[inline(always)]
    pub(super) fn count_if<R>(
        &mut self,
        is_counted: impl FnOnce(&R) -> bool,
        operation: impl FnOnce() -> R,
    ) -> R {
        let start = time();
        let result = operation();
        let ticks = time() - start;
        if is_counted(&result) {
            self.push(ticks);
        }
        result
    }

    #[inline(never)]
    fn push(&mut self, ticks: u64) {
        assert!(self.lengths.len() < self.lengths.capacity(), "{} is too short", self.name);
        self.lengths.push((ticks.saturating_sub(self.floor) / TICKS) as u32);
    }

    /// Returns the length that all but one operation in `rest` have at most.
    fn all_but_one_in(&mut self, rest: usize) -> u32 {
        let Some(last) = self.lengths.len().checked_sub(1) else { return 0 };
        *self.lengths.select_nth_unstable(last - last / rest).1
    }
}
