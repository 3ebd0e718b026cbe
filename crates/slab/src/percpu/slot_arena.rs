//! Where the CPU slots of caches lie: behind their inners, or, those of one CPU side by side, in
//! slot_arena.
//!
//! # Concepts
//! With an array of slots for each cache, whoever runs on one CPU touches a page of each. Where the
//! machine wants them apart ([`Cpu::SLOT_STRIDE`]), a **block** of slots has a part for each CPU
//! instead, and in each part a line for each of many caches: a cache has a **row** of it. So
//! what one thread of a program uses of 70 caches lies on two pages.
//!
//! The first row is the block's header. A block comes with the cache that finds no row
//! free, and goes with the last of its caches.
//!
//! # Invariants
//! - I1: the bit of a row is set in `taken` while a cache has it; that of the header always.
//! - I2: the lines of a row whose bit is clear in `written` are as the source gave them: zero,
//!   if they are not written.
//! - I3: a part has room for the header and one row at least, the header fits in a line, and
//!   lines are slots: asserted at compile time, whatever the machine says.
//!
//! # Concurrency
//! The blocks are behind a lock of the registry, held only while headers are read or written, never
//! while the page source runs.

use core::marker::PhantomData;
use core::ptr::NonNull;

use page_frame::{Cpu, Order, PageBlock, PerCpuSlot};

use crate::percpu::slot::CpuSlot;

/// The bytes of a line: a slot.
const LINE: usize = size_of::<PerCpuSlot<CpuSlot>>();

page_frame::assert_unless_loom!(size_of::<Header>() <= LINE && align_of::<Header>() <= LINE);

/// The header in the first line of a block.
#[derive(Debug)]
struct Header {
    next: *mut Header,
    taken: u128,
    written: u128,
}

/// The blocks of slots of a registry, for machines of type `C`.
///
/// A machine with room for nothing but a header is refused at compile time:
///
/// ```compile_fail,E0080
/// use page_frame::{Cpu, CpuId};
/// #[derive(Clone)]
/// struct Narrow;
/// // SAFETY: it has no id.
/// unsafe impl Cpu for Narrow {
///     const SLOT_STRIDE: usize = 64; // 128 is enough
///     fn slots(&self) -> usize { 0 }
///     fn pin(&self) -> Option<CpuId> { None }
///     unsafe fn unpin(&self) {}
///     fn fence_all(&self) -> bool { false }
/// }
/// # let mut memory = vec![core::mem::MaybeUninit::uninit(); 64 * 1024];
/// let arena = page_frame::Arena::new(&mut memory).unwrap();
/// let _ = slab::Registry::new(&arena, Narrow);
/// ```
#[derive(Debug)]
pub(crate) struct SlotArena<C> {
    first: *mut Header,
    count: usize,
    machine: PhantomData<C>,
}

// SAFETY: the blocks are reached only through this value, and hold numbers, pointers to one
// another, and slots that are not touched from here while a cache has them.
unsafe impl<C> Send for SlotArena<C> {}

impl<C: Cpu> SlotArena<C> {
    /// Whether the machine wants its slots in slot_arena at all.
    pub(crate) const IS_USED: bool = C::SLOT_STRIDE > 0;
    /// How many slot_arena a block has.
    const ROWS: usize = C::SLOT_STRIDE / LINE;

    pub(crate) const fn new() -> Self {
        const {
            assert!(C::SLOT_STRIDE % LINE == 0, "slots are whole lines");
            let fits = Self::ROWS >= 2 && Self::ROWS <= u128::BITS as usize;
            assert!(!Self::IS_USED || fits, "a header and 1 to 127 slot_arena");
        };
        Self { first: core::ptr::null_mut(), count: 0, machine: PhantomData }
    }

    /// Returns how many blocks there are.
    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    /// Returns the order of a block for `cpus` CPUs; `None` when no block is so large.
    pub(crate) fn order(cpus: usize) -> Option<Order> {
        Some(Order::for_bytes(cpus.checked_mul(C::SLOT_STRIDE)?)?.order)
    }

    /// Adds a block of the order for `cpus` CPUs.
    pub(crate) fn add(&mut self, block: PageBlock) {
        let is_zero = block.is_zero();
        let (start, _) = block.into_raw();
        let header = start.cast::<Header>();
        let written = if is_zero { 1 } else { u128::MAX };
        // SAFETY: the first line of a block that was taken apart; a header fits in a line.
        unsafe { header.write(Header { next: self.first, taken: 1, written }) };
        self.first = header.as_ptr();
        self.count += 1;
    }

