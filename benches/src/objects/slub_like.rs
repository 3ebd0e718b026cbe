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
//! top of `mm/slub.c`). Slabs come from the [model of the page allocator](crate::pages).
//!
//! Left out, so the kernel itself does more for each object: nodes, accounting by process group,
//! debugging, hardening and shuffling of free lists, the memory of sheaves (a sheaf costs no access
//! to allocate), and the way without sheaves when there is no memory for one.

use std::alloc::Layout;
use std::collections::VecDeque;
use std::mem::{replace, swap};
use std::ptr::NonNull;

use hosted::Mapped;
use page_frame::sync::{AccessKind, AtomicU32, AtomicUsize, Ordering, report};
use page_frame::{Cpu, Order, PAGE_SIZE, PerCpu, PerCpuSlot};
use slab::GracePeriods;

use crate::exclusive::{Exclusive, Locks};
use crate::pages::allocator::SharedPages;
use crate::pages::linux_like::{LinuxLike, Lists};

/// Maximum numbers of full and of empty sheaves in the barn.
const MOST_SHEAVES: usize = 10;
/// Partial slabs of the node from which on empty slabs are released.
const MIN_PARTIAL: usize = 5;
/// Objects of other slabs that a flush looks behind for more of the same slab.
const LOOKAHEAD: usize = 3;
/// The end of a list of slabs, and of free objects.
const NONE: u32 = u32::MAX;
/// The bits of a slab's word above which the number of objects in use stands.
const IN_USE_SHIFT: u32 = 32;

/// The metadata of a slab, at the place of its first page.
#[repr(align(64))]
struct Slab {
    /// The first free object, or [`NONE`], and the number of objects in use. The kernel has two
    /// words that it exchanges together.
    word: AtomicUsize,
    /// The partial list, and whether the slab is on it. Changed under the lock of the node.
    next: AtomicU32,
    previous: AtomicU32,
    is_partial: AtomicU32,
    /// The first page of the slab that this page belongs to.
    head_page: AtomicU32,
}

