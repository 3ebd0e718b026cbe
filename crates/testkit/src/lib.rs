//! Helpers that the tests of several crates share: counted loom models, and random numbers that
//! repeat. Patterns in memory show when it has two owners. Interrupts come at every instruction.
//! Inputs that fuzz targets found are tested again.

mod corpus;
mod model;
#[cfg(loom)]
mod numbered;
mod pattern;
mod random;
#[cfg(all(target_os = "linux", target_arch = "x86_64", not(any(loom, miri))))]
mod step;

pub use corpus::for_each_kept_input;
#[cfg(loom)]
pub use model::{long_model, model, spawn};
#[cfg(loom)]
pub use numbered::{Numbered, become_cpu};
pub use pattern::Pattern;
pub use random::Random;
#[cfg(all(target_os = "linux", target_arch = "x86_64", not(any(loom, miri))))]
pub use step::interrupt_each;

/// Returns the number of steps for a random history that has `usual` of them. Miri takes a thousand
/// times as long for each step, so it gets at most 200; ThreadSanitizer gets at most 2000.
pub const fn steps(usual: usize) -> usize {
    let most = match (cfg!(miri), cfg!(thread_sanitizer)) {
        (true, _) => 200,
        (_, true) => 2000,
        _ => usual,
    };
    if usual > most { most } else { usual }
}
