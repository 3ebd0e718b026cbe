//! `fork` in programs with threads.

pub(crate) mod forking;
pub(crate) mod lock;
