//! `Arena`: a minimal page source. It has one range of memory, a bit for each page, and a lock.
//!
//! # Concepts
//! The memory begins with the page map and the bits; whole pages follow. Allocation finds
//! the lowest aligned run of clear bits. `slab` and `kmalloc` can run on an arena without a buddy
//! allocator, on a microcontroller or in a test.
//!
//! # Invariants
//! - I1: the number of free pages is the number of clear bits.
//! - I2: the tag of a free page is [`Tag::NONE`].
//!
//! # Concurrency
//! One spin lock, which does not mask interrupts: interrupt handlers must not use an arena.
//!
//! # Costs
//! Allocation tests each aligned place in turn: O(pages). Freeing is O(2^order).

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
use crate::source::page_source::PageSource;
use crate::source::run::PageResize;
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
/// // SAFETY: the block came from this arena and nothing refers into it.
/// unsafe { arena.free(block) };
/// arena.validate()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Arena<'m> {
    first: NonNull<u8>,
    map: PageMapArray<'m>,
    state: Lock<State>,
    _memory: PhantomData<&'m mut [MaybeUninit<u8>]>,
}

#[derive(Debug)]
struct State {
    /// A bit for each page, set while the page is allocated; before the pages in the arena's
    /// memory.
    taken: NonNull<usize>,
    pages: usize,
    free_pages: usize,
}

// SAFETY: the words at `taken` belong to the arena, and only the holder of the lock reaches them.
unsafe impl Send for State {}
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

const WORD_BITS: usize = usize::BITS as usize;

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
        let too_small = TooSmall { needed: Self::bookkeeping(1) + 2 * PAGE_SIZE, given: bytes };
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
        let taken = unsafe { metadata.add(PageMapArray::metadata_bytes(pages)) }.cast();
        let state = Lock::new(State { taken, pages, free_pages: pages });
        Ok(Self { first, map, state, _memory: PhantomData })
    }

    const fn bookkeeping(pages: usize) -> usize {
        PageMapArray::metadata_bytes(pages).next_multiple_of(64)
            + pages.div_ceil(WORD_BITS) * size_of::<usize>()
    }

    /// Returns the size in pages. Example: see [`Arena`].
    pub fn pages(&self) -> usize {
        self.map.pages()
    }

    /// Returns the number of free pages. Takes the lock. Example: see [`Arena`].
    pub fn free_pages(&self) -> usize {
        self.state.lock().free_pages
    }

    /// Checks I1 and I2. O(pages), takes the lock. Example: see [`Arena`].
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn validate(&self) -> Result<(), Violation> {
        let state = self.state.lock();
        let free = (0..state.pages).filter(|page| !state.is_taken(*page));
        if free.clone().count() != state.free_pages {
            return Err(Violation::of("I1: free pages are the clear bits"));
        }
        let tag = |page: usize| self.map.tag(self.first.addr().get() + page * PAGE_SIZE);
        if free.clone().any(|page| tag(page) != Tag::NONE) {
            return Err(Violation::of("I2: free pages have no tag"));
        }
        Ok(())
    }

    fn check(&self, state: &State, start: NonNull<u8>, order: Order) -> Result<usize, Fault> {
        let address = start.addr().get();
        let offset = address.wrapping_sub(self.first.addr().get());
        let page = offset >> PAGE_SHIFT;
        if page >= state.pages {
            return Err(Fault::at_address(FaultKind::ForeignPointer, address));
        }
        if offset % PAGE_SIZE != 0 {
            let kind = FaultKind::Misaligned { alignment: PAGE_SIZE };
            return Err(Fault::at_address(kind, address));
        }
        let found = self.map.tag(address);
        if found == Tag::block(order) {
            return Ok(page);
        }
        let kind = match (state.is_taken(page), found.as_block()) {
            (false, _) => FaultKind::DoubleFree,
            (true, Some(allocated)) => FaultKind::WrongOrder { allocated, given: order },
            (true, None) => FaultKind::InteriorPointer,
        };
        Err(Fault::at_address(kind, address))
    }
}

impl State {
    fn word(&self, page: usize) -> NonNull<usize> {
        // SAFETY: `page` is less than `pages`, so its word is one of those at `taken`.
        unsafe { self.taken.add(page / WORD_BITS) }
    }

    fn is_taken(&self, page: usize) -> bool {
        // SAFETY: in bounds, initialised to zero, and only reached through the lock that gave us
        // `self`.
        let word = unsafe { self.word(page).read() };
        word >> (page % WORD_BITS) & 1 == 1
    }

