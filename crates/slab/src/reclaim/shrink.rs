//! Shrinking: what a cache can do without goes home, cheapest first.
//!
//! # Concepts
//! Empty slabs cost nothing to give. Then the magazines of the depot and of all CPUs are emptied, their slots taken over
//! (an idle CPU need not do anything for it), and the slabs that become empty by that go home too.
//!
//! # Concurrency
//! With [`Patience::Try`] locks are only tried, and what another CPU holds stays. Nothing is allocated.

use crate::cache::inner::CacheInner;
use crate::debug::trace::Event;
use crate::percpu::magazine::Chain;
use crate::percpu::path::Patience;
use crate::slabs::list::SlabList;
use crate::system::System;

impl<S: System> CacheInner<S> {
    /// Gives back at least `target_pages` if it can; returns how many.
    pub(crate) fn shrink(&self, target_pages: usize, patience: Patience) -> usize {
        let mut given = self.shrink_empty(target_pages, patience);
        if given < target_pages {
            given += self.empty_magazines(patience);
            given += self.shrink_empty(target_pages.saturating_sub(given), patience);
        }
        given
    }

    /// Returns an estimate of the pages that empty slabs hold.
    pub(crate) fn reclaimable(&self) -> usize {
        let token = self.system().locking.lock_token();
        let set = token.try_lock(&self.set);
        set.map_or(0, |set| set.empty_slabs() * self.slab_pages())
    }

    pub(crate) fn shrink_empty(&self, target_pages: usize, patience: Patience) -> usize {
        let geometry = &self.settings.geometry;
        let most = target_pages.div_ceil(self.slab_pages());
        let mut releasing = SlabList::new();
        {
            let token = self.system().locking.lock_token();
            let set = match patience {
                Patience::Wait => token.lock(&self.set),
                Patience::Try => token.try_lock(&self.set),
            };
            let Some(mut set) = set else { return 0 };
            set.take_pending(&self.pending, geometry);
            set.sort_all(geometry);
            set.forget_missed();
            self.pop_empty(&mut set, self.empty_slabs_at_least(), most, &mut releasing);
        }
        self.release_all(releasing)
    }

    /// Gives up the full magazines and empty slabs that nobody has needed since the last turn; returns the pages that went
    /// home.
    pub(crate) fn release_surplus(&self, patience: Patience) -> usize {
        self.release_idle_magazines(patience) + self.release_idle_slabs(patience)
    }

    pub(crate) fn release_idle_magazines(&self, patience: Patience) -> usize {
        let chains = {
            let token = self.system().locking.lock_token();
            let depot = match patience {
                Patience::Wait => token.lock(&self.depot),
                Patience::Try => token.try_lock(&self.depot),
            };
            depot.map(|mut depot| depot.turn())
        };
        let Some([full, empty]) = chains else { return 0 };
        let mut emptying = Draining { inner: self, full, empty, patience, pages: 0 };
        self.trace_emptied(&emptying.full);
        emptying.empty_all();
        emptying.pages
    }

    pub(crate) fn release_idle_slabs(&self, patience: Patience) -> usize {
        let mut releasing = SlabList::new();
        {
            let token = self.system().locking.lock_token();
            let set = match patience {
                Patience::Wait => token.lock(&self.set),
                Patience::Try => token.try_lock(&self.set),
            };
            let Some(mut set) = set else { return 0 };
            set.take_pending(&self.pending, &self.settings.geometry);
            let Some(surplus) = set.turn() else { return 0 };
            self.sizing.note_idle();
            self.pop_empty(&mut set, self.empty_slabs_at_least(), surplus, &mut releasing);
        }
        self.release_all(releasing)
    }

    /// Empties all magazines of slots and depot into the slabs; returns the pages that went home by that.
    pub(crate) fn empty_magazines(&self, patience: Patience) -> usize {
        self.sizing.reset();
        let [full, empty] = {
            let token = self.system().locking.lock_token();
            let depot = match patience {
                Patience::Wait => token.lock(&self.depot),
                Patience::Try => token.try_lock(&self.depot),
            };
            depot.map_or([Chain::new(), Chain::new()], |mut depot| depot.take_all())
        };
        let mut emptying = Draining { inner: self, full, empty, patience, pages: 0 };
        self.trace_emptied(&emptying.full);
        if self.sizing.has_magazines() {
            self.slots.take_over(
                |_| true,
                |_, slot| {
                    slot.forget_misses();
                    let magazines = [slot.unload(), slot.take_previous()];
                    for magazine in magazines.into_iter().flatten() {
                        emptying.full.push(magazine);
                    }
                },
            );
        }
        emptying.empty_all();
        emptying.pages
    }

    /// Tells whoever listens that the depot gave up the magazines of `full`.
    fn trace_emptied(&self, full: &Chain) {
        full.iter().for_each(|magazine| {
            self.trace(|| Event::MagazineGone { objects: magazine.length() });
        });
    }

    /// Empties the magazines of `full` into the slabs, and gives their memory and that of `empty` back; returns the pages
    /// that went home.
    pub(crate) fn empty_all(&self, full: Chain, empty: Chain, patience: Patience) -> usize {
        let mut emptying = Draining { inner: self, full, empty, patience, pages: 0 };
        emptying.empty_all();
        emptying.pages
    }
}

/// Magazines that are emptied into the slabs. Dropping it empties the rest, when a destructor or an observer panics.
struct Draining<'c, S: System> {
    inner: &'c CacheInner<S>,
    full: Chain,
    empty: Chain,
    patience: Patience,
    /// The pages that went home by that.
    pages: usize,
}

impl<S: System> Draining<'_, S> {
    fn empty_all(&mut self) {
        while let Some(magazine) = self.full.pop() {
            let (magazine, pages) = self.inner.empty(magazine, self.patience);
            self.pages += pages;
            self.empty.push(magazine);
        }
        while let Some(magazine) = self.empty.pop() {
            self.pages += self.inner.free_magazine(magazine, self.patience);
        }
    }
}

impl<S: System> Drop for Draining<'_, S> {
    fn drop(&mut self) {
        self.empty_all();
    }
}
