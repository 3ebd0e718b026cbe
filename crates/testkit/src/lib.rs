//! Helpers that the tests of several crates share: loom models that are counted, random numbers
//! that repeat, patterns that show when memory was given to two owners, interrupts at every
//! instruction, and what fuzz targets have found.

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

/// Returns how many steps a random history of usually `usual` steps has: as many, or at most 200 in
/// Miri, which takes a thousand times as long for each, and at most 2000 under ThreadSanitizer.
pub const fn steps(usual: usize) -> usize {
    let most = match (cfg!(miri), cfg!(thread_sanitizer)) {
        (true, _) => 200,
        (_, true) => 2000,
        _ => usual,
    };
    if usual > most { most } else { usual }
}
