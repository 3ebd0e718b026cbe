//! The command line's selection: number of rounds, rows, and contestants.

/// Rounds, rows and rivals that are wanted.
pub struct Asked {
    /// How often each row is measured.
    pub rounds: usize,
    /// How the names of rows begin; all rows where empty.
    pub rows: Vec<String>,
    /// Whether rivals sit out.
    pub alone: bool,
}

impl Asked {
    /// Whether the row called `row` is wanted.
    pub fn wants(&self, row: &str) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|begin| row.starts_with(begin.as_str()))
    }

    /// Whether the row called `row`, which takes minutes, is wanted: only if the command line names
    /// it in full.
    pub fn names(&self, row: &str) -> bool {
        self.rows.iter().any(|name| name == row)
    }

    /// Returns those of `contestants` that take part.
    pub fn among<'c, T>(&self, contestants: &'c [T]) -> &'c [T] {
        if self.alone { ours(contestants) } else { contestants }
    }
}

/// Returns ours and the floor, with which every list of contestants begins.
pub fn ours<T>(contestants: &[T]) -> &[T] {
    &contestants[..2]
}
