//! Differences between the real build and the build under the model checker (`--cfg loom`).

/// Whether this build runs under the model checker; for constants that are smaller there.
pub const MODELLED: bool = cfg!(loom);

/// Declares a function that is `const` except under loom, whose types cannot be built at compile
/// time.
#[cfg(not(loom))]
#[doc(hidden)]
#[macro_export]
macro_rules! const_unless_loom {
    ($(#[$meta:meta])* $vis:vis fn $($rest:tt)*) => { $(#[$meta])* $vis const fn $($rest)* };
    ($(#[$meta:meta])* $vis:vis unsafe fn $($rest:tt)*) => { $(#[$meta])* $vis const unsafe fn $($rest)* };
}

/// Declares a function that is `const` except under loom, whose types cannot be built at compile
/// time.
#[cfg(loom)]
#[doc(hidden)]
#[macro_export]
macro_rules! const_unless_loom {
    ($(#[$meta:meta])* $vis:vis fn $($rest:tt)*) => { $(#[$meta])* $vis fn $($rest)* };
    ($(#[$meta:meta])* $vis:vis unsafe fn $($rest:tt)*) => { $(#[$meta])* $vis unsafe fn $($rest)* };
}
pub(crate) use const_unless_loom;

/// Asserts at compile time, except under loom, whose types have other sizes.
#[cfg(not(loom))]
#[doc(hidden)]
#[macro_export]
macro_rules! assert_unless_loom {
    ($($condition:tt)*) => { const _: () = assert!($($condition)*); };
}

/// Asserts at compile time, except under loom, whose types have other sizes.
#[cfg(loom)]
#[doc(hidden)]
#[macro_export]
macro_rules! assert_unless_loom {
    ($($condition:tt)*) => {};
}
