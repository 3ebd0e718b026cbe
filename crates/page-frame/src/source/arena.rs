//! `Arena`: a minimal page source. It has one range of memory, a bit for each page, and a lock.
//!
//! # Concepts
//! The memory begins with the page map and the bits; whole pages follow. Allocation finds
//! the lowest aligned run of clear bits ([`PageBits`]). Runs have exactly as many pages as the
//! caller asks for. `slab` and `kmalloc` can run on an arena without a buddy allocator, on a
//! microcontroller or in a test.
//!
//! # Invariants
//! - I1: the number of free pages is the number of clear bits.
//! - I2: the tag of a free page is [`Tag::NONE`].
//!
//! # Concurrency
//! One spin lock, which does not mask interrupts: interrupt handlers must not use an arena. They
//! may use [`Regions`](crate::Regions), which mask interrupts while they use one.
//!
//! # Costs
//! Allocation is O(pages / 64) at worst, and begins at the lowest free page. Freeing is
//! O(pages / 64) of the block.

use core::fmt;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use crate::block::PageBlock;
use crate::error::OutOfMemory;
use crate::fault::{Fault, FaultKind, panic_on_fault};
use crate::order::{Order, PAGE_SHIFT, PAGE_SIZE};
use crate::page_map::array::PageMapArray;
use crate::page_map::forward::ForwardPageMap;
use crate::page_map::map::PageMap;
use crate::page_map::tag::Tag;
use crate::source::page_bits::PageBits;
use crate::source::page_source::PageSource;
use crate::source::run::{PageResize, PageRun};
use crate::sync::lock::Lock;
use crate::violation::Violation;

/// A page source over one range of memory.
///
/// ```
/// use page_frame::{Arena, Order, PageSource};
/// # let mut memory = vec![core::mem::MaybeUninit::uninit(); 64 * 1024];
/// let arena = Arena::new(&mut memory)?;
/// assert!(arena.pages() >= 14); // of 16, as the bookkeeping lies in the same memory
/// let block = arena.allocate(Order::new(1).unwrap())?;
/// assert_eq!(arena.free_pages(), arena.pages() - 2);
/// assert!(arena.contains(block.start().addr().get()));
/// // SAFETY: the block came from this arena and nothing refers into it.
/// unsafe { arena.free(block) };
/// arena.validate()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Arena<'m> {
    first: NonNull<u8>,
    map: PageMapArray<'m>,
    bits: Lock<PageBits>,
    _memory: PhantomData<&'m mut [MaybeUninit<u8>]>,
}

// SAFETY: `first` is a base for address arithmetic; the lock and the map are `Send`.
unsafe impl Send for Arena<'_> {}
// SAFETY: shared references reach only the data of the lock while they hold it, and the atomics of
// the map.
unsafe impl Sync for Arena<'_> {}

/// The memory given to an [`Arena`] is too small for the bookkeeping and one page.
///
/// ```
/// use page_frame::Arena;
/// assert_eq!(Arena::new(&mut []).unwrap_err().given, 0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSmall {
    /// The bytes that one page needs, wherever the memory starts.
    pub needed: usize,
    /// The bytes given.
    pub given: usize,
}

impl fmt::Display for TooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an arena of one page needs {} bytes, {} were given", self.needed, self.given)
    }
}

impl core::error::Error for TooSmall {}

impl<'m> Arena<'m> {
    /// Makes an arena of `memory`. Writes the bookkeeping, about ten bytes per page, and no other
    /// memory. O(pages). Example: see [`Arena`].
    ///
    /// # Errors
    /// [`TooSmall`] when not even one page fits beside the bookkeeping.
    pub fn new(memory: &'m mut [MaybeUninit<u8>]) -> Result<Self, TooSmall> {
        let given = memory.len();
        // SAFETY: the reference is exclusive during `'m` and valid for its length.
        unsafe { Self::from_raw(NonNull::from(memory).cast(), given) }
    }

