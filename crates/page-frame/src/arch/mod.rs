//! Code for particular machines: fences, hints, and loads in fewer instructions than the compiler
//! needs.
//!
//! Each function has a portable form, for Miri and for targets without assembly here, and a form
//! for loom.

pub(crate) mod hint;
pub(crate) mod load;
