//! Statistics for people and files, in the format of the kernel's slabinfo.
//!
//! `KMALLOC_STATS=1` writes to a copy of standard error that is made when the library is loaded,
//! because many programs close theirs before they end. Any other value names a file, in which `%p`
//! stands for the process number. The library writes the file when it is loaded, so that a user
//! learns at once when it cannot be written. A thread rewrites it at intervals, and so does each
//! call of `malloc_stats` and `malloc_trim`, and the end of the program.

use core::ffi::c_int;
use core::fmt::Write;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use core::time::Duration;

use hosted::{Background, Threads};
use page_frame::{Cpu, PAGE_SIZE};

use crate::environment;
use crate::errno::{failures, reset_failures};
use crate::fd_writer::{FdWriter, say};
use crate::heap::{Heap, existing, pages, serving, with_heap};
use crate::stats_file::{self, WriteError};

/// The file descriptor for the statistics of `KMALLOC_STATS=1`; negative when there is none.
static TO: AtomicI32 = AtomicI32::new(-1);
/// Device and inode number of `TO` at the start. A program may close all descriptors and later
/// reuse the number for another file.
static TO_WHAT: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
/// The minimum descriptor numbers for the copy of standard error, so that it does not take a number
/// that the program expects. The second is for processes with a low descriptor limit.
const COPIES_FROM: [c_int; 2] = [100, 10];

/// Whether a thread is writing the file.
static IS_WRITING: AtomicBool = AtomicBool::new(false);
/// How often another writer checks `IS_WRITING` before it gives up: it may be a signal handler that
/// has interrupted the first writer.
const MAX_LOOKS: usize = 1000;

/// Interval at which the thread writes the file: its maximum age, apart from the time that writing
/// takes.
const FILE_INTERVAL: Duration = Duration::from_millis(500);

/// Starts the thread that keeps the file current. Where no thread can be started, the file is as
/// old as the last call that writes it. A child of `fork` has no such thread and starts its own.
fn keep_file_current() {
    // The thread ends with the process.
    core::mem::forget(Background::start(c"kmalloc-stats", FILE_INTERVAL, &(), |()| write_file()));
}

/// Reads `KMALLOC_STATS` and prepares its output. Reports on standard error when that is not
/// possible.
pub(crate) fn start() {
    environment::stats(|value| {
        if value == b"1" {
            start_on_standard_error();
            return;
        }
        // Sets the allocator up, so that the first file has something to show.
        let _ = serving();
        match stats_file::set_path(value).and_then(|()| written()) {
            Ok(()) => keep_file_current(),
            Err(why) => {
                stats_file::forget();
                let name = value.escape_ascii();
                say(2, format_args!("kmalloc: no statistics, KMALLOC_STATS={name}: {why}\n"));
            }
        }
    });
}

fn start_on_standard_error() {
    // SAFETY: `F_DUPFD_CLOEXEC` only adds a descriptor.
    let copy = |from: &c_int| unsafe { libc::fcntl(2, libc::F_DUPFD_CLOEXEC, *from) };
    let Some(to) = COPIES_FROM.iter().map(copy).find(|to| *to >= 0) else { return };
    // Relaxed, here and below: the thread that ends the process reads them.
    if let Some(what) = what_is(to) {
        TO_WHAT.iter().zip(what).for_each(|(at, number)| at.store(number, Ordering::Relaxed));
        TO.store(to, Ordering::Relaxed);
    }
}

/// Returns device and inode number of an open file.
fn what_is(descriptor: c_int) -> Option<[u64; 2]> {
    // SAFETY: `stat` consists of integers, so all zero is a valid value.
    let mut found: libc::stat = unsafe { core::mem::zeroed() };
    // SAFETY: `found` is a valid place for the result.
    let outcome = unsafe { libc::fstat(descriptor, &raw mut found) };
    (outcome == 0).then_some([found.st_dev, found.st_ino])
}

/// Prepares statistics in a child after a fork. The child has inherited the copy of standard error.
pub(crate) fn start_in_child() {
    reset_failures();
    // The thread that was writing does not exist in the child.
    IS_WRITING.store(false, Ordering::Relaxed);
    if stats_file::is_named() {
        keep_file_current();
    }
}

/// Writes the last statistics of the process.
pub(crate) fn end() {
    let to = TO.load(Ordering::Relaxed);
    if to >= 0 && what_is(to) == Some(TO_WHAT.each_ref().map(|at| at.load(Ordering::Relaxed))) {
        let _ = write_to(to);
    }
    write_file();
}

/// Writes the statistics to the file that the user named, if any. On an error the old file stays.
pub(crate) fn write_file() {
    let _ = written();
}

fn written() -> Result<(), WriteError> {
    if !stats_file::is_named() {
        return Ok(());
    }
    // Acquire and Release order one writer of the file after the other.
    let mut round = 0;
    while IS_WRITING.swap(true, Ordering::Acquire) {
        if round == MAX_LOOKS {
            return Ok(());
        }
        Threads.wait(round);
        round += 1;
    }
    let outcome = stats_file::replace(write_to);
    IS_WRITING.store(false, Ordering::Release);
    outcome
}

fn write_to(file: c_int) -> Result<(), c_int> {
    let mut out = FdWriter::new(file);
    // Skips an allocator that is being set up: its own set-up may have called this function, and
    // would wait for itself.
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
    let failures = failures();
    let _ = writeln!(
        out,
        "# pages: {held} held, {large} of them in large allocations; {idle} free ones with memory; {failures} requests failed"
    );
    out.finish()
}

/// Returns the free pages that `malloc_trim` leaves to the process.
fn trim_reserve_pages() -> usize {
    (128 << 10) / PAGE_SIZE + held_pages().0 / 64
}

/// Returns the pages that the allocator holds, and those of them in large allocations.
pub(crate) fn held_pages() -> (usize, usize) {
    match existing() {
        Some(Heap::Plain(heap)) => (heap.pages_held(), heap.large_pages()),
        Some(Heap::Checked(heap)) => (heap.pages_held(), heap.large_pages()),
        None => (0, 0),
    }
}

/// Returns unused memory to the system, except `keep_bytes` bytes and a reserve: 128 KiB and 1/64
/// of the memory in use. Returns none while at most two reserves are unused. A program that trims
/// often would otherwise fault the same pages in each time. (glibc's reserve is 128 KiB.) Returns 1
/// if any memory was returned, otherwise 0.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn malloc_trim(keep_bytes: usize) -> c_int {
    if existing().is_none() {
        return 0;
    }
    with_heap!(|heap| heap.shrink_all());
    let purged = pages().map_or(0, |pages| {
        let (keep, reserve) = (keep_bytes / PAGE_SIZE, trim_reserve_pages());
        let is_worth_it = pages.idle_pages() > keep.saturating_add(2 * reserve);
        if is_worth_it { pages.purge(keep.saturating_add(reserve)) } else { 0 }
    });
    write_file();
    c_int::from(purged > 0)
}

/// Writes statistics to standard error, and to the file that the user named.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn malloc_stats() {
    if existing().is_some() {
        let _ = write_to(2);
        write_file();
    }
}
