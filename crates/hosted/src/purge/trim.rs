//! Trims: how much the caches over pages should release at the end of an interval.
//!
//! # Concepts
//! A cached object can keep a page allocated, and one allocated page between free ones keeps these
//! from being purged together. So when much memory has become idle, all caches are trimmed. The
//! thread that ends the interval can empty its own magazines, but not those of other threads,
//! except with a fence on every CPU. Each other thread empties its own after its next miss.

use core::sync::atomic::{AtomicU32, Ordering};

use page_frame::PAGE_SIZE;

use crate::purge::decay::Decay;
use crate::threads::tls::THREAD_SLOTS;

/// The memory that the caches over [`Pages`](crate::Pages) should release. Example: see
/// [`Pages::with_space`](crate::Pages::with_space).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trim {
    /// All that they did not need since the last call: [`Registry::age`](slab::Registry::age).
    Surplus,
    /// All that the calling thread can reach without the others:
    /// [`Registry::shrink_own`](slab::Registry::shrink_own).
    All,
}

/// Less idle memory is never a reason to trim all caches: 4 MiB, a guess.
const MIN_IDLE_PAGES: usize = (4 << 20) / PAGE_SIZE;

/// Counts trims of all caches, and which of them each thread has taken part in.
#[derive(Debug)]
pub(crate) struct TrimRounds {
    rounds: AtomicU32,
    /// By thread number.
    seen: [AtomicU32; THREAD_SLOTS],
}

impl TrimRounds {
    pub(crate) const fn new() -> Self {
        let seen = [const { AtomicU32::new(0) }; THREAD_SLOTS];
        Self { rounds: AtomicU32::new(0), seen }
    }

    /// Returns what to trim at the end of an interval in which `due` pages are to be purged: all
    /// caches, where these are at least a quarter of the committed pages. Then a round begins.
    pub(crate) fn trim_at(&self, due: usize, decay: &Decay) -> Trim {
        if due < MIN_IDLE_PAGES || due < decay.committed_pages() / 4 {
            return Trim::Surplus;
        }
        // Relaxed, like all here: the counts decide when a thread trims, and nothing else.
        self.rounds.fetch_add(1, Ordering::Relaxed);
        Trim::All
    }

    /// Returns whether a round has begun since the thread with this number last called this.
    #[inline]
    pub(crate) fn is_behind(&self, number: usize) -> bool {
        let rounds = self.rounds.load(Ordering::Relaxed);
        let is_behind = self.seen[number].load(Ordering::Relaxed) != rounds;
        if is_behind {
            self.seen[number].store(rounds, Ordering::Relaxed);
        }
        is_behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    /// Mutations that it catches: another share or minimum; a round at each end; a thread that
    /// takes part twice or never.
    #[test]
    fn a_quarter_of_the_committed_pages_begins_a_round_that_each_thread_sees_once() {
        let (rounds, decay) = (TrimRounds::new(), Decay::new(Duration::from_secs(1)));
        decay.note_allocated(8 * MIN_IDLE_PAGES, 0);
        let trim = |due| rounds.trim_at(due, &decay);
        assert_eq!(trim(2 * MIN_IDLE_PAGES - 1), Trim::Surplus);
        assert!(!rounds.is_behind(3));
        assert_eq!(trim(2 * MIN_IDLE_PAGES), Trim::All);
        assert_eq!([3, 3, 5].map(|number| rounds.is_behind(number)), [true, false, true]);
        decay.note_freed(8 * MIN_IDLE_PAGES);
        decay.note_purged(7 * MIN_IDLE_PAGES);
        assert_eq!(trim(MIN_IDLE_PAGES - 1), Trim::Surplus, "a small heap");
        assert!(!rounds.is_behind(3));
    }
}