/// The ends of the partial list.
pub(crate) struct PartialList {
    first: u32,
    last: u32,
}

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
    pages: LinuxLike<C, K::Lock<Lists>>,
    memory: Mapped,
    slabs: Vec<Slab>,
    partial: K::Lock<PartialList>,
    partial_slabs: AtomicUsize,
    barn: K::Lock<Barn>,
    /// As the kernel does, a CPU looks at these before it takes the lock.
    barn_counts: [AtomicUsize; 2],
    sheaves: Vec<PerCpuSlot<CpuSheaves>>,
    cpu: C,
    stride: usize,
    order: Order,
    /// Objects of a slab, and of a sheaf.
    objects: usize,
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
        let memory = Mapped::reserve(bytes).expect("address space");
        let frames = memory.bytes() / PAGE_SIZE;
        let stride = layout.size().next_multiple_of(layout.align().max(8));
        let slab = |page| Slab {
            word: AtomicUsize::new(0),
            next: AtomicU32::new(NONE),
            previous: AtomicU32::new(NONE),
            is_partial: AtomicU32::new(0),
            head_page: AtomicU32::new(page),
        };
        let order = order_for(stride, cpu.slots());
        let capacity = sheaf_capacity(stride);
        let sheaves = || CpuSheaves {
            main: Sheaf::new(capacity),
            spare: None,
            rcu_free: None,
            waiting: VecDeque::new(),
        };
        Self {
            pages: LinuxLike::new(frames, cpu),
            memory,
            slabs: (0..frames as u32).map(slab).collect(),
            partial: K::Lock::new(PartialList { first: NONE, last: NONE }),
            partial_slabs: AtomicUsize::new(0),
            barn: K::Lock::new(Barn([Vec::new(), Vec::new()])),
            barn_counts: [AtomicUsize::new(0), AtomicUsize::new(0)],
            sheaves: (0..cpu.slots()).map(|_| PerCpuSlot::new(sheaves())).collect(),
            cpu,
            stride,
            order,
            objects: order.bytes() / stride,
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
        self.slab_of(object);
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
        self.slab_of(object);
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
            self.flush(&mut sheaf);
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
        self.refill(&mut sheaf);
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
            self.flush(&mut flushed);
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

    /// Fills `sheaf` from partial slabs, then from new ones.
    fn refill(&self, sheaf: &mut Sheaf) {
        let mut taken = Vec::new();
        // Relaxed: a hint, as in the kernel.
        if self.partial_slabs.load(Ordering::Relaxed) > 0 {
            self.partial.with(|list| {
                let mut free = 0;
                while list.first != NONE && free < self.capacity {
                    let page = list.first;
                    free += self.objects - in_use(self.slabs[page as usize].load());
                    self.remove_partial(list, page);
                    taken.push(page);
                }
            });
        }
        let mut taken = taken.into_iter();
        while sheaf.0.len() < self.capacity {
            let Some(page) = taken.next() else { break };
            let slab = &self.slabs[page as usize];
            let mut next = first(slab.swap(pack(NONE, self.objects)));
            while next != NONE && sheaf.0.len() < self.capacity {
                sheaf.0.push(self.object(page, next));
                next = self.link(page, next);
            }
            if next != NONE {
                // What is too much goes back, as a chain.
                let (mut last, mut count) = (next, 1);
                loop {
                    match self.link(page, last) {
                        NONE => break,
                        after => (last, count) = (after, count + 1),
                    }
                }
                self.free_chain(page, next, last, count);
            }
        }
        if taken.len() > 0 {
            self.partial.with(|list| taken.for_each(|page| self.add_partial(list, page, true)));
        }
        while sheaf.0.len() < self.capacity {
            self.refill_from_new_slab(sheaf);
        }
    }

    fn refill_from_new_slab(&self, sheaf: &mut Sheaf) {
        let page = self.pages.allocate(self.order).expect("memory is free") as u32;
        let (objects, wanted) = (self.objects as u32, (self.capacity - sheaf.0.len()) as u32);
        for tail in 0..self.order.pages() as u32 {
            // Relaxed: the slab is ours.
            self.slabs[(page + tail) as usize].head_page.store(page, Ordering::Relaxed);
        }
        for index in 0..objects {
            self.set_link(page, index, if index + 1 < objects { index + 1 } else { NONE });
        }
        let taken = objects.min(wanted);
        sheaf.0.extend((0..taken).map(|index| self.object(page, index)));
        let head = if taken < objects { taken } else { NONE };
        self.slabs[page as usize].store(pack(head, taken as usize));
        if taken < objects {
            self.partial.with(|list| self.add_partial(list, page, true));
        }
    }

    /// Frees all objects of `sheaf` into their slabs: neighbours of one slab as a chain.
    fn flush(&self, sheaf: &mut Sheaf) {
        let objects = &mut sheaf.0;
        while let Some(last) = objects.pop() {
            let page = self.slab_of(last);
            let index = self.index(page, last);
            let (mut head, mut count) = (index, 1);
            let (mut others, mut at) = (0, objects.len());
            while at > 0 && others < LOOKAHEAD {
                at -= 1;
                if self.slab_of(objects[at]) == page {
                    let object = objects.remove(at);
                    let next = self.index(page, object);
                    self.set_link(page, next, head);
                    (head, count) = (next, count + 1);
                } else {
                    others += 1;
                }
            }
            self.free_chain(page, head, index, count);
        }
    }

    /// Pushes a chain of `count` objects of the slab at `page`, from `head` to `last`, to its free
    /// list.
    fn free_chain(&self, page: u32, head: u32, last: u32, count: usize) {
        let slab = &self.slabs[page as usize];
        loop {
            let old = slab.load();
            self.set_link(page, last, first(old));
            let new = pack(head, in_use(old) - count);
            let (was_full, is_empty) = (first(old) == NONE, in_use(new) == 0);
            if !was_full && !is_empty {
                if slab.exchange(old, new) {
                    return;
                }
                continue;
            }
            // The kernel takes the lock before the exchange, too.
            let outcome = self.partial.with(|list| {
                if !slab.exchange(old, new) {
                    return None;
                }
                // Relaxed: under the lock.
                let is_partial = slab.is_partial.load(Ordering::Relaxed) != 0;
                if !was_full && !is_partial {
                    return Some(false);
                }
                let partial = self.partial_slabs.load(Ordering::Relaxed);
                if is_empty && partial >= MIN_PARTIAL {
                    if is_partial {
                        self.remove_partial(list, page);
                    }
                    return Some(true);
                }
                if was_full {
                    self.add_partial(list, page, false);
                }
                Some(false)
            });
            match outcome {
                Some(true) => return self.pages.free(page as usize, self.order),
                Some(false) => return,
                None => {}
            }
        }
    }

    /// Puts a slab on the partial list, in front or at the end.
    fn add_partial(&self, list: &mut PartialList, page: u32, in_front: bool) {
        report(AccessKind::Write, list, size_of::<PartialList>());
        let slab = &self.slabs[page as usize];
        let (previous, next) = if in_front { (NONE, list.first) } else { (list.last, NONE) };
        slab.set_neighbours(previous, next);
        slab.is_partial.store(1, Ordering::Relaxed);
        self.join(list, previous, page);
        self.join(list, page, next);
        self.add_to_count(1);
    }

    fn remove_partial(&self, list: &mut PartialList, page: u32) {
        report(AccessKind::Write, list, size_of::<PartialList>());
        let slab = &self.slabs[page as usize];
        slab.is_partial.store(0, Ordering::Relaxed);
        let previous = slab.previous.load(Ordering::Relaxed);
        self.join(list, previous, slab.next.load(Ordering::Relaxed));
        self.add_to_count(-1);
    }

    /// Makes `next` follow `previous`; [`NONE`] is the end of the list.
    fn join(&self, list: &mut PartialList, previous: u32, next: u32) {
        // Relaxed: under the lock.
        match previous {
            NONE => list.first = next,
            _ => self.slabs[previous as usize].next.store(next, Ordering::Relaxed),
        }
        match next {
            NONE => list.last = previous,
            _ => self.slabs[next as usize].previous.store(previous, Ordering::Relaxed),
        }
    }

    fn add_to_count(&self, by: isize) {
        // Relaxed: changed under the lock only.
        let count = self.partial_slabs.load(Ordering::Relaxed).wrapping_add_signed(by);
        self.partial_slabs.store(count, Ordering::Relaxed);
    }

    /// Returns the first page of the slab that has `object`.
    fn slab_of(&self, object: NonNull<u8>) -> u32 {
        let offset = object.addr().get() - self.memory.start().addr().get();
        // Relaxed: it does not change while the slab has objects in use.
        self.slabs[offset / PAGE_SIZE].head_page.load(Ordering::Relaxed)
    }

    fn object(&self, page: u32, index: u32) -> NonNull<u8> {
        let offset = page as usize * PAGE_SIZE + index as usize * self.stride;
        // SAFETY: the page is one of the memory, and the object lies in its slab.
        unsafe { self.memory.start().add(offset) }
    }

    fn index(&self, page: u32, object: NonNull<u8>) -> u32 {
        let offset = object.addr().get() - self.object(page, 0).addr().get();
        (offset / self.stride) as u32
    }

    /// Returns the link in a free object, which the caller owns.
    fn link(&self, page: u32, index: u32) -> u32 {
        let object = self.object(page, index).cast::<u32>();
        report(AccessKind::Read, object.as_ptr(), size_of::<usize>());
        // SAFETY: the object has eight bytes or more, is aligned to eight, and is the caller's.
        unsafe { object.read() }
    }

    /// Sets the link in a free object, which the caller owns.
    fn set_link(&self, page: u32, index: u32, next: u32) {
        let object = self.object(page, index).cast::<u32>();
        report(AccessKind::Write, object.as_ptr(), size_of::<usize>());
        // SAFETY: as in `link`.
        unsafe { object.write(next) };
    }
}

