//! What can be said about memory: to people and files as the kernel's slabinfo, to programs by `mallinfo2`.
//!
//! `KMALLOC_STATS=1` writes to where standard error was when the library was loaded, as many programs close theirs before
//! they end. Any other value names a file, `%p` in it standing for the process's number; a thread keeps it current while the
//! program runs (`current`), and it is exact when the program ends and each time `malloc_stats` or `malloc_trim` is called.

use core::ffi::c_int;
use core::fmt::Write;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

use hosted::Threads;
use page_frame::{Cpu, PAGE_SIZE};

use crate::heap::{Heap, existing, pages, with_heap};
use crate::out::Out;
use crate::{current, environment, file};

/// Where statistics go at the end; below zero: nowhere.
static TO: AtomicI32 = AtomicI32::new(-1);
/// Requests that failed.
static FAILURES: AtomicUsize = AtomicUsize::new(0);

/// Whether somebody is writing the file, and how often others look whether it still is so. Then they pass: a signal handler may have
/// come upon the writer.
static IS_WRITING: AtomicBool = AtomicBool::new(false);
const MOST_LOOKS: usize = 1000;

/// Notes where statistics are to go.
pub(crate) fn start() {
    environment::stats(|value| {
        if value == b"1" {
            // SAFETY: a copy of standard error, out of the way of the program's own.
            let copy = unsafe { libc::fcntl(2, libc::F_DUPFD_CLOEXEC, 100) };
            TO.store(copy, Ordering::Relaxed);
        } else if file::name(value) {
            current::start();
        }
    });
}

/// The same in a child after a fork, which has its own standard error already.
pub(crate) fn start_in_child() {
    FAILURES.store(0, Ordering::Relaxed);
    // Whoever wrote is not in the child.
    IS_WRITING.store(false, Ordering::Relaxed);
    if file::is_named() {
        current::start();
    }
}

/// Counts a request that failed.
pub(crate) fn note_failure() {
    FAILURES.fetch_add(1, Ordering::Relaxed);
}

/// Writes the statistics of a process that ends.
pub(crate) fn end() {
    let to = TO.load(Ordering::Relaxed);
    if to >= 0 {
        write_to(to);
    }
    write_file();
}

/// Writes the statistics to the file that the user named, if any.
pub(crate) fn write_file() {
    if !file::is_named() {
        return;
    }
    // Acquire and Release: the file is written by one after the other.
    let mut round = 0;
    while IS_WRITING.swap(true, Ordering::Acquire) {
        if round == MOST_LOOKS {
            return;
        }
        Threads.wait(round);
        round += 1;
    }
    file::replace(write_to);
    IS_WRITING.store(false, Ordering::Release);
}

fn write_to(file: c_int) {
    let mut out = Out::new(file);
    // One that is being set up is not there yet; waiting for it would be in vain for whoever sets it up.
    let outcome = match existing() {
        Some(Heap::Plain(heap)) => heap.registry().slabinfo(&mut out),
        Some(Heap::Checked(heap)) => heap.registry().slabinfo(&mut out),
        None => return,
    };
    if outcome.is_err() {
        return;
    }
    let (held, large) = held_pages();
    let idle = pages().map_or(0, |pages| pages.idle_pages());
    let failures = FAILURES.load(Ordering::Relaxed);
    let _ = writeln!(
        out,
        "# pages: {held} held, {large} of them in large allocations; {idle} free ones with memory; {failures} requests failed"
    );
}

fn held_pages() -> (usize, usize) {
    match existing() {
        Some(Heap::Plain(heap)) => (heap.pages_held(), heap.large_pages()),
        Some(Heap::Checked(heap)) => (heap.pages_held(), heap.large_pages()),
        None => (0, 0),
    }
}

/// Gives memory that the program does not use back to the system, but for `keep_bytes`; returns whether there was any.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn malloc_trim(keep_bytes: usize) -> c_int {
    if existing().is_none() {
        return 0;
    }
    let shrunk = with_heap!(|heap| heap.shrink_all()).unwrap_or(0);
    let given = pages().map_or(0, |pages| pages.give_back(keep_bytes / PAGE_SIZE));
    write_file();
    c_int::from(shrunk + given > 0)
}

/// Writes statistics to standard error, and to the file that the user named.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn malloc_stats() {
    if existing().is_some() {
        write_to(2);
        write_file();
    }
}

/// Returns what the C library's structure has room for: bytes held, in use and free.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn mallinfo2() -> libc::mallinfo2 {
    let (held, large) = held_pages();
    let mut in_use = large * PAGE_SIZE;
    let mut objects = 0;
    if existing().is_some() {
        with_heap!(|heap| heap.registry().stats(|cache| {
            in_use += cache.objects_active * cache.object_size;
            objects += cache.objects_active;
        }));
    }
    let idle = pages().map_or(0, |pages| pages.idle_pages());
    libc::mallinfo2 {
        arena: (held + idle - large) * PAGE_SIZE,
        ordblks: objects,
        smblks: 0,
        hblks: 0,
        hblkhd: large * PAGE_SIZE,
        usmblks: 0,
        fsmblks: 0,
        uordblks: in_use,
        fordblks: (held + idle) * PAGE_SIZE - in_use.min(held * PAGE_SIZE),
        keepcost: idle * PAGE_SIZE,
    }
}
