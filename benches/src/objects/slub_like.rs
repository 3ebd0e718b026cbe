//! A model of how Linux keeps free objects since versions 6.18 and 7.0: SLUB with sheaves, to
//! measure the structure and not the kernel around it.
//!
//! # Concepts
//! - A **slab** is a block of pages. Its free objects are linked through the objects themselves,
//!   and one word has the first of them and the number in use. Frees push by compare-exchange; a
//!   CPU that needs objects takes the whole list.
//! - Slabs with free objects are on the **partial list** of the node, under its lock. A free that
//!   makes a full slab partial, or a slab empty, takes that lock. Beyond five partial slabs, empty
//!   ones are released.
//! - In front, per CPU: two **sheaves**, arrays of up to 60 objects. The **barn** of the node has
//!   up to ten full sheaves and about as many empty ones, under a lock. A CPU with two full sheaves
//!   that finds the barn full flushes one to the slabs; one with two empty sheaves refills one from
//!   the slabs.
//! - `kfree_rcu` collects objects in a third sheaf per CPU. A full one waits for a grace period of
//!   its own and then goes to the barn or, if that has ten, to the slabs.
//!
//! Written from the public description (Babka 2025, "SLUB percpu sheaves", and the comment at the
//! top of `mm/slub.c`). This file has the sheaves and the barn. `slub_slabs.rs` has the slabs,
//! which come from the [model of the page allocator](crate::pages).
//!
//! Left out, so the kernel itself does more for each object: nodes, accounting by process group,
//! debugging, hardening and shuffling of free lists, the memory of sheaves (a sheaf costs no access
//! to allocate), and the way without sheaves when there is no memory for one.

use std::alloc::Layout;
use std::collections::VecDeque;
use std::mem::{replace, swap};
use std::ptr::NonNull;

use page_frame::sync::{AccessKind, AtomicUsize, Ordering, report};
use page_frame::{Cpu, PAGE_SIZE, PerCpu, PerCpuSlot};
use slab::GracePeriods;

use crate::exclusive::{Exclusive, Locks};
use crate::objects::slub_slabs::SlubSlabs;

/// Maximum numbers of full and of empty sheaves in the barn.
const MOST_SHEAVES: usize = 10;
/// An array of objects.
struct Sheaf(Vec<NonNull<u8>>);

/// The sheaves of a CPU.
struct CpuSheaves {
    main: Sheaf,
    /// Empty or full, if there is one.
    spare: Option<Sheaf>,
    rcu_free: Option<Sheaf>,
    /// Full sheaves that wait for a grace period, with its token.
    waiting: VecDeque<(u64, Sheaf)>,
}

/// The sheaves that the CPUs exchange: full and empty ones.
pub(crate) struct Barn([Vec<Sheaf>; 2]);

/// The indices of the two in [`Barn`].
const FULL: usize = 0;
const EMPTY: usize = 1;

// SAFETY: a sheaf owns its objects.
unsafe impl Send for Sheaf {}

/// The model: a cache of objects of one layout.
pub(crate) struct SlubLike<C, K: Locks> {
    slabs: SlubSlabs<C, K>,
    barn: K::Lock<Barn>,
    /// As the kernel does, a CPU looks at these before it takes the lock.
    barn_counts: [AtomicUsize; 2],
    sheaves: Vec<PerCpuSlot<CpuSheaves>>,
    cpu: C,
    /// Objects of a sheaf.
    capacity: usize,
}

// SAFETY: objects are handed over through atomics and locks, as in an allocator.
unsafe impl<C: Send, K: Locks> Send for SlubLike<C, K> {}
// SAFETY: as above.
unsafe impl<C: Sync, K: Locks> Sync for SlubLike<C, K> {}

impl<C: Cpu + Copy + Sync, K: Locks> SlubLike<C, K> {
    /// Makes a cache of objects of `layout` over `bytes` bytes of address space.
    ///
    /// # Panics
    /// When there is no address space, or `layout` is larger than two pages.
    pub(crate) fn new(cpu: C, layout: Layout, bytes: usize) -> Self {
        let capacity = sheaf_capacity(layout.size().next_multiple_of(layout.align().max(8)));
        let sheaves = || CpuSheaves {
            main: Sheaf::new(capacity),
            spare: None,
            rcu_free: None,
            waiting: VecDeque::new(),
        };
        Self {
            slabs: SlubSlabs::new(cpu, layout, bytes),
            barn: K::Lock::new(Barn([Vec::new(), Vec::new()])),
            barn_counts: [AtomicUsize::new(0), AtomicUsize::new(0)],
            sheaves: (0..cpu.slots()).map(|_| PerCpuSlot::new(sheaves())).collect(),
            cpu,
            capacity,
        }
    }

