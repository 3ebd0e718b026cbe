//! Statistics and options for programs, as glibc has them: `mallinfo`, `mallinfo2`, `malloc_info`,
//! `mallopt`.
//!
//! Large allocations count as blocks that glibc would have mapped (`hblks`, `hblkhd`). All others
//! count as blocks in use (`uordblks`).

use core::ffi::{c_int, c_void};
use core::fmt::{self, Write};

use page_frame::PAGE_SIZE;

use crate::errno::set_errno;
use crate::heap::{existing, pages, with_heap};
use crate::stats::held_pages;

/// Bytes and counts of all memory of this library.
struct Totals {
    /// Bytes in pages of caches, and free bytes with memory.
    arena: usize,
    objects: usize,
    /// Bytes of the objects in use.
    in_use: usize,
    /// Bytes of large allocations.
    large: usize,
    /// Bytes of free pages with memory.
    idle: usize,
}

impl Totals {
    fn now() -> Self {
        let (held, large) = held_pages();
        let (mut objects, mut in_use) = (0, 0);
        let idle = match existing() {
            Some(_) => {
                with_heap!(|heap| heap.registry().stats(|cache| {
                    in_use += cache.objects_in_use() * cache.object_size;
                    objects += cache.objects_in_use();
                }));
                pages().map_or(0, |pages| pages.idle_pages())
            }
            None => 0,
        };
        Self {
            arena: (held + idle - large) * PAGE_SIZE,
            objects,
            in_use,
            large: large * PAGE_SIZE,
            idle: idle * PAGE_SIZE,
        }
    }

    /// Free bytes: in the pages of caches, and in free pages with memory.
    fn free(&self) -> usize {
        self.arena.saturating_sub(self.in_use)
    }
}

/// Returns the bytes held, in use and free, as far as the C library's structure has fields for
/// them.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn mallinfo2() -> libc::mallinfo2 {
    let totals = Totals::now();
    libc::mallinfo2 {
        arena: totals.arena,
        ordblks: totals.objects,
        smblks: 0,
        hblks: usize::from(totals.large > 0),
        hblkhd: totals.large,
        usmblks: 0,
        fsmblks: 0,
        uordblks: totals.in_use,
        fordblks: totals.free(),
        keepcost: totals.idle,
    }
}

/// Returns the same as `mallinfo2` in fields of 32 bits, which wrap around as in glibc.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn mallinfo() -> libc::mallinfo {
    let now = mallinfo2();
    libc::mallinfo {
        arena: now.arena as c_int,
        ordblks: now.ordblks as c_int,
        smblks: 0,
        hblks: now.hblks as c_int,
        hblkhd: now.hblkhd as c_int,
        usmblks: 0,
        fsmblks: 0,
        uordblks: now.uordblks as c_int,
        fordblks: now.fordblks as c_int,
        keepcost: now.keepcost as c_int,
    }
}

/// Accepts the options of glibc, none of which this library has. Returns 0 only for a value that
/// glibc refuses.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn mallopt(option: c_int, value: c_int) -> c_int {
    const M_MXFAST: c_int = 1;
    /// The maximum in glibc, for 64 bits.
    const MAX_FAST: c_int = 160;
    c_int::from(option != M_MXFAST || (0..=MAX_FAST).contains(&value))
}

/// Writes the totals as XML in the form of glibc: one heap, the sums, no list of sizes. Returns 0,
/// or for unknown options `EINVAL`.
///
/// # Safety
/// 1. `to` is an open stream of the C library.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn malloc_info(options: c_int, to: *mut libc::FILE) -> c_int {
    if options != 0 {
        return libc::EINVAL;
    }
    let totals = Totals::now();
    let mut out = Stream { to, length: 0, buffer: [0; 512] };
    let outcome = write_xml(&mut out, &totals);
    out.flush();
    match outcome {
        Ok(()) => 0,
        Err(fmt::Error) => {
            set_errno(libc::EIO);
            -1
        }
    }
}

fn write_xml(out: &mut Stream, totals: &Totals) -> fmt::Result {
    let Totals { arena, objects, in_use, large, .. } = totals;
    let (free, blocks, all) = (totals.free(), u8::from(*large > 0), arena + large);
    writeln!(out, "<malloc version=\"1\">\n<heap nr=\"0\">\n<sizes>\n</sizes>")?;
    let sums = |out: &mut Stream| {
        writeln!(out, "<total type=\"fast\" count=\"0\" size=\"0\"/>")?;
        writeln!(out, "<total type=\"rest\" count=\"{objects}\" size=\"{free}\"/>")
    };
    let system = |out: &mut Stream, bytes: usize| {
        writeln!(out, "<system type=\"current\" size=\"{bytes}\"/>")?;
        writeln!(out, "<system type=\"max\" size=\"{bytes}\"/>")?;
        writeln!(out, "<aspace type=\"total\" size=\"{bytes}\"/>")?;
        writeln!(out, "<aspace type=\"mprotect\" size=\"{bytes}\"/>")
    };
    sums(out)?;
    system(out, *arena)?;
    writeln!(out, "</heap>")?;
    sums(out)?;
    writeln!(out, "<total type=\"mmap\" count=\"{blocks}\" size=\"{large}\"/>")?;
    writeln!(out, "<total type=\"used\" count=\"{objects}\" size=\"{in_use}\"/>")?;
    system(out, all)?;
    writeln!(out, "</malloc>")
}

/// A stream of the C library, with a buffer of its own.
struct Stream {
    to: *mut libc::FILE,
    length: usize,
    buffer: [u8; 512],
}

impl Stream {
    fn flush(&mut self) {
        let (start, length) = (self.buffer.as_ptr().cast::<c_void>(), self.length);
        // SAFETY: clause 1 of `malloc_info` for the stream; the buffer has that many bytes.
        unsafe { libc::fwrite(start, 1, length, self.to) };
        self.length = 0;
    }
}

impl Write for Stream {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.length == self.buffer.len() {
                self.flush();
            }
            self.buffer[self.length] = byte;
            self.length += 1;
        }
        Ok(())
    }
}
