//! The aging clock: measures time by traffic, as a library has no other clock.

use page_frame::sync::{AtomicU8, AtomicUsize, Ordering};

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

/// How much work a step of an aging pass may do. The unit is the return of a free object to its
/// slab, about 150 instructions. Other work counts as a number of such returns.
#[derive(Debug)]
pub(crate) struct Work(usize);

impl Work {
    /// The work of a look at a cache.
    pub(crate) const CACHE: usize = 3;
    /// The work of the release of a slab, or of the memory of a magazine.
    pub(crate) const SLAB: usize = 4;

    /// Returns the work of one step, which an allocation or a free does beside its own. A step
    /// exceeds it by at most a magazine.
    ///
    /// Measured in a kernel with about 70 caches: 99.9 % of the calls of `kmalloc` took at most
    /// 6,361 instructions with 32, and 13,554 with 64.
    pub(crate) const fn of_step() -> Self {
        Self(32)
    }

    pub(crate) const fn unlimited() -> Self {
        Self(usize::MAX)
    }

    pub(crate) const fn is_left(&self) -> bool {
        self.0 > 0
    }

    /// Returns how many parts of `amount` each may be done; at least one while work is left.
    pub(crate) const fn parts(&self, amount: usize) -> usize {
        self.0.div_ceil(amount)
    }

    pub(crate) const fn spend(&mut self, amount: usize) {
        self.0 = self.0.saturating_sub(amount);
    }
}

/// No pass is under way.
const IDLE: u8 = 0;
/// A step of a pass runs.
const RUNNING: u8 = 1;
/// A pass is under way, and none of its steps runs.
const PAUSED: u8 = 2;

/// Counts pages that caches take and return, and tells when the next aging pass is due.
#[derive(Debug)]
pub(crate) struct AgingClock {
    pace: AgingPace,
    /// Pages that all caches hold.
    pages: AtomicUsize,
    /// Pages taken and returned since the last pass.
    traffic: AtomicUsize,
    /// [`IDLE`], [`RUNNING`] or [`PAUSED`].
    state: AtomicU8,
    /// Where the pass that is under way continues. Only the step that runs uses it. Not modelled by
    /// loom, as it decides which caches are visited, and nothing else.
    stage: core::sync::atomic::AtomicU8,
    /// Whether a step of a pass is due. Not modelled by loom: it decides when caches are visited,
    /// and nothing else.
    is_due: core::sync::atomic::AtomicBool,
}

impl AgingClock {
    pub(crate) fn new(pace: AgingPace) -> Self {
        Self {
            pace,
            pages: AtomicUsize::new(0),
            traffic: AtomicUsize::new(0),
            state: AtomicU8::new(IDLE),
            stage: core::sync::atomic::AtomicU8::new(0),
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

    /// Whether a step of a pass is due: the next one of the pass under way, or the first.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        self.is_due.load(Ordering::Relaxed)
    }

    /// Begins a step, unless one is running: the first of a pass, or the next one of the pass that
    /// is under way. Dropping the result ends the pass, also when a hook panics.
    pub(crate) fn begin(&self) -> Option<AgingStep<'_>> {
        // Acquire: pairs with the Release at the end of a step; sees its stage.
        match self.state.swap(RUNNING, Ordering::Acquire) {
            RUNNING => None,
            state => Some(AgingStep { clock: self, is_first: state == IDLE }),
        }
    }
}

/// A step of an aging pass that is running.
pub(crate) struct AgingStep<'c> {
    clock: &'c AgingClock,
    /// Whether it is the first one of its pass.
    pub(crate) is_first: bool,
}

impl AgingStep<'_> {
    /// Returns the stage that the step before this one left; 0 at first.
    pub(crate) fn stage(&self) -> usize {
        // Relaxed: the steps are ordered by their state.
        if self.is_first { 0 } else { self.clock.stage.load(Ordering::Relaxed).into() }
    }

    /// Ends the step, but not the pass: the next step is due, and continues at `stage`, which is a
    /// small number.
    pub(crate) fn pause(self, stage: usize) {
        let clock = self.clock;
        core::mem::forget(self);
        clock.stage.store(stage as u8, Ordering::Relaxed);
        // A step may begin a pass just after another CPU has ended one, and so find no step due.
        // Relaxed, as in `note`.
        clock.is_due.store(true, Ordering::Relaxed);
        // Release: pairs with the Acquire in `begin`.
        clock.state.store(PAUSED, Ordering::Release);
    }
}

impl Drop for AgingStep<'_> {
    fn drop(&mut self) {
        self.clock.traffic.store(0, Ordering::Relaxed);
        self.clock.is_due.store(false, Ordering::Relaxed);
        // Release: pairs with the Acquire in `begin`.
        self.clock.state.store(IDLE, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Two CPUs see that a step is due, and one of them ends the pass before the other begins.
    #[test]
    fn the_next_step_is_due_after_a_pause_even_if_a_pass_has_just_ended() {
        let clock = AgingClock::new(AgingPace::BY_TRAFFIC);
        clock.note(1000, 0);
        assert!(clock.is_due(), "for both");
        drop(clock.begin());
        let step = clock.begin().expect("none is running");
        assert!(step.is_first);
        step.pause(1);
        assert!(clock.is_due());
        let step = clock.begin().expect("none is running");
        assert_eq!((step.is_first, step.stage()), (false, 1));
        drop(step);
        assert!(!clock.is_due());
    }
}
