//! How short memory is.

/// How short memory is.
///
/// ```
/// use buddy::Pressure;
/// fn react(pressure: Pressure) -> &'static str {
///     match pressure {
///         Pressure::None => "nothing",
///         Pressure::Low => "wake the task that shrinks caches",
///         Pressure::Min => "let ordinary requests wait for that task",
///     }
/// }
/// assert_eq!(react(Pressure::default()), "nothing");
/// assert!(Pressure::Min > Pressure::Low);
/// ```
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
