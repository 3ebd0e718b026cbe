//! The two allocators of a process, and which of them serves requests.
//!
//! # Concepts
//! A program runs on one of two instances for its whole life: the **plain** one, or with
//! `KMALLOC_CHECK` the **checked** one, whose caches are hardened. The C functions try the plain
//! one first, which costs one load and one comparison. Where it does not exist they call `serving`.

use core::sync::atomic::{AtomicU8, Ordering};

use hosted::{HeapThreads, MAGAZINE_BYTES, Pages, Threads, Trim};
use kmalloc::{Global, Kmalloc};
use page_frame::{Fault, OutOfMemory, Reclaiming, Shrink, WithSlotStride};
use slab::{Hardened, Off, Registry};
use spin::Once;

use crate::environment;
use crate::fd_writer::say;

/// The page source of both allocators. When it runs out of pages, it shrinks the caches and tries
/// again.
pub(crate) type Source = Reclaiming<&'static Pages, Caches>;
/// The allocator without checks.
pub(crate) type Plain = Kmalloc<(Source, HeapThreads), Off>;
/// The hardened allocator.
pub(crate) type Checked = Kmalloc<(Source, HeapThreads), Hardened>;

/// The plain allocator. The first request sets it up, unless the checked one is wanted (I2).
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

/// Whether the checked allocator is wanted: `UNKNOWN`, `NO` or `YES`.
static WANTED: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0;
const NO: u8 = 1;
const YES: u8 = 2;

/// Evaluates `$body` with the allocator that serves, as `Some`; `None` where no memory is left to
/// set one up.
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

/// Returns the allocator that serves requests, and sets it up if necessary.
#[cold]
#[inline(never)]
pub(crate) fn serving() -> Option<Heap> {
    if checks_are_wanted() {
        CHECKED.kmalloc().ok().map(Heap::Checked)
    } else {
        PLAIN.kmalloc().ok().map(Heap::Plain)
    }
}

/// Returns the allocator that serves requests if it has been set up.
pub(crate) fn existing() -> Option<Heap> {
    PLAIN.get().map(Heap::Plain).or_else(|| CHECKED.get().map(Heap::Checked))
}

/// Returns the pages of the process, or `None` when no address space could be reserved.
pub(crate) fn pages() -> Option<&'static Pages> {
    // A failed reservation is not tried again: the address space is smallest at the start.
    static PAGES: Once<Option<Pages>> = Once::new();
    PAGES.call_once(make_pages).as_ref()
}

fn make_pages() -> Option<Pages> {
    let pages = Pages::new().ok()?.with_trim_hook(trim_caches);
    Some(match environment::purge_delay() {
        Some(delay) => pages.with_purge_delay(delay),
        None => pages,
    })
}

/// The trim hook: the pages call it at the end of each interval of their decay.
fn trim_caches(trim: Trim) {
    match existing() {
        Some(Heap::Plain(heap)) => trim_registry(heap.registry(), trim),
        Some(Heap::Checked(heap)) => trim_registry(heap.registry(), trim),
        None => {}
    }
}

fn trim_registry(registry: &Registry<(Source, HeapThreads)>, trim: Trim) {
    match trim {
        Trim::Surplus => registry.age(),
        Trim::All => _ = registry.shrink_own(),
    }
}

fn registry() -> Result<Registry<(Source, HeapThreads)>, OutOfMemory> {
    let pages = pages().ok_or(OutOfMemory)?;
    pages.decay_at_misses();
    Registry::with_fault_hook(Reclaiming::new(pages, Caches), WithSlotStride(Threads), stop)
}

fn checks_are_wanted() -> bool {
    // Relaxed: every thread that reads `UNKNOWN` computes the same answer.
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

/// The fault hook: writes the fault to standard error and aborts.
fn stop(fault: &Fault) {
    let Fault { kind, place, .. } = fault;
    say(
        2,
        format_args!(
            "kmalloc: {} at {place}: {kind}
",
            kind.name()
        ),
    );
    // SAFETY: `abort` has no preconditions.
    unsafe { libc::abort() };
}

/// The caches of the allocator that serves, as a shrinker for the page source.
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