    /// Makes an arena of the `bytes` bytes at `start`. O(pages).
    ///
    /// ```
    /// use page_frame::{Arena, PAGE_SIZE};
    /// use std::{alloc::Layout, ptr::NonNull};
    /// let layout = Layout::from_size_align(8 * PAGE_SIZE, PAGE_SIZE)?;
    /// // SAFETY: the layout is not empty.
    /// let start = NonNull::new(unsafe { std::alloc::alloc(layout) }).ok_or("out of memory")?;
    /// // SAFETY: clause 1: the memory is ours, and never freed.
    /// let arena = unsafe { Arena::from_raw(start, layout.size()) }?;
    /// assert_eq!(arena.pages(), 7); // the first page has the bookkeeping
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`TooSmall`] when not even one page fits beside the bookkeeping.
    ///
    /// # Safety
    /// 1. The memory is valid for reads and writes during `'m`, and no other code uses it.
    pub unsafe fn from_raw(start: NonNull<u8>, bytes: usize) -> Result<Self, TooSmall> {
        let too_small = TooSmall { needed: Self::needed_for_one_page(), given: bytes };
        let skip = start.align_offset(64).min(bytes);
        // The bookkeeping grows with the pages: start with as many as the memory has, and drop
        // pages until both fit.
        let mut pages = (bytes - skip) >> PAGE_SHIFT;
        let base = start.addr().get();
        let lead = loop {
            if pages == 0 {
                return Err(too_small);
            }
            let bookkeeping_end = base + skip + Self::bookkeeping(pages);
            let lead = bookkeeping_end.next_multiple_of(PAGE_SIZE) - base;
            let needed = lead + pages * PAGE_SIZE;
            if needed <= bytes {
                break lead;
            }
            pages -= (needed - bytes).div_ceil(PAGE_SIZE).min(pages);
        };
        // SAFETY: clause 1: `skip` bytes are inside the memory.
        let metadata = unsafe { start.add(skip) };
        // SAFETY: clause 1: the loop checked that `lead` bytes and the pages after them are inside
        // the memory.
        let first = unsafe { start.add(lead) };
        // SAFETY: clause 1; the loop left room for the bookkeeping.
        unsafe { metadata.write_bytes(0, Self::bookkeeping(pages)) };
        // SAFETY: the map's part of the bookkeeping, 64-aligned by `skip`, just zeroed; `first` is
        // ours by clause 1.
        let map = unsafe { PageMapArray::new_in(first, pages, metadata) };
        // SAFETY: the bits follow the map's entries, inside the bookkeeping.
        let words = unsafe { metadata.add(Self::map_bytes(pages)) }.cast();
        // SAFETY: clause 1: the bits' part of the bookkeeping, a multiple of 64 behind a multiple
        // of 64, just zeroed, and no other code uses it.
        let bits = unsafe { PageBits::new_in(words, pages) };
        Ok(Self { first, map, bits: Lock::new(bits), _memory: PhantomData })
    }

    /// Returns the bytes in which one page fits beside the bookkeeping, wherever they start: up to
    /// a cache line lies before the bookkeeping, and up to a page between it and the page.
    const fn needed_for_one_page() -> usize {
        64 + Self::bookkeeping(1) + 2 * PAGE_SIZE
    }

    const fn bookkeeping(pages: usize) -> usize {
        Self::map_bytes(pages) + PageBits::bytes(pages)
    }

    /// Returns the bytes of the page map of `pages` pages, rounded up to a multiple of 64.
    const fn map_bytes(pages: usize) -> usize {
        PageMapArray::metadata_bytes(pages).next_multiple_of(64)
    }

    /// Returns the size in pages. Example: see [`Arena`].
    pub fn pages(&self) -> usize {
        self.map.pages()
    }

    /// Returns the number of free pages. Takes the lock. Example: see [`Arena`].
    pub fn free_pages(&self) -> usize {
        self.bits.lock().free()
    }

    /// Returns whether `address` lies in a page of this arena. O(1), no lock.
    /// Example: see [`Arena`].
    #[inline]
    pub fn contains(&self, address: usize) -> bool {
        address.wrapping_sub(self.first.addr().get()) >> PAGE_SHIFT < self.map.pages()
    }

    /// Checks I1 and I2. O(pages), takes the lock. Example: see [`Arena`].
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn validate(&self) -> Result<(), Violation> {
        let bits = self.bits.lock();
        if bits.count_free() != bits.free() {
            return Err(Violation::of("I1: free pages are the clear bits"));
        }
        if !bits.lowest_is_right() {
            return Err(Violation::of("page bits I2: pages below the lowest free page are taken"));
        }
        let is_free_with_tag =
            |page: usize| !bits.is_taken(page) && self.map.tag_at(page) != Tag::NONE;
        if (0..bits.pages()).any(is_free_with_tag) {
            return Err(Violation::of("I2: free pages have no tag"));
        }
        Ok(())
    }

    /// Allocates `pages` pages, the first of them a multiple of `alignment`; tags the first with
    /// the result of `tag`. Returns it.
    fn take(
        &self,
        pages: usize,
        alignment: Order,
        tag: impl FnOnce(NonNull<u8>),
    ) -> Option<NonNull<u8>> {
        let mut bits = self.bits.lock();
        let offset = (self.first.addr().get() >> PAGE_SHIFT) & (alignment.pages() - 1);
        let page = bits.find(pages, alignment.pages(), offset)?;
        bits.take(page..page + pages);
        // SAFETY: the page is inside the memory.
        let start = unsafe { self.first.add(page << PAGE_SHIFT) };
        tag(start);
        Some(start)
    }

    /// Returns the index of the first page of the run of `pages` pages at `start`.
    fn check_run(&self, bits: &PageBits, start: NonNull<u8>, pages: usize) -> Result<usize, Fault> {
        let address = start.addr().get();
        let page = self.page_of(address)?;
        let allocated = self.map.run_pages(address);
        if allocated == Some(pages) {
            return Ok(page);
        }
        let kind = match (bits.is_taken(page), allocated) {
            (false, _) => FaultKind::DoubleFree,
            (true, allocated) => FaultKind::WrongPageCount { allocated, given: pages },
        };
        Err(Fault::at_address(kind, address))
    }

    /// Returns the index of the page that begins at `address`.
    fn page_of(&self, address: usize) -> Result<usize, Fault> {
        if !self.contains(address) {
            return Err(Fault::at_address(FaultKind::ForeignPointer, address));
        }
        let offset = address - self.first.addr().get();
        if offset % PAGE_SIZE != 0 {
            let kind = FaultKind::Misaligned { alignment: PAGE_SIZE };
            return Err(Fault::at_address(kind, address));
        }
        Ok(offset >> PAGE_SHIFT)
    }

    /// Returns the index of the first page of the block of `order` at `start`.
    fn check(&self, bits: &PageBits, start: NonNull<u8>, order: Order) -> Result<usize, Fault> {
        let address = start.addr().get();
        let page = self.page_of(address)?;
        let found = self.map.tag(address);
        if found == Tag::block(order) {
            return Ok(page);
        }
        let kind = match (bits.is_taken(page), found.as_block()) {
            (false, _) => FaultKind::DoubleFree,
            (true, Some(allocated)) => FaultKind::WrongOrder { allocated, given: order },
            (true, None) => FaultKind::InteriorPointer,
        };
        Err(Fault::at_address(kind, address))
    }
}

