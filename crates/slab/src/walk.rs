//! The two walks of an object: from CPU slot over depot and slabs to the page source, and back.
//!
//! # Concepts
//! A **hit** is a pop or push in the caller's own slot. A **miss** leaves the slot, gets a magazine (or one object) from
//! the next place, and then enters the slot again to load it. Between the two anything may have happened to the slot: an
//! interrupt may have filled it, another CPU may hold it. So what is got is never assumed to fit; what does not goes on to
//! the depot or the slabs.
//!
//! # Concurrency
//! The slot is never entered while a lock is taken, and no lock is held, and no slot entered, during calls to the page
//! source, constructors, destructors, the fault hook, or an internal cache. The locks (slab set, depot) are leaves: nobody
//! holds two. Contexts without a slot (nested, detached, beyond the last slot) free through the slab's free word, which
//! cannot fail.

use core::ptr::NonNull;

use page_frame::{Cpu, Fault, FaultKind, OutOfMemory, PageMap, PageSource};

use crate::Pushed;
use crate::checks::{Checks, MARK_CACHED, Off, is_any_on};
use crate::core::Core;
use crate::cpu_slot::Push;
use crate::magazine::Magazine;
use crate::record::{FreedChain, Record};
use crate::slab_list::SlabList;
use crate::slab_set::SlabSet;

/// Whether a lock may be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    Wait,
    Try,
}

impl<P: PageSource + PageMap, C: Cpu + Clone> Core<P, C> {
    /// Allocates one object.
    #[inline(always)]
    #[track_caller]
    pub(crate) fn allocate<K: Checks>(&self) -> Result<NonNull<u8>, OutOfMemory> {
        loop {
            let place = self.take_out::<K>()?;
            if !is_any_on::<K>() {
                return Ok(place);
            }
            // A spoilt object stays isolated; there are others.
            if let Some(object) = self.hand_out::<K>(place) {
                return Ok(object);
            }
        }
    }

    #[inline(always)]
    fn take_out<K: Checks>(&self) -> Result<NonNull<u8>, OutOfMemory> {
        if let Ok(mut slot) = self.slots.enter() {
            if let Some(object) = slot.pop() {
                return Ok(object);
            }
        }
        self.allocate_missed::<K>()
    }

    /// Frees one object.
    ///
    /// # Safety
    /// 1. `object` came from `allocate` of this cache and nobody uses it any more.
    #[inline(always)]
    #[track_caller]
    pub(crate) unsafe fn free<K: Checks>(&self, object: NonNull<u8>) {
        if !is_any_on::<K>() {
            self.put_in(object);
        } else if let Some(place) = self.take_back::<K>(object) {
            self.put_in(place);
        }
    }

    #[inline(always)]
    #[track_caller]
    fn put_in(&self, object: NonNull<u8>) {
        if let Ok(mut slot) = self.slots.enter() {
            match slot.push(object) {
                Push::Done => return,
                Push::Full => (),
                Push::Again => {
                    drop(slot);
                    self.freed_again(object);
                    return;
                }
            }
        }
        self.free_missed(object);
    }

    #[cold]
    #[track_caller]
    fn freed_again(&self, object: NonNull<u8>) {
        self.system().report(&Fault::new(FaultKind::DoubleFree, object.addr().get(), 0, 0));
    }

    #[cold]
    #[inline(never)]
    fn allocate_missed<K: Checks>(&self) -> Result<NonNull<u8>, OutOfMemory> {
        let capacity = self.plan.magazine_capacity();
        let mut earned = false;
        let mut spare = None;
        if let Ok(mut slot) = self.slots.enter() {
            if slot.previous_length().is_some_and(|length| length > 0) {
                slot.swap(capacity);
            }
            if let Some(object) = slot.pop() {
                return Ok(object);
            }
            earned = slot.has_earned_magazines();
            spare = slot.unload();
        }
        if earned {
            if let Some(full) = self.take_full() {
                if let Some(spare) = spare {
                    self.put_away(spare);
                }
                return Ok(self.load(full).expect("depot: full magazines are full"));
            }
            if let Some(magazine) = spare.take().or_else(|| self.new_magazine()) {
                // Half: so that the frees that follow find room as well as the allocations objects.
                let push = |object| {
                    // SAFETY: the magazine is ours, and at most its capacity is asked for.
                    unsafe { Magazine::push(magazine, object) }
                };
                let taken = self.take_from_slabs::<K>(capacity.div_ceil(2), push);
                if taken.is_err() {
                    self.put_away(magazine);
                    return Err(OutOfMemory);
                }
                return Ok(self.load(magazine).expect("at least one object was taken"));
            }
        }
        if let Some(spare) = spare {
            self.put_away(spare);
        }
        let mut object = None;
        self.take_from_slabs::<K>(1, |taken| object = Some(taken))?;
        object.ok_or(OutOfMemory)
    }

