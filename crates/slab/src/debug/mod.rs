//! Inspection of a cache: its objects in use, and checks of its invariants.

pub(crate) mod leaks;
pub(crate) mod magazines;
pub(crate) mod validate;
#[cfg(all(test, not(loom)))]
mod validate_tests;
