//! Attempts that are skipped after others have failed.

use core::sync::atomic::{AtomicUsize, Ordering};

/// Maximum attempts that are skipped after a failure.
const MAX_SKIPPED: usize = 64;

/// How many attempts to skip. Each failure in a row doubles it, up to 64; a success resets it.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    /// How many attempts the last failure causes to be skipped.
    length: AtomicUsize,
    /// How many of them are still to be skipped.
    left: AtomicUsize,
}

impl Backoff {
    /// Skips nothing.
    pub(super) const fn new() -> Self {
        Self { length: AtomicUsize::new(0), left: AtomicUsize::new(0) }
    }

    /// Returns whether an attempt may be made; otherwise counts it as skipped.
    pub(super) fn may_try(&self) -> bool {
        // Relaxed, here and below: counts that may be lost.
        let to_skip = self.left.load(Ordering::Relaxed);
        self.left.store(to_skip.saturating_sub(1), Ordering::Relaxed);
        to_skip == 0
    }

    /// Notes whether an attempt has failed.
    pub(super) fn note(&self, has_failed: bool) {
        let last = self.length.load(Ordering::Relaxed);
        let next = if has_failed { (2 * last).clamp(1, MAX_SKIPPED) } else { 0 };
        self.length.store(next, Ordering::Relaxed);
        self.left.store(next, Ordering::Relaxed);
    }

    /// Returns whether the last attempt has failed.
    #[cfg(test)]
    pub(super) fn is_waiting(&self) -> bool {
        self.length.load(Ordering::Relaxed) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutations that it catches: no doubling; no limit; a success that does not reset.
    #[test]
    fn failures_in_a_row_double_the_pause_and_a_success_ends_it() {
        let backoff = Backoff::new();
        let skipped = || (0..1000).take_while(|_| !backoff.may_try()).count();
        assert_eq!(skipped(), 0);
        for expected in [1, 2, 4, 8, 16, 32, 64, 64] {
            backoff.note(true);
            assert_eq!(skipped(), expected);
        }
        backoff.note(false);
        assert_eq!(skipped(), 0);
        backoff.note(true);
        assert_eq!(skipped(), 1);
    }
}
