//! The global allocator of the benches: the system's, or another one for a while.
//!
//! Collections of the standard library allocate from the program's global allocator. To measure
//! them on several allocators in one run, that allocator forwards to the one chosen by the running
//! thread. The cost of forwarding (a load and an indirect call) is the same for all, the system's
//! allocator included.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// An allocator that may be chosen.
pub type Choice = &'static (dyn GlobalAlloc + Sync);

thread_local! {
    static CHOICE: Cell<Option<Choice>> = const { Cell::new(None) };
}

/// Runs `body` with `allocator` as this thread's global allocator.
///
/// # Safety
/// 1. `body` frees all that it allocates and nothing that it did not, and does not unwind.
pub unsafe fn with_allocator<R: Copy>(allocator: Choice, body: impl FnOnce() -> R) -> R {
    CHOICE.set(Some(allocator));
    let result = body();
    CHOICE.set(None);
    result
}

/// Forwards to the allocator that the running thread has chosen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Switch;

#[inline]
fn chosen() -> Choice {
    CHOICE.get().unwrap_or(&System)
}

// SAFETY: each call is one of an allocator's own. Memory goes back to where it came from, as
// `with_allocator` was promised that no memory crosses its begin or end.
unsafe impl GlobalAlloc for Switch {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout has a size, as the chosen allocator wants.
        unsafe { chosen().alloc(layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the layout has a size here too.
        unsafe { chosen().alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller's block is the chosen allocator's: it is not changed while one is
        // held.
        unsafe { chosen().dealloc(start, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, start: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: the block is the chosen allocator's, and the caller's new size is not zero.
        unsafe { chosen().realloc(start, layout, bytes) }
    }
}
