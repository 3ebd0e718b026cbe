//! Memory for the CPU slots of caches: an array after each cache, or rows of an arena in which the
//! slots of one CPU lie side by side.
//!
//! # Concepts
//! With an array of slots for each cache, code on one CPU touches a page for each cache. If the
//! machine asks for a distance between slots ([`Cpu::SLOT_STRIDE`]), a **block** of slots has a
//! part for each CPU instead, and each part has a line for each of many caches. The lines of one
//! cache are a **row**. So the slots that one CPU uses of 70 caches lie on two pages.
//!
//! The first row is the block's header. A block is allocated for the first cache that finds no free
//! row, and freed with the last of its caches.
//!
//! # Invariants
//! - I1: the bit of a row is set in `taken` while a cache has it; that of the header always.
//! - I2: the lines of a row whose bit is clear in `written` are zero, as the page source returned
//!   them. All zero bytes are an empty slot.
//! - I3: a part has room for the header and one row at least, the header fits in a line, and lines
//!   are slots. Asserted at compile time for each machine.
//!
//! # Concurrency
//! A lock of the registry guards the blocks. It is held only while headers are read or written,
//! never while the page source runs.

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
// another, and slots, which this file does not touch while a cache has them.
unsafe impl<C> Send for SlotArena<C> {}

impl<C: Cpu> SlotArena<C> {
    /// Whether the machine's slots lie in arenas at all.
    pub(crate) const IS_USED: bool = C::SLOT_STRIDE > 0;
    /// How many rows a block has, its header's included.
    const ROWS: usize = C::SLOT_STRIDE / LINE;

    pub(crate) const fn new() -> Self {
        const {
            assert!(C::SLOT_STRIDE % LINE == 0, "slots are whole lines");
            let fits = Self::ROWS >= 2 && Self::ROWS <= u128::BITS as usize;
            assert!(!Self::IS_USED || fits, "a header and 1 to 127 rows");
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
    /// are empty, and the caller owns them. `None` if the caller has to add a block first.
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
                    // SAFETY: clause 1 of `empty`: by I1 no cache had the row.
                    unsafe { Self::empty(first, cpus) };
                }
                return Some(first);
            }
            next = block.next;
        }
        None
    }

    /// Returns the row that begins at `first` to its block. Returns the start of the block if no
    /// cache has a row of it any more; the block is then out of the arena.
    ///
    /// # Safety
    /// 1. The row came from `take` with the same `cpus`, and its slots are unused.
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
            // SAFETY: `place` is the pointer that led to `header`, as at the start of the loop.
            unsafe { *place = block.next };
            self.count -= 1;
            return Some(header.cast());
        }
    }

    /// Takes a block out, even if it has rows in use; returns its start.
    ///
    /// # Safety
    /// 1. No code uses slots of any block any more.
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
    /// 1. No cache has the row.
    unsafe fn empty(first: NonNull<PerCpuSlot<CpuSlot>>, cpus: usize) {
        for cpu in 0..cpus {
            // SAFETY: the row has a line in the part of each CPU.
            let slot = unsafe { first.byte_add(cpu * C::SLOT_STRIDE) };
            // SAFETY: clause 1, and lines have the size and alignment of slots.
            unsafe { slot.write(PerCpuSlot::new(CpuSlot::new())) };
        }
    }
}

/// Returns the bytes of the slots that follow a cache in memory: zero if they lie in an arena.
/// `None` on overflow.
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
