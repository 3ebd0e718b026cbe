//! The aging clock: measures time by traffic, as a library has no other clock.

use page_frame::sync::{AtomicBool, AtomicUsize, Ordering};

/// How much traffic there is between two passes, each of which visits every cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AgingPace {
    /// A pass is due after traffic of this part of the pages held.
    parts: usize,
    /// The minimum, in pages.
    min_traffic: usize,
}

impl AgingPace {
    /// Where traffic is the only clock: a guess.
    pub(crate) const BY_TRAFFIC: Self = Self { parts: 32, min_traffic: 64 };
    /// Where the system has a clock, and ages the caches by itself too. Passes by traffic are rarer
    /// then. Measured: with the pace of `BY_TRAFFIC`, a program that changes the size of its
    /// objects every 20,000 objects spends a tenth of its instructions in such passes.
    pub(crate) const BESIDE_TIME: Self = Self { parts: 8, min_traffic: 1024 };
}

/// Counts pages that caches take and return, and tells when the next aging pass is due.
#[derive(Debug)]
pub(crate) struct AgingClock {
    pace: AgingPace,
    /// Pages that all caches hold.
    pages: AtomicUsize,
    /// Pages taken and returned since the last pass.
    traffic: AtomicUsize,
    /// Set while a pass runs.
    is_running: AtomicBool,
    /// Whether a pass is due. Not modelled by loom: it decides when caches are visited, and
    /// nothing else.
    is_due: core::sync::atomic::AtomicBool,
}

impl AgingClock {
    pub(crate) fn new(pace: AgingPace) -> Self {
        Self {
            pace,
            pages: AtomicUsize::new(0),
            traffic: AtomicUsize::new(0),
            is_running: AtomicBool::new(false),
            is_due: core::sync::atomic::AtomicBool::new(false),
        }
    }

    /// Notes that a cache took `taken` pages and returned `given`.
    ///
    /// Relaxed throughout: the counts decide when caches are visited, and nothing else.
    pub(crate) fn note(&self, taken: usize, given: usize) {
        let before = if taken > given {
            self.pages.fetch_add(taken - given, Ordering::Relaxed)
        } else {
            self.pages.fetch_sub(given - taken, Ordering::Relaxed)
        };
        let traffic = self.traffic.fetch_add(taken + given, Ordering::Relaxed) + taken + given;
        if traffic >= (before / self.pace.parts).max(self.pace.min_traffic) {
            self.is_due.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a pass is due.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        self.is_due.load(Ordering::Relaxed)
    }

    /// Begins a pass, unless one is running. Dropping the result ends it, also when a hook panics.
    pub(crate) fn begin(&self) -> Option<AgingPass<'_>> {
        // Acquire: pairs with the Release at the end of a pass, though passes share nothing.
        if self.is_running.swap(true, Ordering::Acquire) { None } else { Some(AgingPass(self)) }
    }
}

/// An aging pass that is running.
pub(crate) struct AgingPass<'c>(&'c AgingClock);

impl Drop for AgingPass<'_> {
    fn drop(&mut self) {
        self.0.traffic.store(0, Ordering::Relaxed);
        self.0.is_due.store(false, Ordering::Relaxed);
        self.0.is_running.store(false, Ordering::Release);
    }
}
