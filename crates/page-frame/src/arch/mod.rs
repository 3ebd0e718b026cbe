//! What is written for a machine by hand: fences, hints, and loads that the compiler does not join.
//!
//! Each function has a portable form, which Miri and targets without assembly here use, and a form for loom.

pub(crate) mod hint;
pub(crate) mod load;