    fn slots(&self) -> PerCpu<'_, CpuSheaves, C> {
        let first = NonNull::from(&self.sheaves[..]).cast();
        // SAFETY: clause 1: `new` makes one slot for each number, and they live as long as `self`.
        // Clause 2: all values have copies of one machine, and no code visits all slots.
        unsafe { PerCpu::at(first, self.sheaves.len(), self.cpu) }
    }

    /// Allocates an object.
    ///
    /// # Panics
    /// When there is no memory, or the caller is no CPU of this cache.
    pub(crate) fn allocate(&self) -> NonNull<u8> {
        let slots = self.slots();
        let mut mine = slots.enter().expect("a CPU of the machine");
        if mine.main.0.is_empty() {
            self.replace_empty_main(&mut mine);
        }
        mine.main.0.pop().expect("the main sheaf was filled")
    }

    /// Frees an object of this cache, which the caller owns.
    ///
    /// # Panics
    /// When the caller is no CPU of this cache.
    pub(crate) fn free(&self, object: NonNull<u8>) {
        // The kernel reads the node of the slab, which is at its metadata.
        self.slabs.slab_of(object);
        let slots = self.slots();
        let mut mine = slots.enter().expect("a CPU of the machine");
        if mine.main.0.len() == self.capacity {
            self.replace_full_main(&mut mine);
        }
        mine.main.0.push(object);
    }

    /// Frees an object after a grace period of `grace`, as `kfree_rcu` does. The callbacks of this
    /// CPU run when a sheaf is full.
    ///
    /// # Panics
    /// When the caller is no CPU of this cache.
    pub(crate) fn free_deferred(&self, object: NonNull<u8>, grace: &dyn GracePeriods) {
        self.slabs.slab_of(object);
        let slots = self.slots();
        let mut mine = slots.enter().expect("a CPU of the machine");
        let mine = &mut *mine;
        let sheaf = mine.rcu_free.get_or_insert_with(|| {
            let spare = mine.spare.take_if(|spare| spare.0.is_empty());
            spare.or_else(|| self.take_sheaf(EMPTY)).unwrap_or_else(|| Sheaf::new(self.capacity))
        });
        sheaf.0.push(object);
        if sheaf.0.len() < self.capacity {
            return;
        }
        let full = mine.rcu_free.take().expect("it is there");
        mine.waiting.push_back((grace.start(), full));
        while mine.waiting.front().is_some_and(|(token, _)| grace.has_ended(*token)) {
            let Some((_, mut sheaf)) = mine.waiting.pop_front() else { break };
            if self.count(FULL) < MOST_SHEAVES {
                self.put_sheaf(FULL, sheaf);
                continue;
            }
            self.slabs.flush(&mut sheaf.0);
            if self.count(EMPTY) < MOST_SHEAVES {
                self.put_sheaf(EMPTY, sheaf);
            }
        }
    }

    /// Makes the main sheaf, which is empty, one with objects.
    fn replace_empty_main(&self, mine: &mut CpuSheaves) {
        if let Some(spare) = mine.spare.as_mut().filter(|spare| !spare.0.is_empty()) {
            swap(&mut mine.main, spare);
            return;
        }
        if self.count(FULL) > 0 {
            let full = self.barn.with(|barn| {
                let full = barn.0[FULL].pop()?;
                let empty = replace(&mut mine.main, full);
                barn.0[EMPTY].push(empty);
                self.note(barn);
                Some(())
            });
            if full.is_some() {
                mine.main.load();
                return;
            }
        }
        let empty = mine.spare.take().or_else(|| self.take_sheaf(EMPTY));
        let mut sheaf = empty.unwrap_or_else(|| Sheaf::new(self.capacity));
        self.slabs.refill(&mut sheaf.0, self.capacity);
        sheaf.load();
        mine.spare = Some(replace(&mut mine.main, sheaf));
    }

    /// Makes the main sheaf, which is full, one with room.
    fn replace_full_main(&self, mine: &mut CpuSheaves) {
        let has_room = |spare: &&mut Sheaf| spare.0.len() < self.capacity;
        if let Some(spare) = mine.spare.as_mut().filter(has_room) {
            swap(&mut mine.main, spare);
            return;
        }
        if mine.spare.is_none() {
            let empty = self.take_sheaf(EMPTY).unwrap_or_else(|| Sheaf::new(self.capacity));
            mine.spare = Some(replace(&mut mine.main, empty));
        } else if self.count(FULL) >= MOST_SHEAVES {
            let mut flushed = mine.spare.take().expect("it is full");
            self.slabs.flush(&mut flushed.0);
            mine.spare = Some(replace(&mut mine.main, flushed));
        } else {
            let empty = self.take_sheaf(EMPTY).unwrap_or_else(|| Sheaf::new(self.capacity));
            self.put_sheaf(FULL, replace(&mut mine.main, empty));
        }
        mine.main.load();
    }

    /// Returns how many full or empty sheaves are in the barn, without its lock.
    fn count(&self, which: usize) -> usize {
        // Relaxed: the caller may see another count, and the lock decides.
        self.barn_counts[which].load(Ordering::Relaxed)
    }

    fn note(&self, barn: &Barn) {
        for which in [FULL, EMPTY] {
            // Relaxed: as in `count`.
            self.barn_counts[which].store(barn.0[which].len(), Ordering::Relaxed);
        }
    }

    fn take_sheaf(&self, which: usize) -> Option<Sheaf> {
        if self.count(which) == 0 {
            return None;
        }
        self.barn.with(|barn| {
            let sheaf = barn.0[which].pop();
            self.note(barn);
            sheaf
        })
    }

    fn put_sheaf(&self, which: usize, sheaf: Sheaf) {
        self.barn.with(|barn| {
            barn.0[which].push(sheaf);
            self.note(barn);
        });
    }
}

impl Sheaf {
    fn new(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    /// Reports that a CPU loads the sheaf, which another one may have used last.
    fn load(&self) {
        report(AccessKind::Write, self.0.as_ptr(), self.0.capacity() * size_of::<NonNull<u8>>());
    }
}

/// Returns how many objects a sheaf has for objects of `bytes` bytes.
fn sheaf_capacity(bytes: usize) -> usize {
    match bytes {
        PAGE_SIZE.. => 4,
        1024.. => 12,
        256.. => 28,
        _ => 60,
    }
}

#[cfg(test)]
#[path = "slub_like_tests.rs"]
mod tests;
