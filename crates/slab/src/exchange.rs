//! Magazines on their way between a CPU, the depot and the internal caches that they come from.
//!
//! A magazine in hand is owned by whoever has it: in no slot, no depot, no chain.

use core::ptr::NonNull;

use page_frame::{Cpu, Masked, PageMap, PageSource, Slow};

use crate::checks::Off;
use crate::core::Core;
use crate::cpu_slot::CpuSlot;
use crate::depot::Depot;
use crate::magazine::Magazine;
use crate::walk::Patience;

impl<P: PageSource + PageMap, C: Cpu + Clone> Core<P, C> {
    /// Returns a full magazine from the depot in exchange for `spare`, which is ours and empty, if there is room for it.
    pub(crate) fn take_full(
        &self,
        spare: &mut Option<NonNull<Magazine>>,
    ) -> Option<NonNull<Magazine>> {
        let slow = self.system().locking.slow();
        // SAFETY: ours, and empty.
        unsafe { self.lock_depot(&slow)?.take_full(spare, self.depot_places()) }
    }

    /// Gives `full`, which is ours, to the depot and returns an empty one; where the depot has enough, empties `full` into
    /// the slabs.
    pub(crate) fn exchange_full(&self, full: NonNull<Magazine>) -> Option<NonNull<Magazine>> {
        let mut left = Some(full);
        let empty = {
            let slow = self.system().locking.slow();
            self.lock_depot(&slow).and_then(|mut depot| {
                // SAFETY: ours, and full.
                unsafe { depot.offer_full(&mut left, self.depot_places()) };
                if left.is_none() { depot.take_empty() } else { None }
            })
        };
        if left.is_some() {
            self.empty(full, Patience::Wait);
            return self.renew(left);
        }
        self.renew(empty)
    }

    /// Returns an empty magazine, from the depot or new; `None` when there is no memory for one.
    pub(crate) fn take_empty(&self) -> Option<NonNull<Magazine>> {
        let from_depot = {
            let slow = self.system().locking.slow();
            self.lock_depot(&slow).and_then(|mut depot| depot.take_empty())
        };
        self.renew(from_depot)
    }

    /// Returns an empty magazine of the present capacity for `old`, which is ours and empty: `old` itself, or a new one.
    /// Where there is no memory for one, `old`.
    pub(crate) fn renew(&self, old: Option<NonNull<Magazine>>) -> Option<NonNull<Magazine>> {
        // SAFETY: ours.
        let class = old.map(|old| unsafe { old.as_ref() }.class());
        if class == Some(self.tuning.class()) {
            return old;
        }
        let Some(new) = self.new_magazine() else { return old };
        if let Some(old) = old {
            self.free_magazine(old, Patience::Wait);
        }
        Some(new)
    }

    pub(crate) fn new_magazine(&self) -> Option<NonNull<Magazine>> {
        let class = self.tuning.class();
        let memory = self.system().magazines(class).allocate::<Off>().ok()?;
        // SAFETY: an object of the internal cache for magazines of this class.
        Some(unsafe { Magazine::new_in(memory, class) })
    }

    /// Finds another place for `magazine`, which is ours: the depot, or, emptied, the internal cache it came from.
    pub(crate) fn put_away(&self, magazine: NonNull<Magazine>) {
        // SAFETY: ours.
        let header = unsafe { magazine.as_ref() };
        let (is_full, class) = (header.is_full(), header.class());
        if !is_full {
            self.empty(magazine, Patience::Wait);
        }
        let mut left = Some(magazine);
        if is_full || class == self.tuning.class() {
            let slow = self.system().locking.slow();
            if let Some(mut depot) = self.lock_depot(&slow) {
                if is_full {
                    // SAFETY: ours.
                    unsafe { depot.offer_full(&mut left, self.depot_places()) };
                } else {
                    // SAFETY: ours, and empty.
                    unsafe { depot.offer_empty(&mut left, self.depot_places()) };
                }
            }
        }
        if left.is_some() {
            if is_full {
                self.empty(magazine, Patience::Wait);
            }
            self.free_magazine(magazine, Patience::Wait);
        }
    }

    /// Gives the memory of `magazine`, which is ours and empty, back; returns the pages that went home.
    pub(crate) fn free_magazine(&self, magazine: NonNull<Magazine>, patience: Patience) -> usize {
        // SAFETY: ours.
        let class = unsafe { magazine.as_ref() }.class();
        self.system().magazines(class).give_back(patience, &[magazine.cast()])
    }

    /// Takes the depot's lock, and notes when another CPU had it.
    fn lock_depot<'l>(&'l self, slow: &'l Slow<'_, CpuSlot, C>) -> Option<Masked<'l, Depot, C>> {
        slow.try_lock(&self.depot).or_else(|| {
            self.tuning.note_wait();
            slow.lock(&self.depot)
        })
    }
}
