//! Slots of many caches side by side: a row for each CPU, a column for each cache.
//!
//! # Concepts
//! Who has many caches and picks one by number (kmalloc's classes) would load the cache, then its slots, then find its CPU's.
//! With the slots in **rows** a CPU's slot of any cache is at a place that is computed from two numbers. And what a CPU has of
//! all of these caches lies in one page.
//!
//! A row is there before its caches are. A slot that is all zero has no magazine: allocating finds nothing, freeing no room,
//! and both go on to the cache, which is built by then or not.

use core::ptr::NonNull;

use page_frame::sync::slice_in;
use page_frame::{Cpu, Order, OutOfMemory, PageBlock, PageSource, Slot};

use crate::cpu_slot::{CpuSlot, Push};

/// How many caches have their slots in rows together.
pub const COLUMNS: usize = 64;
/// From a row to the next, in bytes.
const ROW: usize = COLUMNS * size_of::<Slot<CpuSlot>>();

page_frame::assert_unless_loom!(ROW == 4096);

/// Rows of slots, in a block of a page source.
///
/// A name for memory, to be copied and to be kept as a word.
#[derive(Clone, Copy, Debug)]
pub struct SlotRows {
    first: NonNull<Slot<CpuSlot>>,
}

impl SlotRows {
    /// Takes a block of `source` for the rows of all CPUs of `cpu`.
    ///
    /// # Errors
    /// [`OutOfMemory`] when there is no such block.
    pub fn new(source: &impl PageSource, cpu: &impl Cpu) -> Result<Self, OutOfMemory> {
        let order = order(cpu)?;
        let block = source.allocate(order)?;
        let is_zero = block.is_zero();
        let (start, _) = block.into_raw();
        if !is_zero {
            // SAFETY: ours.
            unsafe { start.write_bytes(0, order.bytes()) };
        }
        // SAFETY: ours, zero, and large enough. What they are is said by the zeros (under loom, written).
        unsafe { slice_in::<Slot<CpuSlot>>(start, cpu.slots() * COLUMNS) };
        Ok(Self { first: start.cast() })
    }

    /// Gives the block back.
    ///
    /// # Safety
    /// 1. `source` and `cpu` are those that it was made with.
    /// 2. No cache has its slots here any more, and nobody uses the rows.
    pub unsafe fn free(self, source: &impl PageSource, cpu: &impl Cpu) {
        let order = order(cpu).expect("there was such a block");
        // SAFETY: clauses 1 and 2: the block that `new` took apart.
        let block = unsafe { PageBlock::from_raw(self.first.cast(), order, false) };
        // SAFETY: as above.
        unsafe { source.free(block) };
    }

    /// Returns how many pages the rows of all CPUs of `cpu` take.
    pub fn pages(cpu: &impl Cpu) -> usize {
        order(cpu).map_or(0, Order::pages)
    }

    /// Returns the rows as a word.
    pub const fn into_raw(self) -> NonNull<()> {
        self.first.cast()
    }

    /// Takes a word for rows again.
    ///
    /// # Safety
    /// 1. `raw` came from [`into_raw`](Self::into_raw).
    #[inline(always)]
    pub const unsafe fn from_raw(raw: NonNull<()>) -> Self {
        Self { first: raw.cast() }
    }

    /// Returns the first slot of a column, the distance from each to the next in bytes, and how many there are.
    pub(crate) fn column(
        self,
        column: usize,
        cpu: &impl Cpu,
    ) -> (NonNull<Slot<CpuSlot>>, u32, u32) {
        assert!(column < COLUMNS, "column {column} of {COLUMNS}");
        // SAFETY: in the first row.
        (unsafe { self.first.add(column) }, ROW as u32, cpu.slots() as u32)
    }

    /// Allocates an object of the cache whose slots are column `column`, if the caller's CPU slot has one.
    ///
    /// # Safety
    /// 1. The rows are alive, made for the CPUs of `cpu`, and `column` is below [`COLUMNS`].
    #[inline(always)]
    pub unsafe fn pop(self, column: usize, cpu: &impl Cpu) -> Option<NonNull<u8>> {
        let id = cpu.pin()?;
        // SAFETY: clause 1: ids are below the number of rows.
        let slot = unsafe { self.slot(id.index(), column) };
        // SAFETY: this CPU's slot, just pinned.
        unsafe { slot.enter(id, cpu) }.ok()?.pop()
    }

    /// Frees an object of the cache whose slots are column `column`, if the caller's CPU slot has room for it. Where it has
    /// not, or the object is on top already, it is to be freed by the cache.
    ///
    /// # Safety
    /// 1. As for [`pop`](Self::pop).
    /// 2. As for [`Cache::free`](crate::Cache::free), where the answer is true; the cache has no checks.
    #[inline(always)]
    pub unsafe fn push(self, column: usize, cpu: &impl Cpu, object: NonNull<u8>) -> bool {
        let Some(id) = cpu.pin() else { return false };
        // SAFETY: clause 1: ids are below the number of rows.
        let slot = unsafe { self.slot(id.index(), column) };
        // SAFETY: this CPU's slot, just pinned.
        match unsafe { slot.enter(id, cpu) } {
            Ok(mut slot) => slot.push(object) == Push::Done,
            Err(_) => false,
        }
    }

    /// # Safety
    /// 1. There is such a row and such a column.
    #[inline(always)]
    unsafe fn slot<'r>(self, row: usize, column: usize) -> &'r Slot<CpuSlot> {
        // As narrow as an id: the machine clears the rest by itself.
        let offset = (row as u32).wrapping_mul(ROW as u32) as usize;
        // SAFETY: clause 1; `order` kept them within 1 GiB.
        let row = unsafe { self.first.byte_add(offset) };
        // SAFETY: clause 1.
        let slot = unsafe { row.add(column) };
        // SAFETY: `new` made it, and the rows are alive.
        unsafe { slot.as_ref() }
    }
}

fn order(cpu: &impl Cpu) -> Result<Order, OutOfMemory> {
    // An order has at most 1 GiB, which is below the 4 GiB that offsets of rows reach.
    let bytes = cpu.slots().checked_mul(ROW).ok_or(OutOfMemory)?;
    Ok(Order::for_bytes(bytes).ok_or(OutOfMemory)?.order)
}