    #[cold]
    #[inline(never)]
    fn free_missed(&self, object: NonNull<u8>) {
        let capacity = self.plan.magazine_capacity();
        let mut earned = false;
        let mut full = None;
        if let Ok(mut slot) = self.slots.enter() {
            if slot.previous_length().is_some_and(|length| length < capacity) {
                slot.swap(capacity);
                if slot.push(object) == Push::Done {
                    return;
                }
            }
            earned = slot.has_earned_magazines();
            if earned {
                full = slot.take_previous();
            }
        }
        let magazine = match full {
            Some(full) => self.exchange_full(full),
            None if earned => self.take_empty(),
            None => None,
        };
        let Some(magazine) = magazine else {
            let mut object = Some(object);
            self.give_back(Patience::Wait, || object.take());
            return;
        };
        // SAFETY: the magazine is ours and empty.
        unsafe { Magazine::push(magazine, object) };
        self.store(magazine);
    }

    /// Pops an object of `magazine`, which is ours, and loads the rest into the slot.
    fn load(&self, magazine: NonNull<Magazine>) -> Option<NonNull<u8>> {
        // SAFETY: ours, not loaded.
        let object = unsafe { Magazine::pop(magazine) };
        self.store(magazine);
        object
    }

    /// Loads `magazine`, which is ours, into the slot; or, where that cannot be, puts it away.
    fn store(&self, magazine: NonNull<Magazine>) {
        let out = match self.slots.enter() {
            // SAFETY: ours, and of this cache's capacity.
            Ok(mut slot) => unsafe { slot.insert(magazine, self.plan.magazine_capacity()) },
            Err(_) => Some(magazine),
        };
        if let Some(out) = out {
            self.put_away(out);
        }
    }

    fn take_full(&self) -> Option<NonNull<Magazine>> {
        let slow = self.system().locking.slow();
        slow.lock(&self.depot)?.take_full()
    }

    /// Returns an empty magazine, from the depot or new; `None` when there is no memory for one.
    fn take_empty(&self) -> Option<NonNull<Magazine>> {
        let from_depot = {
            let slow = self.system().locking.slow();
            slow.lock(&self.depot).and_then(|mut depot| depot.take_empty())
        };
        from_depot.or_else(|| self.new_magazine())
    }

    fn new_magazine(&self) -> Option<NonNull<Magazine>> {
        let memory = self.system().magazines_of(&self.plan).allocate::<Off>().ok()?;
        // SAFETY: an object of the internal cache for magazines of this capacity.
        Some(unsafe { Magazine::new_in(memory) })
    }

    /// Gives `full`, which is ours, to the depot and returns an empty one; where the depot has enough, empties `full` into
    /// the slabs.
    fn exchange_full(&self, full: NonNull<Magazine>) -> Option<NonNull<Magazine>> {
        let accepted = {
            let slow = self.system().locking.slow();
            // SAFETY: `full` is ours, and the depot's if it says so.
            slow.lock(&self.depot).is_some_and(|mut depot| unsafe { depot.offer_full(full) })
        };
        if accepted {
            return self.take_empty();
        }
        self.empty(full, Patience::Wait);
        Some(full)
    }

    /// Gives all objects of `magazine`, which is ours, back to their slabs; returns the pages that went home.
    pub(crate) fn empty(&self, magazine: NonNull<Magazine>, patience: Patience) -> usize {
        // SAFETY: ours, not loaded.
        self.give_back(patience, || unsafe { Magazine::pop(magazine) })
    }

    /// Finds another place for `magazine`, which is ours: the depot, or, emptied, the internal cache it came from.
    fn put_away(&self, magazine: NonNull<Magazine>) {
        // SAFETY: ours.
        let length = unsafe { magazine.as_ref() }.length;
        let is_full = length == self.plan.magazine_capacity();
        if length > 0 && !is_full {
            self.empty(magazine, Patience::Wait);
        }
        let accepted = {
            let slow = self.system().locking.slow();
            slow.lock(&self.depot).is_some_and(|mut depot| {
                if is_full {
                    // SAFETY: `magazine` is ours, and the depot's if it says so.
                    unsafe { depot.offer_full(magazine) }
                } else {
                    // SAFETY: as above, and empty.
                    unsafe { depot.offer_empty(magazine) }
                }
            })
        };
        if !accepted {
            if is_full {
                self.empty(magazine, Patience::Wait);
            }
            self.free_magazine(magazine, Patience::Wait);
        }
    }

    /// Gives the memory of `magazine`, which is ours and empty, back; returns the pages that went home.
    pub(crate) fn free_magazine(&self, magazine: NonNull<Magazine>, patience: Patience) -> usize {
        let mut memory = Some(magazine.cast());
        self.system().magazines_of(&self.plan).give_back(patience, || memory.take())
    }

