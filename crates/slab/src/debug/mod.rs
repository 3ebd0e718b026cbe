//! Looking inside: leaked objects, and invariants.

pub(crate) mod leaks;
pub(crate) mod validate;
