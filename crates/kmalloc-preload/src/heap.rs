//! The two allocators, and which of them serves.
//!
//! # Concepts
//! A program runs on one of two instances for its whole life: the **plain** one, or with `KMALLOC_CHECK` the **checked** one,
//! whose caches look for mistakes. The functions of the ABI ask for the plain one, which is one load and one comparison;
//! where there is none they come here.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, Ordering};

use hosted::{HeapThreads, MAGAZINE_BYTES, Pages, Threads};
use kmalloc::{Global, Kmalloc};
use page_frame::{Fault, OutOfMemory, Reclaiming, Shrink, SideBySide};
use slab::{Hardened, Off, Registry};
use spin::Once;

use crate::out::say;
use crate::{environment, stats};

/// Pages; when there are none more, the caches give back what they can.
pub(crate) type Source = Reclaiming<&'static Pages, Caches>;
/// The allocator without checks.
pub(crate) type Plain = Kmalloc<(Source, HeapThreads), Off>;
/// The allocator that looks for mistakes.
pub(crate) type Checked = Kmalloc<(Source, HeapThreads), Hardened>;

/// Set up by the first request, unless checks are wanted (I2).
pub(crate) static PLAIN: Global<(Source, HeapThreads), Off> = Global::new(|| {
    if checks_are_wanted() {
        return Err(OutOfMemory);
    }
    Ok(Kmalloc::with_hardening(registry()?).with_magazine_bytes(MAGAZINE_BYTES))
});
static CHECKED: Global<(Source, HeapThreads), Hardened> = Global::new(|| {
    let kmalloc = Kmalloc::with_hardening(registry()?);
    Ok(kmalloc.with_secret(environment::random_bits()))
});

/// Whether checks are wanted: not yet known, no, yes.
static WANTED: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0;
const NO: u8 = 1;
const YES: u8 = 2;

/// Calls `$method` of whichever allocator serves, with the arguments; none where there is no memory for it.
macro_rules! with_heap {
    (|$heap:ident| $body:expr) => {
        match $crate::heap::serving() {
            Some($crate::heap::Heap::Plain($heap)) => Some($body),
            Some($crate::heap::Heap::Checked($heap)) => Some($body),
            None => None,
        }
    };
}
pub(crate) use with_heap;

/// An allocator that has been set up.
#[derive(Clone, Copy)]
pub(crate) enum Heap {
    Plain(&'static Plain),
    Checked(&'static Checked),
}

/// Returns the allocator that serves, setting it up.
#[cold]
#[inline(never)]
pub(crate) fn serving() -> Option<Heap> {
    if checks_are_wanted() {
        CHECKED.kmalloc().ok().map(Heap::Checked)
    } else {
        PLAIN.kmalloc().ok().map(Heap::Plain)
    }
}

/// Returns the allocator that serves if it has been set up.
pub(crate) fn existing() -> Option<Heap> {
    PLAIN.get().map(Heap::Plain).or_else(|| CHECKED.get().map(Heap::Checked))
}

/// Returns the pages of the process, if there is any address space for them.
pub(crate) fn pages() -> Option<&'static Pages> {
    // Where there is no address space at the start, there is never any.
    static PAGES: Once<Option<Pages>> = Once::new();
    PAGES.call_once(|| Some(Pages::new().ok()?.with_fall_hook(shrink_caches))).as_ref()
}

/// Called when the program uses less and less memory.
fn shrink_caches() {
    Caches.shrink(usize::MAX);
}

fn registry() -> Result<Registry<(Source, HeapThreads)>, OutOfMemory> {
    let pages = pages().ok_or(OutOfMemory)?;
    Registry::with_fault_hook(Reclaiming::new(pages, Caches), SideBySide(Threads), stop)
}

fn checks_are_wanted() -> bool {
    // Relaxed: whoever finds it unknown comes to the same answer.
    match WANTED.load(Ordering::Relaxed) {
        NO => false,
        YES => true,
        _ => {
            let wanted = environment::checks();
            WANTED.store(if wanted { YES } else { NO }, Ordering::Relaxed);
            wanted
        }
    }
}

/// Says what the program did wrong, and ends it.
fn stop(fault: &Fault) {
    let Fault { kind, address, expected, found, .. } = *fault;
    say(
        2,
        format_args!(
            "kmalloc: {kind:?} at {address:#x}: expected {expected:#x}, found {found:#x}\n"
        ),
    );
    // SAFETY: no arguments; does not return.
    unsafe { libc::abort() };
}

/// The caches of the allocator that serves, as who gives pages back when there are none.
#[derive(Debug)]
pub(crate) struct Caches;

impl Shrink for Caches {
    fn reclaimable(&self) -> usize {
        match existing() {
            Some(Heap::Plain(heap)) => heap.reclaimable(),
            Some(Heap::Checked(heap)) => heap.reclaimable(),
            None => 0,
        }
    }

    fn shrink(&self, target_pages: usize) -> usize {
        match existing() {
            Some(Heap::Plain(heap)) => heap.shrink(target_pages),
            Some(Heap::Checked(heap)) => heap.shrink(target_pages),
            None => 0,
        }
    }
}

/// Returns what a C function does: the address, or null with `errno` set.
#[inline(always)]
pub(crate) fn or_errno(outcome: Result<NonNull<u8>, OutOfMemory>) -> *mut libc::c_void {
    match outcome {
        Ok(start) => start.as_ptr().cast(),
        Err(OutOfMemory) => no_memory(),
    }
}

/// Sets `errno` to `ENOMEM` and returns null.
#[cold]
#[inline(never)]
pub(crate) fn no_memory() -> *mut libc::c_void {
    set_errno(libc::ENOMEM);
    stats::note_failure();
    core::ptr::null_mut()
}

/// Sets `errno`.
pub(crate) fn set_errno(number: i32) {
    // SAFETY: the thread's own variable.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: its address is the thread's for as long as the thread runs.
    unsafe { errno.write(number) };
}

/// Returns `errno`.
pub(crate) fn errno() -> i32 {
    // SAFETY: the thread's own variable.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: its address is the thread's for as long as the thread runs.
    unsafe { errno.read() }
}
