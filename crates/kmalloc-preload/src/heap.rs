//! The two allocators of a process, and which of them serves requests.
//!
//! # Concepts
//! A program runs on one of two instances for its whole life: the **plain** one, or with
//! `KMALLOC_CHECK` the **checked** one, whose caches are hardened. The C functions try the plain
//! one first, which costs one load and one comparison. Where it does not exist they call `serving`.
//!
//! Set-up calls functions that may allocate themselves. The thread that sets up is noted, and its
//! requests get memory from `early.rs`.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use hosted::{
    DEPOT_BYTES, HeapThreads, MAGAZINE_BYTES, MIN_OBJECTS, OsError, Pages, Threads, Trim,
};
use kmalloc::{Global, Kmalloc};
use page_frame::{
    Cpu, Fault, FaultKind, OutOfMemory, PageResize, Reclaiming, Shrink, WithSlotStride,
};
use slab::{Hardened, Off, Registry};
use spin::Once;

use crate::environment;
use crate::fd_writer::say;
use crate::guard_pages::GuardPages;
use crate::{early, foreign, space};

/// The page source of both allocators. When it runs out of pages, it shrinks the caches and tries
/// again.
pub(crate) type Source = Reclaiming<&'static Pages, Caches>;
/// The allocator without checks.
pub(crate) type Plain = Kmalloc<(Source, HeapThreads), Off>;
/// The page source of the hardened allocator: large allocations end at a page without access.
pub(crate) type CheckedSource = GuardPages<Source>;
/// The hardened allocator.
pub(crate) type Checked = Kmalloc<(CheckedSource, HeapThreads), Hardened>;

/// The plain allocator. The first request sets it up, unless the checked one is wanted (I2).
pub(crate) static PLAIN: Global<(Source, HeapThreads), Off> = Global::new(|| {
    if checks_are_wanted() {
        return Err(OutOfMemory);
    }
    let kmalloc = Kmalloc::with_hardening(registry(source()?)?).with_magazine_bytes(MAGAZINE_BYTES);
    Ok(kmalloc.with_depot_bytes(DEPOT_BYTES).with_min_objects(MIN_OBJECTS))
});
static CHECKED: Global<(CheckedSource, HeapThreads), Hardened> = Global::new(|| {
    let kmalloc = Kmalloc::with_hardening(registry(GuardPages(source()?))?);
    Ok(kmalloc.with_min_objects(MIN_OBJECTS).with_secret(environment::random_bits()))
});

/// Whether the checked allocator is wanted: `UNKNOWN`, `NO` or `YES`.
static WANTED: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0;
const NO: u8 = 1;
const YES: u8 = 2;

/// The thread that sets an allocator up; zero while none does.
static SETTING_UP: AtomicUsize = AtomicUsize::new(0);

/// Evaluates `$body` with the allocator that serves, as `Some`. `None` where no memory is left to
/// set one up, and on the thread that is setting one up.
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
    existing().or_else(|| {
        set_up(|| {
            if checks_are_wanted() {
                CHECKED.kmalloc().ok().map(Heap::Checked)
            } else {
                PLAIN.kmalloc().ok().map(Heap::Plain)
            }
        })?
    })
}

/// Calls `make` and notes that this thread sets up; returns `None` if it already does. Other
/// threads wait.
fn set_up<R>(make: impl FnOnce() -> R) -> Option<R> {
    // SAFETY: has no arguments and returns the identity of the thread, which is not zero.
    let own = unsafe { libc::pthread_self() as usize };
    let mut round = 0;
    loop {
        // Relaxed: the allocators publish themselves; a thread always sees its own identity.
        match SETTING_UP.compare_exchange(0, own, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => break,
            Err(thread) if thread == own => return None,
            Err(_) => Threads.wait(round),
        }
        round += 1;
    }
    // `build.rs` links the library so.
    hosted::assume_never_unloaded();
    let made = make();
    SETTING_UP.store(0, Ordering::Relaxed);
    Some(made)
}

/// Allocates for a request that `serving` had no allocator for: from `early.rs` if this thread is
/// setting one up.
///
/// # Errors
/// [`OutOfMemory`] where the set-up failed, or the early memory is used up.
#[cold]
pub(crate) fn allocate_early(bytes: usize, alignment: usize) -> Result<NonNull<u8>, OutOfMemory> {
    // SAFETY: has no arguments.
    let own = unsafe { libc::pthread_self() as usize };
    if SETTING_UP.load(Ordering::Relaxed) != own {
        return Err(OutOfMemory);
    }
    early::allocate(bytes, alignment)
}

/// Returns the allocator that serves requests if it has been set up.
pub(crate) fn existing() -> Option<Heap> {
    PLAIN.get().map(Heap::Plain).or_else(|| CHECKED.get().map(Heap::Checked))
}

/// Returns the pages of the process, or `None` when no address space could be claimed.
pub(crate) fn pages() -> Option<&'static Pages> {
    static PAGES: Once<Pages> = Once::new();
    PAGES.try_call_once(make_pages).ok()
}

fn make_pages() -> Result<Pages, OsError> {
    let pages = Pages::new()?.with_trim_hook(trim_caches);
    space::set(pages.start().addr().get(), pages.space_bytes());
    Ok(match environment::purge_delay() {
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

fn trim_registry<P: PageResize>(registry: &Registry<(P, HeapThreads)>, trim: Trim) {
    match trim {
        Trim::Surplus => registry.age(),
        Trim::All => _ = registry.shrink_own(),
    }
}

fn source() -> Result<Source, OutOfMemory> {
    let pages = pages().ok_or(OutOfMemory)?;
    pages.decay_at_misses();
    Ok(Reclaiming::new(pages, Caches))
}

fn registry<P: PageResize>(source: P) -> Result<Registry<(P, HeapThreads)>, OutOfMemory> {
    Registry::with_fault_hook(source, WithSlotStride(Threads), stop)
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

/// The fault hook: hands an address outside the space to the allocator that it may be from. Writes
/// any other fault to standard error and aborts.
pub(crate) fn stop(fault: &Fault) {
    let Fault { kind, place, .. } = fault;
    if let (FaultKind::ForeignPointer, Some(address)) = (kind, fault.address()) {
        let start = core::ptr::with_exposed_provenance_mut::<u8>(address);
        // SAFETY: clause 1: only `free` reports addresses outside the space: `realloc` looks
        // first. The caller of `free` gives the memory up.
        if NonNull::new(start).is_some_and(|start| unsafe { foreign::free(start) }) {
            return;
        }
    }
    let name = kind.name();
    match fault.cache {
        Some(cache) => say(2, format_args!("kmalloc: {name} at {place}: {kind} ({cache})\n")),
        None => say(2, format_args!("kmalloc: {name} at {place}: {kind}\n")),
    }
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
