//! How short memory is.

/// How short memory is. Example: see [`Watermarks`](crate::Watermarks).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Pressure {
    /// There is enough memory.
    #[default]
    None,
    /// Less than `low` was free, and since then not more than `high`.
    Low,
    /// Less than `min` is free: only the reserve is left.
    Min,
}
