//! A model of how Linux keeps free pages, to measure the structure and not the kernel around it.
//!
//! # Concepts
//! - 64 bytes for each frame, with the links of the list that its block is on.
//! - A list per order, 0 to 10, last in, first out, under one lock; blocks split and merge eagerly.
//! - In front, per CPU: lists of the orders 0 to 3 and 9, filled and emptied by [`BATCH`] frames.
//!   They are the CPU's own, as with preemption off: the slot protocol of `page-frame` stands for
//!   that.
//!
//! Written from the public description of the page allocator (Gorman 2004, chapter 6;
//! `Documentation/mm`). The common lock is held for one batch at a time, as since Linux 6.19 (Hahn
//! 2025, "Batch page freeing in `free_frozen_page_commit`"). Zones, mobility, watermarks and
//! accounting are left out, so the kernel itself does more for each page.

use std::ptr::NonNull;

use page_frame::sync::{AccessKind, AtomicU8, AtomicU32, Ordering, report};
use page_frame::{Cpu, Order, PerCpu, PerCpuSlot};

use crate::exclusive::Exclusive;
use crate::pages::allocator::SharedPages;

/// The largest order is one below.
const ORDERS: usize = 11;
/// Frames moved between a CPU's list and the common lists at once.
const BATCH: usize = 63;
/// Blocks that the exit of a process frees at once.
const FOLIOS: usize = 31;
/// The order of whole areas, for which CPUs have a list too.
const HUGE: usize = 9;
/// Lists of a CPU: orders 0 to 3, and 9.
const CPU_LISTS: usize = 5;
/// Maximum number of frames in the lists of a CPU: about the low watermark of 8 GiB divided by a
/// few CPUs, as Linux sizes it.
const HIGH: usize = 2048;
/// The end of a list.
const NONE: u32 = u32::MAX;
/// A page that heads no block on a common list.
const NOT_FREE: u8 = u8::MAX;

/// The metadata of one frame. Links are atomics because they pass from list to list; the lists'
/// owners order them.
#[repr(align(64))]
struct Page {
    next: AtomicU32,
    previous: AtomicU32,
    /// The order of the free block that begins here.
    free_order: AtomicU8,
}

/// A list of blocks by their first page.
#[derive(Clone, Copy)]
struct List {
    head: u32,
    blocks: usize,
}

impl List {
    const EMPTY: Self = Self { head: NONE, blocks: 0 };
}

/// The model.
pub(crate) struct LinuxLike<C, L = spin::Mutex<Lists>> {
    pages: Vec<Page>,
    free: L,
    slots: Vec<PerCpuSlot<CpuLists>>,
    cpu: C,
}

/// The common lists, by order.
#[repr(align(64))]
pub(crate) struct Lists([List; ORDERS]);

/// The lists of a CPU, and how many frames are on them.
struct CpuLists {
    lists: [List; CPU_LISTS],
    frames: usize,
}

// Relaxed everywhere here: the owner of a list owns the fields of its pages, and the common lock
// and the slot protocol order its hand-over.
impl Page {
    fn set_next(&self, page: u32) {
        self.next.store(page, Ordering::Relaxed);
    }

    fn set_previous(&self, page: u32) {
        self.previous.store(page, Ordering::Relaxed);
    }
}

impl<C: Cpu + Copy, L: Exclusive<Lists>> LinuxLike<C, L> {
    pub(crate) fn new(frames: usize, cpu: C) -> Self {
        let page = || Page {
            next: AtomicU32::new(NONE),
            previous: AtomicU32::new(NONE),
            free_order: AtomicU8::new(NOT_FREE),
        };
        let pages = std::iter::repeat_with(page).take(frames).collect();
        let lists = || CpuLists { lists: [List::EMPTY; CPU_LISTS], frames: 0 };
        let slots = (0..cpu.slots()).map(|_| PerCpuSlot::new(lists())).collect();
        let free = L::new(Lists([List::EMPTY; ORDERS]));
        let model = Self { pages, free, slots, cpu };
        let largest = 1 << (ORDERS - 1);
        model.free.with(|free| {
            for start in (0..frames - frames % largest).step_by(largest).rev() {
                model.push_free(free, start as u32, ORDERS - 1);
            }
        });
        model
    }

    fn page(&self, page: u32) -> &Page {
        &self.pages[page as usize]
    }

    fn push(&self, list: &mut List, block: u32) {
        report(AccessKind::Write, list, size_of::<List>());
        self.page(block).set_next(list.head);
        self.page(block).set_previous(NONE);
        if list.head != NONE {
            self.page(list.head).set_previous(block);
        }
        list.head = block;
        list.blocks += 1;
    }

    fn pop(&self, list: &mut List) -> Option<u32> {
        let block = list.head;
        if block == NONE {
            return None;
        }
        self.unlink(list, block);
        Some(block)
    }

    fn unlink(&self, list: &mut List, block: u32) {
        report(AccessKind::Write, list, size_of::<List>());
        let next = self.page(block).next.load(Ordering::Relaxed);
        let previous = self.page(block).previous.load(Ordering::Relaxed);
        match previous {
            NONE => list.head = next,
            _ => self.page(previous).set_next(next),
        }
        if next != NONE {
            self.page(next).set_previous(previous);
        }
        list.blocks -= 1;
    }