    fn set_taken(&mut self, page: usize, taken: bool) {
        let word = self.word(page);
        // SAFETY: in bounds and initialised to zero, as in `is_taken`.
        let old = unsafe { word.read() };
        let bit = 1 << (page % WORD_BITS);
        let new = if taken { old | bit } else { old & !bit };
        // SAFETY: in bounds, and `self` is exclusive.
        unsafe { word.write(new) };
    }
}

// SAFETY: clause 1: the pages lie inside the memory of `from_raw`, which no other code uses.
// Allocation sets the bits of pages whose bits were clear, and aligns by address. Clause 2: nothing
// panics once the first bit is clear.
unsafe impl PageSource for Arena<'_> {
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        let mut state = self.state.lock();
        let pages = order.pages();
        let misaligned = (self.first.addr().get() >> PAGE_SHIFT) & (pages - 1);
        let mut page = if misaligned == 0 { 0 } else { pages - misaligned };
        while page.checked_add(pages).is_some_and(|end| end <= state.pages) {
            if !(page..page + pages).any(|page| state.is_taken(page)) {
                (page..page + pages).for_each(|page| state.set_taken(page, true));
                state.free_pages -= pages;
                // SAFETY: the page is inside the memory.
                let start = unsafe { self.first.add(page << PAGE_SHIFT) };
                self.map.set_tag(start.addr().get(), Tag::block(order));
                // SAFETY: clause 1: `start` is aligned, as `page` advances from an aligned page by
                // the size of the block. Clause 2: the bits were clear, so the pages were free.
                return Ok(unsafe { PageBlock::from_raw(start, order, false) });
            }
            page += pages;
        }
        Err(OutOfMemory)
    }

    #[track_caller]
    unsafe fn free(&self, block: PageBlock) {
        let (start, order) = block.into_raw();
        let mut state = self.state.lock();
        match self.check(&state, start, order) {
            Ok(page) => {
                self.map.set_tag(start.addr().get(), Tag::NONE);
                (page..page + order.pages()).for_each(|page| state.set_taken(page, false));
                state.free_pages += order.pages();
            }
            Err(fault) => {
                drop(state);
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
// SAFETY: clauses 1 and 2: all methods are the provided ones, which make a run of a whole block.
unsafe impl PageResize for Arena<'_> {}

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
        let mut memory = memory(Arena::bookkeeping(1) + 2 * PAGE_SIZE);
        let needed = memory.len();
        assert!(Arena::new(&mut memory).expect("as much as is asked for").pages() >= 1);
        for bytes in [0, 1, 63, PAGE_SIZE - 1, PAGE_SIZE] {
            let error =
                Arena::new(&mut memory[..bytes]).expect_err("a page and its entry do not fit");
            assert_eq!(error, TooSmall { needed, given: bytes });
        }
    }

    #[test]
    fn all_pages_are_handed_out_once_and_come_back() {
        let mut memory = memory(100 * PAGE_SIZE + 77);
        let arena = Arena::new(&mut memory).expect("large enough");
        let pages = arena.pages();
        let blocks: Vec<_> = core::iter::from_fn(|| arena.allocate(Order::ZERO).ok()).collect();
        assert_eq!((blocks.len(), arena.free_pages()), (pages, 0));
        let mut starts: Vec<_> = blocks.iter().map(|block| block.start().addr()).collect();
        starts.dedup();
        assert_eq!(starts.len(), pages);
        for block in blocks {
            assert_eq!(arena.tag(block.start().addr().get()), Tag::block(Order::ZERO));
            // SAFETY: from this arena, not in use.
            unsafe { arena.free(block) };
            arena.validate().expect("consistent after each free");
        }
        assert_eq!(arena.free_pages(), pages);
    }

    #[test]
    fn blocks_are_aligned_by_address() {
        let mut memory = memory(200 * PAGE_SIZE);
        let arena = Arena::new(&mut memory).expect("large enough");
        for order in (0..6).map(|order| Order::new(order).expect("small")) {
            let block = arena.allocate(order).expect("room for one of each");
            assert_eq!(block.start().addr().get() % order.bytes(), 0);
            // SAFETY: from this arena, not in use.
            unsafe { arena.free(block) };
        }
    }

    #[test]
    #[should_panic(expected = "DoubleFree")]
    fn a_double_free_is_a_fault() {
        let mut memory = memory(20 * PAGE_SIZE);
        let arena = Arena::new(&mut memory).expect("large enough");
        let (start, order) = arena.allocate(Order::ZERO).expect("room").into_raw();
        for _ in 0..2 {
            // SAFETY: the second time breaks clause 1 of `free` on purpose; no memory is used.
            let block = unsafe { PageBlock::from_raw(start, order, false) };
            // SAFETY: breaks clause 1 a second time; the fault comes before anything is touched.
            unsafe { arena.free(block) };
        }
    }
}