impl Slab {
    fn load(&self) -> usize {
        // Acquire: pairs with the Release of `exchange`, before a list is followed.
        self.word.load(Ordering::Acquire)
    }

    fn store(&self, word: usize) {
        // Release: publishes the links of a new slab.
        self.word.store(word, Ordering::Release);
    }

    fn swap(&self, word: usize) -> usize {
        // AcqRel: as for `load` and `exchange`.
        self.word.swap(word, Ordering::AcqRel)
    }

    fn exchange(&self, old: usize, new: usize) -> bool {
        // AcqRel: publishes the links of a chain.
        self.word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    fn set_neighbours(&self, previous: u32, next: u32) {
        // Relaxed: under the lock.
        self.previous.store(previous, Ordering::Relaxed);
        self.next.store(next, Ordering::Relaxed);
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

fn pack(first: u32, in_use: usize) -> usize {
    first as usize | in_use << IN_USE_SHIFT
}

fn first(word: usize) -> u32 {
    word as u32
}

fn in_use(word: usize) -> usize {
    word >> IN_USE_SHIFT
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

/// Returns the order of slabs: the lowest one that wastes at most 1/16 and has enough objects for
/// the number of CPUs, at most 3 unless an object needs more.
fn order_for(bytes: usize, cpus: usize) -> Order {
    let enough = 4 * (cpus.ilog2() as usize + 2);
    let enough = enough.min((8 * PAGE_SIZE / bytes).max(1));
    let fits = |order: &Order| {
        let slab = order.bytes();
        slab / bytes >= enough && slab % bytes <= slab / 16
    };
    let order = Order::all().take(4).find(fits);
    order.unwrap_or_else(|| {
        Order::all().find(|order| order.bytes() >= bytes * enough).expect("a small object")
    })
}

#[cfg(test)]
#[path = "slub_like_tests.rs"]
mod tests;