    fn push_free(&self, free: &mut Lists, block: u32, order: usize) {
        self.page(block).free_order.store(order as u8, Ordering::Relaxed);
        self.push(&mut free.0[order], block);
    }

    /// Takes a block of `order` from the common lists, splitting a larger one.
    fn take(&self, free: &mut Lists, order: usize) -> Option<u32> {
        let found = (order..ORDERS).find(|found| free.0[*found].blocks > 0)?;
        let block = self.pop(&mut free.0[found])?;
        self.page(block).free_order.store(NOT_FREE, Ordering::Relaxed);
        for half in (order..found).rev() {
            self.push_free(free, block + (1 << half), half);
        }
        Some(block)
    }

    /// Puts a block on the common lists, merging it with its buddies.
    fn give(&self, free: &mut Lists, mut block: u32, mut order: usize) {
        while order < ORDERS - 1 {
            let buddy = block ^ (1 << order);
            let is_free = self
                .pages
                .get(buddy as usize)
                .is_some_and(|page| page.free_order.load(Ordering::Relaxed) == order as u8);
            if !is_free {
                break;
            }
            self.unlink(&mut free.0[order], buddy);
            self.page(buddy).free_order.store(NOT_FREE, Ordering::Relaxed);
            block = block.min(buddy);
            order += 1;
        }
        self.push_free(free, block, order);
    }

    fn slots(&self) -> PerCpu<'_, CpuLists, C> {
        let first = NonNull::from(&self.slots[..]).cast();
        // SAFETY: clause 1: `new` makes one slot for each number, and they live as long as `self`.
        // Clause 2: all values have copies of one machine, and no code visits all slots.
        unsafe { PerCpu::at(first, self.slots.len(), self.cpu) }
    }

    /// Frees blocks: up to [`FOLIOS`] of them while the caller has its CPU's lists once, as at the
    /// exit of a process.
    pub(crate) fn free_many(&self, blocks: &[(usize, Order)]) {
        let slots = self.slots();
        for batch in blocks.chunks(FOLIOS) {
            let mut mine = slots.enter().ok();
            for (frame, order) in batch {
                self.free_with(mine.as_deref_mut(), *frame, order.index());
            }
        }
    }

    /// Frees a block to the lists of the caller's CPU, if there are some for its order, or to the
    /// common lists.
    #[inline]
    fn free_with(&self, mine: Option<&mut CpuLists>, frame: usize, order: usize) {
        let Some((list, mine)) = list_of(order).zip(mine) else {
            return self.free.with(|free| self.give(free, frame as u32, order));
        };
        self.push(&mut mine.lists[list], frame as u32);
        mine.frames += 1 << order;
        if mine.frames > HIGH {
            self.empty(mine, HIGH - BATCH);
        }
    }

    /// Moves blocks from the CPU's lists to the common lists until at most `keep` frames remain.
    fn empty(&self, mine: &mut CpuLists, keep: usize) {
        self.free.with(|free| {
            for list in 0..CPU_LISTS {
                while mine.frames > keep {
                    let Some(block) = self.pop(&mut mine.lists[list]) else { break };
                    mine.frames -= 1 << order_of(list);
                    self.give(free, block, order_of(list));
                }
            }
        });
    }
}

/// Returns the list of a CPU for `order`, where it has one.
fn list_of(order: usize) -> Option<usize> {
    match order {
        0..=3 => Some(order),
        HUGE => Some(CPU_LISTS - 1),
        _ => None,
    }
}

fn order_of(list: usize) -> usize {
    if list == CPU_LISTS - 1 { HUGE } else { list }
}

impl<C: Cpu + Copy + Sync, L: Exclusive<Lists> + Sync> SharedPages for LinuxLike<C, L> {
    #[inline]
    fn allocate(&self, order: Order) -> Option<usize> {
        let order = order.index();
        if order >= ORDERS {
            return None;
        }
        if let (Some(list), Ok(mut mine)) = (list_of(order), self.slots().enter()) {
            if mine.lists[list].blocks == 0 {
                self.free.with(|free| {
                    for _ in 0..(BATCH >> order).max(1) {
                        let Some(block) = self.take(free, order) else { break };
                        self.push(&mut mine.lists[list], block);
                        mine.frames += 1 << order;
                    }
                });
            }
            let block = self.pop(&mut mine.lists[list])?;
            mine.frames -= 1 << order;
            return Some(block as usize);
        }
        self.free.with(|free| self.take(free, order)).map(|block| block as usize)
    }

    #[inline]
    fn free(&self, frame: usize, order: Order) {
        let order = order.index();
        let slots = self.slots();
        let mut mine = list_of(order).and_then(|_| slots.enter().ok());
        self.free_with(mine.as_deref_mut(), frame, order);
    }

    fn drain(&self) {
        self.slots().take_over(|_| true, |_, mine| self.empty(mine, 0));
    }

    fn metadata_bytes(&self) -> Option<usize> {
        Some(self.pages.len() * size_of::<Page>())
    }
}
