//! Magazines on their way between a CPU, the depot and the internal caches that they come from.

use page_frame::{IrqLockGuard, IrqLockToken};

use crate::cache::inner::CacheInner;
use crate::debug::trace::Event;
use crate::hardening::Off;
use crate::percpu::depot::Depot;
use crate::percpu::magazine::Magazine;
use crate::percpu::path::{Patience, Reclaim};
use crate::percpu::slot::CpuSlot;
use crate::system::System;
use crate::unwind::MagazineGuard;

impl<S: System> CacheInner<S> {
    /// Returns a full magazine from the depot in exchange for `spare`, which is empty, if there is room for it.
    pub(crate) fn take_full(&self, spare: &mut Option<Magazine>) -> Option<Magazine> {
        let full = {
            let token = self.system().locking.lock_token();
            self.lock_depot(&token)?.take_full(spare)
        }?;
        let objects = full.length();
        let mut held = MagazineGuard::new(self, Some(full));
        self.trace(|| Event::MagazineLoaded { objects });
        held.magazine.take()
    }

    /// Gives `full` to the depot and returns an empty one; where the depot has enough, empties `full` into the slabs.
    pub(crate) fn exchange_full(&self, full: Magazine) -> Option<Magazine> {
        let objects = full.length();
        let offered = {
            let token = self.system().locking.lock_token();
            match self.lock_depot(&token) {
                Some(mut depot) => match depot.offer(full) {
                    Some(full) => Err(full),
                    None => Ok(depot.take_empty()),
                },
                None => Err(full),
            }
        };
        let empty = match offered {
            Ok(empty) => {
                let mut held = MagazineGuard::new(self, empty);
                self.trace(|| Event::MagazineStored { objects });
                held.magazine.take()
            }
            Err(full) => Some(self.empty(full, Patience::Wait).0),
        };
        self.renew(empty)
    }

    /// Returns an empty magazine, from the depot or new; `None` when there is no memory for one.
    pub(crate) fn take_empty(&self) -> Option<Magazine> {
        let from_depot = {
            let token = self.system().locking.lock_token();
            self.lock_depot(&token).and_then(|mut depot| depot.take_empty())
        };
        self.renew(from_depot)
    }

    /// Returns an empty magazine of the present capacity for `old`, which is empty: `old` itself, or a new one. Where there is
    /// no memory for one, `old`.
    pub(crate) fn renew(&self, old: Option<Magazine>) -> Option<Magazine> {
        if old.as_ref().is_some_and(|old| old.class() == self.sizing.class()) {
            return old;
        }
        let mut old = MagazineGuard::new(self, old);
        let Some(new) = self.new_magazine() else { return old.magazine.take() };
        if let Some(old) = old.magazine.take() {
            self.free_magazine(old, Patience::Wait);
        }
        Some(new)
    }

    pub(crate) fn new_magazine(&self) -> Option<Magazine> {
        let class = self.sizing.class();
        let memory = self.system().magazines(class).take_one::<Off>(Reclaim::Allowed).ok()?;
        // SAFETY: an object of the internal cache for magazines of this class.
        Some(unsafe { Magazine::new_in(memory, class) })
    }

    /// Finds another place for `magazine`: the depot, or, emptied, the internal cache it came from.
    pub(crate) fn put_away(&self, mut magazine: Magazine) {
        if !magazine.is_full() {
            magazine = self.empty(magazine, Patience::Wait).0;
            if magazine.class() != self.sizing.class() {
                self.free_magazine(magazine, Patience::Wait);
                return;
            }
        }
        let objects = magazine.length();
        let left = {
            let token = self.system().locking.lock_token();
            match self.lock_depot(&token) {
                Some(mut depot) => depot.offer(magazine),
                None => Some(magazine),
            }
        };
        if let Some(left) = left {
            let (left, _) = self.empty(left, Patience::Wait);
            self.free_magazine(left, Patience::Wait);
        } else if objects > 0 {
            self.trace(|| Event::MagazineStored { objects });
        }
    }

    /// Gives the memory of `magazine`, which is empty, back; returns the pages that went home.
    pub(crate) fn free_magazine(&self, magazine: Magazine, patience: Patience) -> usize {
        let class = magazine.class();
        self.system().magazines(class).give_back(patience, &[magazine.into_memory()])
    }

    /// Takes the depot's lock, and notes when another CPU had it.
    fn lock_depot<'l>(
        &'l self,
        token: &'l IrqLockToken<'_, CpuSlot, S::Cpus>,
    ) -> Option<IrqLockGuard<'l, Depot, S::Cpus>> {
        token.try_lock(&self.depot).or_else(|| {
            self.sizing.note_wait();
            token.lock(&self.depot)
        })
    }
}
