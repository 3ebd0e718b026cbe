//! What can be said about memory: to people and files as the kernel's slabinfo, to programs by `mallinfo2`.
//!
//! `KMALLOC_STATS=1` writes to where standard error was when the library was loaded, as many programs close theirs before
//! they end. Any other value names a file, `%p` in it standing for the process's number; it is written when the process
//! ends, and each time `malloc_stats` or `malloc_trim` is called.

use std::ffi::{c_char, c_int};
use std::fmt::Write;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use page_frame::PAGE_SIZE;

use crate::environment;
use crate::heap::{Heap, existing, pages, with_heap};
use crate::out::Out;

/// Where statistics go at the end; below zero: nowhere.
static TO: AtomicI32 = AtomicI32::new(-1);
/// Requests that failed.
static FAILURES: AtomicUsize = AtomicUsize::new(0);

/// Notes where statistics are to go.
pub(crate) fn start() {
    environment::stats(|value| {
        if value == b"1" {
            // SAFETY: a copy of standard error, out of the way of the program's own.
            let copy = unsafe { libc::fcntl(2, libc::F_DUPFD_CLOEXEC, 100) };
            TO.store(copy, Ordering::Relaxed);
        }
    });
}

/// The same in a child after a fork, which has its own standard error already.
pub(crate) fn start_in_child() {
    FAILURES.store(0, Ordering::Relaxed);
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

/// Writes the statistics to the file that the user named, whole or not at all.
fn write_file() {
    const MOST: usize = 4000;
    environment::stats(|value| {
        if value == b"1" || value.len() > MOST {
            return;
        }
        let mut name = FileName { bytes: [0; MOST + 100], length: 0 };
        name.push_all(value);
        name.push_all(b".new");
        // SAFETY: creates a file; the name ends with zero.
        let file = unsafe {
            libc::open(name.as_ptr(), libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC, 0o644)
        };
        if file < 0 {
            return;
        }
        write_to(file);
        // SAFETY: opened above.
        unsafe { libc::close(file) };
        let mut last = FileName { bytes: [0; MOST + 100], length: 0 };
        last.push_all(value);
        // SAFETY: both names end with zero.
        unsafe { libc::rename(name.as_ptr(), last.as_ptr()) };
    });
}

/// A file's name in memory of its own, `%p` replaced, zeros behind it.
struct FileName {
    bytes: [u8; 4100],
    length: usize,
}

impl FileName {
    fn push_all(&mut self, text: &[u8]) {
        let mut rest = text;
        while let Some((first, behind)) = rest.split_first() {
            if rest.starts_with(b"%p") {
                let _ = write!(self, "{}", std::process::id());
                rest = &rest[2..];
                continue;
            }
            self.push(*first);
            rest = behind;
        }
    }

    fn push(&mut self, byte: u8) {
        if self.length + 1 < self.bytes.len() {
            self.bytes[self.length] = byte;
            self.length += 1;
        }
    }

    fn as_ptr(&self) -> *const c_char {
        self.bytes.as_ptr().cast()
    }
}

impl Write for FileName {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        text.bytes().for_each(|byte| self.push(byte));
        Ok(())
    }
}

fn write_to(file: c_int) {
    let mut out = Out::new(file);
    let outcome = with_heap!(|heap| heap.registry().slabinfo(&mut out));
    if !matches!(outcome, Some(Ok(()))) {
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