// SAFETY: clause 1: the pages lie inside the memory of `from_raw`, which no other code uses.
// Allocation sets the bits of pages whose bits were clear, and aligns by address. Clause 2: nothing
// panics once the first bit is clear.
unsafe impl PageSource for Arena<'_> {
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        let tag = |start: NonNull<u8>| self.map.set_tag(start.addr().get(), Tag::block(order));
        let start = self.take(order.pages(), order, tag).ok_or(OutOfMemory)?;
        // SAFETY: clause 1: `start` is aligned to the block's size. Clause 2: the bits were clear,
        // so the pages were free.
        Ok(unsafe { PageBlock::from_raw(start, order, false) })
    }

    #[track_caller]
    unsafe fn free(&self, block: PageBlock) {
        let (start, order) = block.into_raw();
        let mut bits = self.bits.lock();
        match self.check(&bits, start, order) {
            Ok(page) => {
                self.map.set_tag_at(page, Tag::NONE);
                bits.free_range(page..page + order.pages());
            }
            Err(fault) => {
                drop(bits);
                panic_on_fault(&fault);
            }
        }
    }
}

// SAFETY: clause 1: always the field `map`, which lives in this value.
unsafe impl ForwardPageMap for Arena<'_> {
    #[inline(always)]
    fn page_map(&self) -> &impl PageMap {
        &self.map
    }
}

