//! Helpers that the tests of several crates share: loom models that are counted, random numbers that repeat, and
//! patterns that show when memory was given to two owners.

mod model;
mod pattern;
mod random;

#[cfg(loom)]
pub use model::{long_model, model, spawn};
pub use pattern::Pattern;
pub use random::Random;
