//! A page source that keeps the file of statistics current: whoever passes by writes it, if it is old enough.
//!
//! # Concepts
//! There is no thread for this. Numbers change much only when caches take pages or give them back, so those calls are where
//! the file is looked after, twice a second at most; a program that does neither has a file that says what is so, but for what
//! lies in magazines. Where it has to be exact, a program calls `malloc_stats`.
//!
//! # Concurrency
//! Page sources are called with no lock held and no slot entered, so all caches may be looked at from here. One writes at a
//! time; others pass. A signal handler that comes upon the writer passes too.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use page_frame::{
    Order, OutOfMemory, PageBlock, PageMap, PageResize, PageRun, PageSource, forward_page_map,
};

use crate::heap::existing;
use crate::stats;

/// How old the file is at least before it is written again, in milliseconds.
const AGE_MS: u64 = 500;

/// Whether there is a file to keep current.
static IS_WANTED: AtomicBool = AtomicBool::new(false);
/// When the file was written last, in milliseconds.
static WRITTEN_MS: AtomicU64 = AtomicU64::new(0);
static IS_WRITING: AtomicBool = AtomicBool::new(false);

/// Has the file kept current from now on.
pub(crate) fn start() {
    // Release: pairs with the Acquire in `look`; publishes the file's name.
    IS_WANTED.store(true, Ordering::Release);
}

/// Says that nobody is writing, in a child after a fork, in which only the caller is left.
pub(crate) fn start_in_child() {
    IS_WRITING.store(false, Ordering::Relaxed);
}

/// Writes the file if it is wanted and old.
#[inline]
fn look() {
    // Acquire: as said in `start`.
    if IS_WANTED.load(Ordering::Acquire) {
        write_if_old();
    }
}

#[cold]
#[inline(never)]
fn write_if_old() {
    if existing().is_none() {
        return;
    }
    // Relaxed: when, not what.
    if now_ms().saturating_sub(WRITTEN_MS.load(Ordering::Relaxed)) < AGE_MS {
        return;
    }
    // Acquire and Release: the file is written by one after the other.
    if IS_WRITING.swap(true, Ordering::Acquire) {
        return;
    }
    stats::write_file();
    WRITTEN_MS.store(now_ms(), Ordering::Relaxed);
    IS_WRITING.store(false, Ordering::Release);
}

fn now_ms() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the time to a variable of ours; this clock cannot fail on Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now) };
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// Looks after the file at each call that passes to `P`.
#[derive(Debug)]
pub(crate) struct Current<P>(pub(crate) P);

// SAFETY: blocks come from and go to the source below unchanged.
unsafe impl<P: PageSource> PageSource for Current<P> {
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        let outcome = self.0.allocate(order);
        look();
        outcome
    }

    fn try_allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        self.0.try_allocate(order)
    }

    unsafe fn free(&self, block: PageBlock) {
        // SAFETY: the block is one of the source below: looking after the file changes no block.
        unsafe { self.0.free(block) };
        look();
    }
}

forward_page_map!(impl[P: PageMap] for Current<P>, |this| this.0);

// SAFETY: runs come from and go to the source below unchanged.
unsafe impl<P: PageResize> PageResize for Current<P> {
    fn allocate_run(&self, pages: usize, alignment: Order) -> Result<PageRun, OutOfMemory> {
        let outcome = self.0.allocate_run(pages, alignment);
        look();
        outcome
    }

    fn try_allocate_run(&self, pages: usize, alignment: Order) -> Result<PageRun, OutOfMemory> {
        self.0.try_allocate_run(pages, alignment)
    }

    unsafe fn free_run(&self, start: NonNull<u8>, pages: usize) {
        // SAFETY: the run is one of the source below: looking after the file changes no block.
        unsafe { self.0.free_run(start, pages) };
        look();
    }

    unsafe fn resize_run(&self, start: NonNull<u8>, pages: usize, new_pages: usize) -> bool {
        // SAFETY: a run of the source below, of so many pages: looking after the file changes no block.
        unsafe { self.0.resize_run(start, pages, new_pages) }
    }

    unsafe fn move_content(&self, from: NonNull<u8>, to: NonNull<u8>, pages: usize) -> bool {
        // SAFETY: both runs are of the source below: looking after the file changes no block.
        unsafe { self.0.move_content(from, to, pages) }
    }
}
