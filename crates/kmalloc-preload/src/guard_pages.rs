//! Guard pages: the checked allocator puts a page without access behind each large allocation, so
//! that a write beyond its last page ends the program at once.
//!
//! The page belongs to the run that the page source below allocates. Where the system refuses to
//! protect it (the number of mappings is limited), it stays accessible, and nothing else changes.
//! Where it refuses to give the access back, the run stays allocated for ever.

use core::ptr::NonNull;

use page_frame::{
    Order, OutOfMemory, PAGE_SIZE, PageBlock, PageMap, PageResize, PageRun, PageSource, Tag,
    TagRange,
};

use crate::errno::{errno, set_errno};

/// A page source whose runs are followed by a page without access.
#[derive(Debug)]
pub(crate) struct GuardPages<P>(pub(crate) P);

impl<P: PageResize> GuardPages<P> {
    /// Protects the last page of `run`, and returns the run without it.
    fn guarded(run: PageRun) -> PageRun {
        let pages = run.pages() - 1;
        // SAFETY: clause 1: the run was just allocated, and no other code has its last page.
        _ = unsafe { set_access(run.start(), pages, libc::PROT_NONE) };
        PageRun::new(run.start(), pages, run.is_zero())
    }
}

/// Sets the access to the page that follows the first `pages` pages from `start` on. Returns
/// whether the system did so. `errno` stays as it is: a free must not change it.
///
/// # Safety
/// 1. The caller owns that page, which is mapped.
unsafe fn set_access(start: NonNull<u8>, pages: usize, access: libc::c_int) -> bool {
    let page = start.as_ptr().wrapping_add(pages * PAGE_SIZE);
    let before = errno();
    // SAFETY: clause 1. A failure leaves the access as it is.
    let is_set = unsafe { libc::mprotect(page.cast(), PAGE_SIZE, access) } == 0;
    if !is_set {
        set_errno(before);
    }
    is_set
}

// SAFETY: clauses 1 and 2 of `PageSource`: the wrapped source allocates and frees every block.
unsafe impl<P: PageResize> PageSource for GuardPages<P> {
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        self.0.allocate(order)
    }

    fn try_allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        self.0.try_allocate(order)
    }

    #[track_caller]
    unsafe fn free(&self, block: PageBlock) {
        // SAFETY: the clauses of `free` are the same: the wrapped source allocated the block.
        unsafe { self.0.free(block) };
    }
}

// SAFETY: clause 1 of `PageResize`: the wrapped source allocates the runs, each with one page more,
// which no other code gets. Clause 2: it sets their tags and owner words; `run_pages` leaves out
// the guard page, as all lengths of this source do.
unsafe impl<P: PageResize> PageResize for GuardPages<P> {
    fn allocate_run(&self, pages: usize, alignment: Order) -> Result<PageRun, OutOfMemory> {
        let pages = pages.checked_add(1).ok_or(OutOfMemory)?;
        self.0.allocate_run(pages, alignment).map(Self::guarded)
    }

    fn try_allocate_run(&self, pages: usize, alignment: Order) -> Result<PageRun, OutOfMemory> {
        let pages = pages.checked_add(1).ok_or(OutOfMemory)?;
        self.0.try_allocate_run(pages, alignment).map(Self::guarded)
    }

    unsafe fn free_run(&self, start: NonNull<u8>, pages: usize) {
        // SAFETY: clause 1: the guard page of the caller's run.
        if !unsafe { set_access(start, pages, libc::PROT_READ | libc::PROT_WRITE) } {
            return;
        }
        // SAFETY: clauses 1 and 2: the run with its guard page is one of the wrapped source.
        unsafe { self.0.free_run(start, pages + 1) };
    }

    unsafe fn resize_run(&self, start: NonNull<u8>, pages: usize, new_pages: usize) -> bool {
        // SAFETY: clause 1: the guard page of the caller's run.
        if !unsafe { set_access(start, pages, libc::PROT_READ | libc::PROT_WRITE) } {
            return false;
        }
        // SAFETY: clauses 1 and 2, for the run with its guard page.
        let is_done = unsafe { self.0.resize_run(start, pages + 1, new_pages + 1) };
        let pages = if is_done { new_pages } else { pages };
        // SAFETY: clause 1: the last page of the run as it is now.
        _ = unsafe { set_access(start, pages, libc::PROT_NONE) };
        is_done
    }

    unsafe fn move_content(&self, from: NonNull<u8>, to: NonNull<u8>, pages: usize) -> bool {
        // SAFETY: clause 1 is the same; the guard pages lie behind these pages.
        unsafe { self.0.move_content(from, to, pages) }
    }
}

// SAFETY: clauses 1 to 3: those of the wrapped map. No caller sets runs by `set_run`, whose length
// would be without a guard page: only the provided methods of `PageResize` do.
unsafe impl<P: PageResize> PageMap for GuardPages<P> {
    #[inline(always)]
    fn tag(&self, address: usize) -> Tag {
        self.0.tag(address)
    }

    #[inline(always)]
    fn tag_range(&self) -> TagRange {
        self.0.tag_range()
    }

    #[inline(always)]
    fn owner(&self, address: usize) -> *mut () {
        self.0.owner(address)
    }

    unsafe fn set_owner(&self, start: NonNull<u8>, pages: usize, tag: Tag, owner: NonNull<()>) {
        // SAFETY: clause 1 is the same.
        unsafe { self.0.set_owner(start, pages, tag, owner) };
    }

    unsafe fn clear_owner(&self, start: NonNull<u8>, order: Order) {
        // SAFETY: clause 1 is the same.
        unsafe { self.0.clear_owner(start, order) };
    }

    unsafe fn set_run(&self, start: NonNull<u8>, pages: usize) {
        // SAFETY: clause 1 is the same.
        unsafe { self.0.set_run(start, pages) };
    }

    unsafe fn clear_run(&self, start: NonNull<u8>, order: Order) {
        // SAFETY: clause 1 is the same.
        unsafe { self.0.clear_run(start, order) };
    }

    #[inline(always)]
    fn pointer(&self, address: usize) -> NonNull<u8> {
        self.0.pointer(address)
    }

    fn run_pages(&self, address: usize) -> Option<usize> {
        self.0.run_pages(address).map(|pages| pages - 1)
    }
}
