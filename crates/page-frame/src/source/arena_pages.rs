//! The arena as a [`PageSource`] and a [`PageResize`]: blocks and runs of pages.

use core::ptr::NonNull;

use crate::block::PageBlock;
use crate::error::OutOfMemory;
use crate::fault::{Fault, FaultKind, panic_on_fault};
use crate::order::{Order, PAGE_SHIFT, PAGE_SIZE};
use crate::page_map::map::PageMap;
use crate::page_map::tag::Tag;
use crate::source::arena::Arena;
use crate::source::arena_bits::ArenaBits;
use crate::source::byte_source::ByteSource;
use crate::source::page_source::PageSource;
use crate::source::run::{PageResize, PageRun};

impl Arena<'_> {
    /// Allocates `pages` pages; the first one is aligned to `alignment`. Calls `tag` with the first
    /// page, under the lock, and returns that page.
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
    ///
    /// # Errors
    /// The fault of the caller, if no such run starts there.
    #[track_caller]
    fn check_run(
        &self,
        bits: &ArenaBits,
        start: NonNull<u8>,
        pages: usize,
    ) -> Result<usize, Fault> {
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
    ///
    /// # Errors
    /// The fault of the caller, if no page of the arena begins there.
    #[track_caller]
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
    ///
    /// # Errors
    /// The fault of the caller, if no such block starts there.
    #[track_caller]
    fn check(&self, bits: &ArenaBits, start: NonNull<u8>, order: Order) -> Result<usize, Fault> {
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

    fn byte_source(&self) -> Option<&dyn ByteSource> {
        self.serves_bytes.then_some(self)
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
        let is_length = new_pages > 0 && Order::for_pages(new_pages).is_some();
        if !is_length || !bits.resize(page..page + pages, page.saturating_add(new_pages)) {
            return false;
        }
        // SAFETY: clause 1 of `set_run`: by clause 1 the caller owns the run, and now its new tail.
        unsafe { self.map.set_run(start, new_pages) };
        true
    }
}
