//! The slabs of the [model of SLUB](crate::objects::slub_like): free lists through the objects, and
//! the partial list of the node.

use std::alloc::Layout;
use std::ptr::NonNull;

use hosted::Mapped;
use page_frame::sync::{AccessKind, AtomicU32, AtomicUsize, Ordering, report};
use page_frame::{Cpu, Order, PAGE_SIZE};

use crate::exclusive::{Exclusive, Locks};
use crate::pages::allocator::SharedPages;
use crate::pages::linux_like::{LinuxLike, Lists};

/// Partial slabs of the node from which on empty slabs are released.
pub(super) const MIN_PARTIAL: usize = 5;
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

/// The slabs of a cache of objects of one layout.
pub(super) struct SlubSlabs<C, K: Locks> {
    pages: LinuxLike<C, K::Lock<Lists>>,
    memory: Mapped,
    slabs: Vec<Slab>,
    partial: K::Lock<PartialList>,
    partial_slabs: AtomicUsize,
    stride: usize,
    pub(super) order: Order,
    /// Objects of a slab.
    objects: usize,
}

impl<C: Cpu + Copy + Sync, K: Locks> SlubSlabs<C, K> {
    /// Makes the slabs of objects of `layout`, none yet, over `bytes` bytes of address space.
    pub(super) fn new(cpu: C, layout: Layout, bytes: usize) -> Self {
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
        Self {
            pages: LinuxLike::new(frames, cpu),
            memory,
            slabs: (0..frames as u32).map(slab).collect(),
            partial: K::Lock::new(PartialList { first: NONE, last: NONE }),
            partial_slabs: AtomicUsize::new(0),
            stride,
            order,
            objects: order.bytes() / stride,
        }
    }

    /// Adds objects to `sheaf` until it has `capacity`: from partial slabs, then from new ones.
    pub(super) fn refill(&self, sheaf: &mut Vec<NonNull<u8>>, capacity: usize) {
        let mut taken = Vec::new();
        // Relaxed: a hint, as in the kernel.
        if self.partial_slabs.load(Ordering::Relaxed) > 0 {
            self.partial.with(|list| {
                let mut free = 0;
                while list.first != NONE && free < capacity {
                    let page = list.first;
                    free += self.objects - in_use(self.slabs[page as usize].load());
                    self.remove_partial(list, page);
                    taken.push(page);
                }
            });
        }
        let mut taken = taken.into_iter();
        while sheaf.len() < capacity {
            let Some(page) = taken.next() else { break };
            let slab = &self.slabs[page as usize];
            let mut next = first(slab.swap(pack(NONE, self.objects)));
            while next != NONE && sheaf.len() < capacity {
                sheaf.push(self.object(page, next));
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
        while sheaf.len() < capacity {
            self.refill_from_new_slab(sheaf, capacity);
        }
    }

    fn refill_from_new_slab(&self, sheaf: &mut Vec<NonNull<u8>>, capacity: usize) {
        let page = self.pages.allocate(self.order).expect("memory is free") as u32;
        let (objects, wanted) = (self.objects as u32, (capacity - sheaf.len()) as u32);
        for tail in 0..self.order.pages() as u32 {
            // Relaxed: the slab is ours.
            self.slabs[(page + tail) as usize].head_page.store(page, Ordering::Relaxed);
        }
        for index in 0..objects {
            self.set_link(page, index, if index + 1 < objects { index + 1 } else { NONE });
        }
        let taken = objects.min(wanted);
        sheaf.extend((0..taken).map(|index| self.object(page, index)));
        let head = if taken < objects { taken } else { NONE };
        self.slabs[page as usize].store(pack(head, taken as usize));
        if taken < objects {
            self.partial.with(|list| self.add_partial(list, page, true));
        }
    }

    /// Frees all `objects` into their slabs: neighbours of one slab as a chain.
    pub(super) fn flush(&self, objects: &mut Vec<NonNull<u8>>) {
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
    pub(super) fn slab_of(&self, object: NonNull<u8>) -> u32 {
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

fn pack(first: u32, in_use: usize) -> usize {
    first as usize | in_use << IN_USE_SHIFT
}

fn first(word: usize) -> u32 {
    word as u32
}

fn in_use(word: usize) -> usize {
    word >> IN_USE_SHIFT
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
impl<C: Cpu + Copy + Sync, K: Locks> SlubSlabs<C, K> {
    /// Takes all free pages; returns how many pages slabs have.
    pub(super) fn used_pages(&self) -> usize {
        let free = std::iter::from_fn(|| self.pages.allocate(Order::ZERO)).count();
        self.slabs.len() - free
    }
}