    /// Takes up to `wanted` objects from the slabs, growing when there is none; at least one, or an error.
    fn take_from_slabs<K: Checks>(
        &self,
        wanted: usize,
        mut take: impl FnMut(NonNull<u8>),
    ) -> Result<usize, OutOfMemory> {
        let geometry = &self.plan.geometry;
        let mut take = |record, index, object| {
            if K::MARKS {
                // SAFETY: an object of the slab, just taken from it.
                unsafe { Record::set_mark(record, geometry, index, MARK_CACHED) };
            }
            take(object);
        };
        let colour = {
            let slow = self.system().locking.slow();
            let mut set = slow.lock(&self.set).ok_or(OutOfMemory)?;
            set.take_in(&self.pending, geometry);
            let taken = set.take(geometry, wanted, &mut take);
            if taken > 0 {
                return Ok(taken);
            }
            if self.plan.coloured { set.next_colour(geometry) } else { 0 }
        };
        let record = self.grow::<K>(colour)?;
        let taken = {
            let slow = self.system().locking.slow();
            slow.lock(&self.set).map(|mut set| {
                // SAFETY: `grow` made it: live, ours, in no list, all objects free.
                unsafe { set.add(record) };
                set.take(geometry, wanted, &mut take)
            })
        };
        taken.ok_or_else(|| {
            // SAFETY: the fresh slab was not added, so it is ours and all its objects are free.
            unsafe { self.send_home(record) };
            OutOfMemory
        })
    }

    /// Frees the objects that `next` returns into their slabs; surplus empty slabs go home. Returns the pages that did.
    ///
    /// Without the lock (nested, or only trying) each object goes through its slab's free word.
    pub(crate) fn give_back(
        &self,
        patience: Patience,
        mut next: impl FnMut() -> Option<NonNull<u8>>,
    ) -> usize {
        let mut fault = None;
        let mut going_home = SlabList::new();
        {
            let slow = self.system().locking.slow();
            let set = match patience {
                Patience::Wait => slow.lock(&self.set),
                Patience::Try => slow.try_lock(&self.set),
            };
            let mut found = core::iter::from_fn(&mut next).filter_map(|object| {
                self.find(object.addr().get()).map_err(|new| fault = Some(new)).ok()
            });
            match set {
                Some(mut set) => {
                    // SAFETY: `find` says that they are objects of ours, and our caller owns them.
                    self.for_each_chain(&mut found, |chain| unsafe {
                        set.give(&chain, &self.plan.geometry);
                    });
                    set.take_in(&self.pending, &self.plan.geometry);
                    let keep = self.empty_slabs_kept(set.slabs());
                    self.pop_empty(&mut set, keep, usize::MAX, &mut going_home);
                }
                None => self.for_each_chain(&mut found, |chain| self.give_back_unlocked(&chain)),
            }
        }
        let pages = self.send_all_home(going_home);
        if let Some(fault) = fault {
            self.system().report(&fault);
        }
        pages
    }

    /// Joins objects that our caller owns to chains, as far as neighbours are of the same slab, and calls `free` with each.
    fn for_each_chain(
        &self,
        objects: &mut dyn Iterator<Item = (NonNull<Record>, usize)>,
        mut free: impl FnMut(FreedChain),
    ) {
        let mut chain: Option<FreedChain> = None;
        for (record, index) in objects {
            match &mut chain {
                Some(chain) if chain.record == record => {
                    // SAFETY: the slab is alive while somebody owns an object of it; the object is our caller's.
                    unsafe { chain.add(index, &self.plan.geometry) };
                }
                _ => {
                    if let Some(whole) = chain.replace(FreedChain::new(record, index)) {
                        free(whole);
                    }
                }
            }
        }
        if let Some(whole) = chain {
            free(whole);
        }
    }

    /// Frees the objects of `chain`, which our caller owns, without the set lock.
    fn give_back_unlocked(&self, chain: &FreedChain) {
        // SAFETY: the slab is alive while somebody owns an object of it.
        if unsafe { chain.push(&self.plan.geometry) } == Pushed::First {
            // SAFETY: told `First`, we alone put it there; it stays alive while it is pending (slab set I3).
            unsafe { self.pending.push(chain.record) };
        }
    }

    /// Moves empty slabs beyond `keep` to `going_home`, up to `most` slabs.
    pub(crate) fn pop_empty(
        &self,
        set: &mut SlabSet,
        keep: usize,
        most: usize,
        going_home: &mut SlabList,
    ) {
        while going_home.count() < most {
            let Some(record) = set.pop_empty(keep, &self.plan.geometry) else { return };
            // SAFETY: it is out of the set, alive, and `send_all_home` takes it out before it dies.
            unsafe { going_home.push(record) };
        }
    }

    /// Sends slabs home that were taken out of the set; returns their pages.
    pub(crate) fn send_all_home(&self, mut going_home: SlabList) -> usize {
        let pages = going_home.count() * self.slab_pages();
        while let Some(record) = going_home.pop() {
            // SAFETY: `pop_empty` took it out of the set with all objects free.
            unsafe { self.send_home(record) };
        }
        pages
    }
}
