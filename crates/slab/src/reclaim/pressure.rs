//! Memory is short: which cache gives what back, and in which order.
//!
//! # Concepts
//! Cheapest first, and from those who will miss it least:
//!
//! 1. the surplus of every cache: what nobody has needed since the last [turn](crate::working_set), so idle caches give
//!    first, and busy ones keep their working set;
//! 2. empty slabs, each cache in proportion to those it has;
//! 3. the magazines of depots and of all CPUs, and what becomes empty by that;
//! 4. the internal caches;
//! 5. what clients can do without: their callbacks free objects, whose slabs then go home.
//!
//! # Concurrency
//! No lock is held between two caches, nor during callbacks. With [`Patience::Try`] locks are only tried.

use crate::cache::inner::CacheInner;
use crate::percpu::path::Patience;
use crate::registry::handle::Shared;
use crate::system::System;

impl<S: System> Shared<S> {
    /// Gives back at least `target_pages` if it can; returns how many.
    pub(crate) fn shrink(&self, target_pages: usize, patience: Patience) -> usize {
        let mut given = 0;
        self.visit_until(target_pages, &mut given, |inner, _| inner.release_surplus(patience));
        given += self.shrink_in_proportion(target_pages.saturating_sub(given), patience);
        self.visit_until(target_pages, &mut given, |inner, wanted| inner.shrink(wanted, patience));
        if given < target_pages {
            given += self.shrink_internal(target_pages - given, patience);
        }
        self.visit_until(target_pages, &mut given, |inner, wanted| {
            let Some(reclaim) = inner.settings.reclaim else { return 0 };
            reclaim();
            inner.shrink(wanted, patience)
        });
        given
    }

    /// Takes empty slabs of each cache, in proportion to those it has; returns the pages that went home.
    fn shrink_in_proportion(&self, target_pages: usize, patience: Patience) -> usize {
        let mut all = 0;
        self.list.visit(&self.locking, |inner| all += inner.reclaimable());
        let mut given = 0;
        self.visit_until(target_pages, &mut given, |inner, _| {
            let own = inner.reclaimable();
            // Where all have less than is wanted, each gives all.
            let share = if all <= target_pages { own } else { share(target_pages, own, all) };
            if share > 0 { inner.shrink_empty(share, patience) } else { 0 }
        });
        given
    }

    /// Shrinks the internal caches. Records last: magazines and inners going home may free some.
    fn shrink_internal(&self, target_pages: usize, patience: Patience) -> usize {
        self.internal().rev().fold(0, |given, inner| {
            let wanted = target_pages.saturating_sub(given);
            if wanted > 0 { given + inner.shrink(wanted, patience) } else { given }
        })
    }

    /// Calls `shrink` with each cache and the pages still wanted, as long as some are; adds what it returns to `given`.
    fn visit_until(
        &self,
        target_pages: usize,
        given: &mut usize,
        mut shrink: impl FnMut(&CacheInner<S>, usize) -> usize,
    ) {
        self.list.visit(&self.locking, |inner| {
            if *given < target_pages {
                *given += shrink(inner, target_pages - *given);
            }
        });
    }
}

/// Returns `target * own / all`, rounded up.
fn share(target: usize, own: usize, all: usize) -> usize {
    (target as u128 * own as u128).div_ceil(all as u128) as usize
}