// SAFETY: clause 1: as for `PageSource`. Clause 2: `set_run` writes both under the lock, and a run
// that changes its length gets the new one.
unsafe impl PageResize for Arena<'_> {
    fn allocate_run(&self, pages: usize, alignment: Order) -> Result<PageRun, OutOfMemory> {
        if pages == 0 || Order::for_pages(pages).is_none() {
            return Err(OutOfMemory);
        }
        // SAFETY: clause 1 of `set_run`: `take` has just taken these pages for this call.
        let tag = |start| unsafe { self.map.set_run(start, pages) };
        let start = self.take(pages, alignment, tag).ok_or(OutOfMemory)?;
        Ok(PageRun::new(start, pages, false))
    }

    #[track_caller]
    unsafe fn free_run(&self, start: NonNull<u8>, pages: usize) {
        let mut bits = self.bits.lock();
        match self.check_run(&bits, start, pages) {
            Ok(page) => {
                self.map.set_tag_at(page, Tag::NONE);
                bits.free_range(page..page + pages);
            }
            Err(fault) => {
                drop(bits);
                panic_on_fault(&fault);
            }
        }
    }

    #[track_caller]
    unsafe fn resize_run(&self, start: NonNull<u8>, pages: usize, new_pages: usize) -> bool {
        let mut bits = self.bits.lock();
        let page = match self.check_run(&bits, start, pages) {
            Ok(page) => page,
            Err(fault) => {
                drop(bits);
                panic_on_fault(&fault);
                return false;
            }
        };
        let (end, new_end) = (page + pages, page.saturating_add(new_pages));
        if new_pages == 0 || Order::for_pages(new_pages).is_none() {
            return false;
        }
        if new_end > end {
            if !bits.is_free(end..new_end) {
                return false;
            }
            bits.take(end..new_end);
        } else {
            bits.free_range(new_end..end);
        }
        // SAFETY: clause 1 of `set_run`: by clause 1 the caller owns the run, and now its new tail.
        unsafe { self.map.set_run(start, new_pages) };
        true
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::{vec, vec::Vec};

    fn memory(bytes: usize) -> Vec<MaybeUninit<u8>> {
        vec![MaybeUninit::uninit(); bytes]
    }

    #[test]
    fn memory_for_one_page_is_enough_and_less_is_an_error() {
        let mut memory = memory(Arena::needed_for_one_page());
        let needed = memory.len();
        assert!(Arena::new(&mut memory).expect("as much as is asked for").pages() >= 1);
        for bytes in [0, 1, 63, PAGE_SIZE - 1, PAGE_SIZE] {
            let error =
                Arena::new(&mut memory[..bytes]).expect_err("a page and its entry do not fit");
            assert_eq!(error, TooSmall { needed, given: bytes });
        }
    }
}