    /// Takes a row; returns its first slot. The slots of `cpus` CPUs, [`Cpu::SLOT_STRIDE`] apart,
    /// are nobody's and empty. `None` when a block has to be added first.
    pub(crate) fn take(&mut self, cpus: usize) -> Option<NonNull<PerCpuSlot<CpuSlot>>> {
        let mut next = self.first;
        while let Some(mut header) = NonNull::new(next) {
            // SAFETY: a header that `add` wrote, and `self` is exclusively borrowed.
            let block = unsafe { header.as_mut() };
            let row = block.taken.trailing_ones() as usize;
            if row < Self::ROWS {
                let bit = 1 << row;
                block.taken |= bit;
                let is_written = block.written & bit != 0;
                block.written |= bit;
                // SAFETY: I3 and the test above: line `row` of the first CPU's part; the block
                // has such a part for each CPU.
                let first = unsafe { header.byte_add(row * LINE) }.cast();
                if is_written {
                    // SAFETY: I1: it was unused.
                    unsafe { Self::empty(first, cpus) };
                }
                return Some(first);
            }
            next = block.next;
        }
        None
    }

    /// Gives the row that begins at `first` back; returns the start of a block that nobody
    /// needs any more.
    ///
    /// # Safety
    /// 1. It came from `take`, and its slots are unused.
    pub(crate) unsafe fn give(
        &mut self,
        first: NonNull<PerCpuSlot<CpuSlot>>,
        cpus: usize,
    ) -> Option<NonNull<u8>> {
        let bytes = Self::order(cpus).map_or(0, Order::bytes);
        let row = first.addr().get() % bytes / LINE;
        let mut place: *mut *mut Header = &raw mut self.first;
        loop {
            // SAFETY: the first pointer, or that of a header, and `self` is exclusively borrowed.
            let header = NonNull::new(unsafe { *place })?;
            // SAFETY: as in `take`.
            let block = unsafe { &mut *header.as_ptr() };
            if header.addr().get() + row * LINE != first.addr().get() {
                place = &raw mut block.next;
                continue;
            }
            block.taken &= !(1 << row);
            if block.taken != 1 {
                return None;
            }
            // SAFETY: as above: unlinked.
            unsafe { *place = block.next };
            self.count -= 1;
            return Some(header.cast());
        }
    }

    /// Takes out a block, whoever uses it; its start.
    ///
    /// # Safety
    /// 1. Nobody uses slots of it any more.
    pub(crate) unsafe fn remove(&mut self) -> Option<NonNull<u8>> {
        let header = NonNull::new(self.first)?;
        // SAFETY: as in `take`.
        self.first = unsafe { header.as_ref() }.next;
        self.count -= 1;
        Some(header.cast())
    }

    /// Makes the slots of a row empty.
    ///
    /// # Safety
    /// 1. The row is nobody's.
    unsafe fn empty(first: NonNull<PerCpuSlot<CpuSlot>>, cpus: usize) {
        for cpu in 0..cpus {
            // SAFETY: clause 1: a line of it in the part of each CPU.
            let slot = unsafe { first.byte_add(cpu * C::SLOT_STRIDE) };
            // SAFETY: clause 1, and lines have the size and alignment of slots.
            unsafe { slot.write(PerCpuSlot::new(CpuSlot::new())) };
        }
    }
}

/// Returns the bytes of the slots of a cache where they are behind it; none where they are in
/// slot_arena.
pub(crate) fn slots_behind<C: Cpu>(slots: usize) -> Option<usize> {
    if SlotArena::<C>::IS_USED {
        Some(0)
    } else {
        slots.checked_mul(size_of::<PerCpuSlot<CpuSlot>>())
    }
}

/// Writes an array of `count` slots and returns the first.
///
/// # Safety
/// 1. `memory` is aligned to 64, valid for that many slots, and used by no other code.
pub(crate) unsafe fn slots_in(memory: NonNull<u8>, count: usize) -> NonNull<PerCpuSlot<CpuSlot>> {
    let first = memory.cast::<PerCpuSlot<CpuSlot>>();
    for index in 0..count {
        // SAFETY: clause 1: room for `count`.
        let slot = unsafe { first.add(index) };
        // SAFETY: clause 1: aligned, and not shared.
        unsafe { slot.write(PerCpuSlot::new(CpuSlot::new())) };
    }
    first
}
