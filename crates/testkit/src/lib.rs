//! Helpers that the tests of several crates share: loom models that are counted, random numbers
//! that repeat, patterns that show when memory was given to two owners, and interrupts at every
//! instruction.

mod model;
#[cfg(loom)]
mod numbered;
mod pattern;
mod random;
#[cfg(all(target_os = "linux", target_arch = "x86_64", not(loom)))]
mod step;

#[cfg(loom)]
pub use model::{long_model, model, spawn};
#[cfg(loom)]
pub use numbered::{Numbered, become_cpu};
pub use pattern::Pattern;
pub use random::Random;
#[cfg(all(target_os = "linux", target_arch = "x86_64", not(loom)))]
pub use step::interrupt_each;
