//! Looking inside: leaked objects, invariants, and traces of events.

pub(crate) mod leaks;
pub(crate) mod trace;
pub(crate) mod validate;
