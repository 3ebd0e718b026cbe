//! The caches of a system: making, visiting, aging, shrinking, freezing and destroying them.

pub(crate) mod aging;
pub(crate) mod frozen;
pub(crate) mod handle;
pub(crate) mod inner;
pub(crate) mod pressure;
