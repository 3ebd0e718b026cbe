//! Looking inside: leaked objects, and invariants.

pub(crate) mod leaks;
pub(crate) mod magazines;
pub(crate) mod validate;
#[cfg(all(test, not(loom)))]
mod validate_tests;
