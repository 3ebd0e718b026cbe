//! What can be said about memory: to people and files as the kernel's slabinfo, to programs by `mallinfo2`.
//!
//! `KMALLOC_STATS=1` writes to where standard error was when the library was loaded, as many programs close theirs before
//! they end. Any other value names a file, `%p` in it standing for the process's number. It is written when the library is loaded,
//! so that a user whose file cannot be written hears of it; a thread keeps it current while the program runs (`current`), and it is
//! exact when the program ends and each time `malloc_stats` or `malloc_trim` is called.

use core::ffi::c_int;
use core::fmt::Write;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};

use hosted::Threads;
use page_frame::{Cpu, PAGE_SIZE};

use crate::file::Unwritten;
use crate::heap::{Heap, existing, pages, serving, with_heap};
use crate::out::{Out, say};
use crate::{current, environment, file};

/// Where statistics go at the end; below zero: nowhere.
static TO: AtomicI32 = AtomicI32::new(-1);
/// What that was at the start, as device and number: programs that close all descriptors have others under the same number later.
static TO_WHAT: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
/// From which number on the copy of standard error is put, out of the way of the program's own; the second is for whom few are
/// allowed.
const COPIES_FROM: [c_int; 2] = [100, 10];
/// Requests that failed.
static FAILURES: AtomicUsize = AtomicUsize::new(0);

/// Whether somebody is writing the file, and how often others look whether it still is so. Then they pass: a signal handler may
/// have come upon the writer.
static IS_WRITING: AtomicBool = AtomicBool::new(false);
const MOST_LOOKS: usize = 1000;

/// Notes where statistics are to go. Says so if they cannot go there.
pub(crate) fn start() {
    environment::stats(|value| {
        if value == b"1" {
            start_on_standard_error();
            return;
        }
        // So that there is something to write.
        let _ = serving();
        match file::name(value).and_then(|()| written()) {
            Ok(()) => current::start(),
            Err(why) => {
                file::forget();
                let name = value.escape_ascii();
                say(2, format_args!("kmalloc: no statistics, KMALLOC_STATS={name}: {why}\n"));
            }
        }
    });
}

fn start_on_standard_error() {
    // SAFETY: a copy of standard error.
    let copy = |from: &c_int| unsafe { libc::fcntl(2, libc::F_DUPFD_CLOEXEC, *from) };
    let Some(to) = COPIES_FROM.iter().map(copy).find(|to| *to >= 0) else { return };
    // Relaxed, here and below: read when the process ends, by the thread that ends it.
    if let Some(what) = what_is(to) {
        TO_WHAT.iter().zip(what).for_each(|(at, number)| at.store(number, Ordering::Relaxed));
        TO.store(to, Ordering::Relaxed);
    }
}

/// Returns the device and the number of what a descriptor stands for.
fn what_is(descriptor: c_int) -> Option<[u64; 2]> {
    // SAFETY: all zero is a value of it.
    let mut found: libc::stat = unsafe { core::mem::zeroed() };
    // SAFETY: the answer is ours.
    let outcome = unsafe { libc::fstat(descriptor, &raw mut found) };
    (outcome == 0).then_some([found.st_dev, found.st_ino])
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
    if to >= 0 && what_is(to) == Some(TO_WHAT.each_ref().map(|at| at.load(Ordering::Relaxed))) {
        let _ = write_to(to);
    }
    write_file();
}

/// Writes the statistics to the file that the user named, if any; where that fails it stays as it was.
pub(crate) fn write_file() {
    let _ = written();
}

fn written() -> Result<(), Unwritten> {
    if !file::is_named() {
        return Ok(());
    }
    // Acquire and Release: the file is written by one after the other.
    let mut round = 0;
    while IS_WRITING.swap(true, Ordering::Acquire) {
        if round == MOST_LOOKS {
            return Ok(());
        }
        Threads.wait(round);
        round += 1;
    }
    let outcome = file::replace(write_to);
    IS_WRITING.store(false, Ordering::Release);
    outcome
}

fn write_to(file: c_int) -> Result<(), c_int> {
    let mut out = Out::new(file);
    // One that is being set up is not there yet; waiting for it would be in vain for whoever sets it up.
    let outcome = match existing() {
        Some(Heap::Plain(heap)) => heap.registry().slabinfo(&mut out),
        Some(Heap::Checked(heap)) => heap.registry().slabinfo(&mut out),
        None => return Err(libc::ENOMEM),
    };
    if outcome.is_err() {
        return out.finish();
    }
    let (held, large) = held_pages();
    let idle = pages().map_or(0, |pages| pages.idle_pages());
    let failures = FAILURES.load(Ordering::Relaxed);
    let _ = writeln!(
        out,
        "# pages: {held} held, {large} of them in large allocations; {idle} free ones with memory; {failures} requests failed"
    );
    out.finish()
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
    let given = pages().map_or(0, |pages| pages.purge(keep_bytes / PAGE_SIZE));
    write_file();
    c_int::from(shrunk + given > 0)
}

/// Writes statistics to standard error, and to the file that the user named.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn malloc_stats() {
    if existing().is_some() {
        let _ = write_to(2);
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
